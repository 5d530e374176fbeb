"""Fixtures: configurations of labelled rows."""

from tests.clicks import forget_labelled_rows, make  # noqa: F401
