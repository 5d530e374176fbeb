"""Fixtures: the made-up dataset `toy` and configurations for it."""

import pytest

from tests.data.case_files import inter, items, write
from tests.toy import forget_candidate_sets, make_config, toy_path  # noqa: F401


@pytest.fixture
def case(tmp_path, make_config):  # noqa: F811
    """A function (files, model, **settings) -> config over a dataset with these files."""

    def make(files, model="SASRec", **settings):
        sound = {"inter": inter(), "item": items(separator=settings.pop("item", "\t"))}
        write(tmp_path, sound | files)
        return make_config(model, dataset="case", data_path=str(tmp_path), **{"item_text_field": "title", **settings})

    return make
