"""Fixtures: the made-up dataset `toy`, and configurations for it of candidates and of labelled rows."""

from tests.clicks import forget_labelled_rows, make  # noqa: F401
from tests.toy import forget_candidate_sets, make_config, toy_path  # noqa: F401
