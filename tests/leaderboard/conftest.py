"""Fixtures of the leaderboard's tests."""

import gc

import pytest


@pytest.fixture(autouse=True)
def quick_garbage():
    """statsmodels' multipletests collects garbage at every call: let it find none of what was imported."""
    gc.freeze()
