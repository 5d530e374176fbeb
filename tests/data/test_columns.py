"""Columns that settings name are looked for in the headers of the dataset's files, before any row is read."""

import shutil
from pathlib import Path

import pytest
from recbole.data import create_dataset

from recbole_llm.config.values import ConfigError
from tests import tiny
from tests.config.make import make

INTER, USER = ["user_id", "item_id", "rating", "timestamp"], ["user_id", "age", "gender"]
LOADED = {"inter": INTER, "user": USER}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset whose user file holds tokens; `friend` and `height` are columns of interactions."""
    folder = tiny.write_fields(tiny.write_dataset(tmp_path_factory.mktemp("columns"), n_users=3))
    file = folder / "tiny/tiny.inter"
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join([f"\ufeff{head}\tfriend:token\theight:float", *(f"{line}\tu1\t1.8" for line in lines)]) + "\n", encoding="utf-8")
    return str(folder)


def problems(data_path, model="SASRec", **settings):
    try:
        make(model, settings.pop("dataset", "tiny"), config_dict={"data_path": data_path, **settings})
    except ConfigError as error:
        return error.problems
    return []


WRONG = [
    ({"val_interval": {"rating": "[3,inf)"}, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}},
     "val_interval: 'rating' of tiny.inter is not loaded; add it to load_col: {inter: [...]}"),
    ({"val_interval": {"age": ["21"]}, "load_col": {"inter": INTER}}, "val_interval: 'age' of tiny.user is not loaded; add it to load_col: {user: [...]}"),
    ({"val_interval": {"rating": "[3,inf)"}, "unload_col": {"inter": ["rating"]}, "load_col": None},
     "val_interval: 'rating' of tiny.inter is not loaded; take it out of unload_col"),
    ({"val_interval": {"ratings": "[3,inf)"}, "load_col": None}, "val_interval: tiny has no column 'ratings' (it has user_id, item_id, rating, "),
    ({"val_interval": {"stars": "[3,inf)"}, "load_col": {"inter": [*INTER, "stars"]}}, "val_interval: tiny has no column 'stars' (it has user_id, "),
    ({"val_interval": {"user_id": "[0,5)"}, "load_col": LOADED}, "val_interval: 'user_id' is a token column, and the interval '[0,5)' needs numbers; give"),
    ({"val_interval": {"rating": [3, 4, 5]}, "load_col": LOADED}, "val_interval: 'rating' holds numbers and must have an interval, e.g. '[3,inf)', got"),
    ({"alias_of_user_id": ["x"]}, "alias_of_user_id: tiny has no column 'x' (it has user_id, "),
    ({"alias_of_user_id": ["friend"], "load_col": LOADED}, "alias_of_user_id: 'friend' of tiny.inter is not loaded; add it to load_col"),
    ({"alias_of_user_id": ["height"], "load_col": None}, "alias_of_user_id: 'height' holds numbers, and ids are tokens; leave it out"),
]  # fmt: skip


@pytest.mark.parametrize("model", ["SASRec", "LLaRA"])
@pytest.mark.parametrize("settings, text", WRONG)
def test_columns_that_cannot_be_read_as_asked(data, model, settings, text):
    (line,) = problems(data, model, **settings)
    assert line.startswith(text)


@pytest.mark.parametrize("settings", [
    {"val_interval": {"rating": "[3,inf)", "user_id": ["u1", "u2"], "gender": ["F"]}, "load_col": LOADED},
    {"val_interval": {"rating": [3, 5], "age": ["21"]}, "load_col": None},
    {"val_interval": {"rating": "[3,inf)"}, "load_col": {"inter": "*"}},
    {"alias_of_user_id": ["friend"], "load_col": {"inter": [*INTER, "friend"]}},
    {"val_interval": {"label": "[3,inf)"}, "load_col": None, "dataset": "yet_to_be_fetched"},
])  # fmt: skip
def test_columns_that_are_there(data, settings):
    assert problems(data, **settings) == []


def test_the_files_of_a_dataset_that_is_yet_to_be_fetched_load_what_load_col_names(data):
    given = {"dataset": "yet_to_be_fetched", "val_interval": {"rating": "[3,inf)"}, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    assert problems(data, **given) == ["val_interval: 'rating' of yet_to_be_fetched.inter is not loaded; add it to load_col: {inter: [...]}"]


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LLaRA"])
def test_a_dataset_that_has_been_fetched_is_looked_at_before_its_rows(data, tmp_path, model):
    config = make(model, "tiny", config_dict={"data_path": str(tmp_path), "val_interval": {"ratings": "[3,inf)"}, "load_col": None})
    shutil.copytree(Path(data) / "tiny", tmp_path / "tiny")  # as a download leaves it
    with pytest.raises(ConfigError) as error:
        create_dataset(config)
    assert error.value.problems[0].startswith("val_interval: tiny has no column 'ratings' (it has user_id, item_id, rating, ")


def test_a_header_with_quotes_and_another_separator_is_read_as_rows_are(tmp_path):
    (tmp_path / "quoted").mkdir()
    (tmp_path / "quoted/quoted.inter").write_text('"user_id:token","item_id:token","how, much:float","timestamp:float"\n"u","i",1,2\n')
    given = {"data_path": str(tmp_path), "dataset": "quoted", "field_separator": ",", "load_col": None}
    assert problems(**given, val_interval={"how, much": "[0,inf)"}) == []
    (line,) = problems(**given, val_interval={"how": "[0,inf)"})
    assert line.startswith("val_interval: quoted has no column 'how' (it has user_id, item_id, how, much, timestamp)")


def test_benchmark_files_are_not_filtered_and_name_their_own_lists(data):
    given = {"benchmark_filename": ["train", "valid", "test"], "val_interval": {"nope": "[3,inf)"}, "alias_of_item_id": ["item_id_list"]}
    assert problems(data, **given) == []


def test_a_file_without_a_header_is_named_by_its_reader(data, tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/odd.inter").write_bytes(b"\xff\xfeu\x00\n")
    assert problems(str(tmp_path), dataset="odd", val_interval={"nope": "[3,inf)"}, load_col=None) == []
