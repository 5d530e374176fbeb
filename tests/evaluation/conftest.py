"""Fixtures: the made-up dataset `toy` and configurations for it."""

from tests.toy import forget_candidate_sets, make_config, toy_path  # noqa: F401
