"""The splits released with LLaRA: made-up folders of the same form, and the released LastFM one."""

import pytest

from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.convert.__main__ import main
from recbole_llm.data.convert.convert import convert
from recbole_llm.data.convert.files import PublishedFiles
from recbole_llm.data.convert.llara import EVERY, Row, hold_out, recognise
from recbole_llm.data.convert.pickles import RefusedPickle
from tests.data.convert.published import LLARA_FRAMES, PAD, llara, write, write_llara
from tests.data.convert.test_pickles import hostile


def test_llara_writes_one_session_per_row_of_three_or_more(tmp_path, capsys):
    assert main(["lastfm-llara", "--source", str(write_llara(tmp_path / "raw")), "--target", str(tmp_path / "data")]) == 0
    folder = tmp_path / "data/lastfm-llara"
    header = "user_id:token\titem_id:token\titem_id_list:token_seq\n"
    assert (folder / "lastfm-llara.train.inter").read_text() == header + "train-2\t3\t0 1 2\ntrain-3\t4\t0 1 2 3\n"
    assert (folder / "lastfm-llara.valid.inter").read_text() == header + "valid-0\t5\t2 3 4\n"
    assert (folder / "lastfm-llara.test.inter").read_text() == header + "test-0\t0\t1 2 3 4\ntest-1\t1\t5 4 3\n"
    items = (folder / "lastfm-llara.item").read_text(encoding="utf-8").splitlines()
    assert items[:4] == ["item_id:token\tname:token", "0\tMorcheeba", "1\tCafé Del Mar", "2\tA::B"]
    assert "--data_path=" in capsys.readouterr().out


def test_the_converted_split_loads_through_recbole(make_config, tmp_path):
    convert("lastfm-llara", write_llara(tmp_path / "raw"), tmp_path / "data")
    config = make_config(
        dataset="lastfm-llara",
        data_path=str(tmp_path / "data"),
        n_candidates=2,
        load_col={"inter": ["user_id", "item_id", "item_id_list"]},
        benchmark_filename=["train", "valid", "test"],
        alias_of_item_id=["item_id_list"],
    )
    sets = candidate_sets(config)
    assert sets.test.user_ids.tolist() == ["test-0", "test-1"] and sets.valid.item_ids.tolist() == ["5"]


def test_the_released_split_has_122_test_rows(make_config, tmp_path, shared_dir):
    convert("lastfm-llara", shared_dir / "data/lastfm-llara", tmp_path)
    lines = {
        split: len((tmp_path / f"lastfm-llara/lastfm-llara.{split}.inter").read_text().splitlines()) - 1
        for split in ("train", "valid", "test")
    }
    assert lines == {"train": 47_872, "valid": 122, "test": 122}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (([0, 1, PAD, PAD], 3, 2), "row 0: 4606 .* is the padding id"),
        (([0, 1, 2, PAD], 3, PAD), "row 0: 4606 .* is the padding id"),
        (([0, 1, 99, PAD], 3, 2), "row 0: 99 .* is not in id2name.txt"),
        (([0, 1, 2, 3], 7, 2), "row 0: len_seq 7 with 4 ids"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(tmp_path, row, message):
    source = write_llara(tmp_path / "raw", {**LLARA_FRAMES, "Test_data.df": [row]})
    with pytest.raises(ValueError, match=f"Test_data.df, {message}"):
        convert("lastfm-llara", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_missing_and_malformed_sources(tmp_path, capsys):
    source = write_llara(tmp_path / "raw")
    (source / "id2name.txt").write_text("0::a\nnonsense\n")
    with pytest.raises(ValueError, match="id2name.txt, line 2: expected id::name, found 'nonsense'"):
        convert("lastfm-llara", source, tmp_path / "data")
    (source / "train_data.df").unlink()
    assert main(["lastfm-llara", "--source", str(source), "--target", str(tmp_path / "data")]) == 1
    assert "lacks train_data.df (it holds Test_data.df, Val_data.df, id2name.txt). They are published at https" in capsys.readouterr().err


def test_pairs_and_titles_of_the_movielens_split(tmp_path):
    """Ids are u.item's less one, the year leaves the title, ratings leave the history; numpy scalars are numbers."""
    folder = convert("movielens-llara", write(tmp_path / "raw", llara("movielens-llara")), tmp_path / "data")
    items = (folder / "movielens-llara.item").read_text(encoding="utf-8").splitlines()
    assert items[1:4] == ["0\tToy Story", "1\tUsual Suspects, The", "2\tMisérables, Les"] and items[6] == "5\tunknown"
    train = (folder / "movielens-llara.train.inter").read_text().splitlines()
    assert train[1:3] == ["train-2\t3\t0 1 2", "train-3\t4\t0 1 2 3"] and len(train) == 1 + 24
    assert (folder / "movielens-llara.test.inter").read_text().splitlines()[1] == "test-0\t5\t0 1 2 3"


def test_a_steam_split_without_validation_rows_keeps_some_of_training(tmp_path, capsys):
    files = llara("steam-llara", users=25)
    del files["Val_data.df"]
    folder = convert("steam-llara", write(tmp_path / "raw", files), tmp_path / "data")
    train, valid = ((folder / f"steam-llara.{split}.inter").read_text().splitlines()[1:] for split in ("train", "valid"))
    assert [line.split("\t")[0] for line in valid] == ["valid-39", "valid-79"]
    assert len(train) == 50 - 2 and not {line.split("\t")[0].split("-")[1] for line in train} & {"39", "79"}
    assert "Val_data.df is absent; the latest training row of every 10th user, 2 rows, is kept" in capsys.readouterr().out


def test_held_out_targets_are_in_no_training_row_of_the_user():
    rows = [
        Row(100 * user + length, [1000 * user + i for i in range(length)][-10:], 1000 * user + length)
        for user in range(2 * EVERY)
        for length in range(3, 15)
    ]
    train, valid = hold_out(rows)
    assert [row.number for row in valid] == [914, 1914] and len(train) == len(rows) - 2
    used = {item for row in train for item in (*row.history, row.target)}
    assert not used & {row.target for row in valid}
    with pytest.raises(ValueError, match="has 9 users, fewer than 10"):
        hold_out([row for row in rows if row.number < 900])


@pytest.mark.parametrize("dataset", ["movielens-llara", "steam-llara", "lastfm-llara"])
def test_a_split_is_known_by_its_padding_whatever_its_titles(tmp_path, dataset):
    files = llara(dataset)
    for name in ("Val_data.df", "Test_data.df"):  # any frame tells
        del files[name]
    assert recognise(PublishedFiles(write(tmp_path / "raw", files))) == dataset


def test_unknown_splits_are_refused(tmp_path):
    frames = {name: [([0, 1, 2, 77], 3, 3)] for name in LLARA_FRAMES}
    with pytest.raises(ValueError, match=r"holds the files of another split \(padded with 77\), not of lastfm-llara"):
        convert("lastfm-llara", write_llara(tmp_path / "a", frames), tmp_path / "data")
    frames = {name: [([0, 1, 2, 3], 4, 3)] for name in LLARA_FRAMES}
    with pytest.raises(ValueError, match="no history is padded, so that it cannot be told which released split"):
        convert("steam-llara", write_llara(tmp_path / "b", frames), tmp_path / "data")


def test_a_pickle_with_code_is_not_run(tmp_path):
    source = write(tmp_path / "raw", llara("steam-llara") | {"Test_data.df": hostile(tmp_path, "system")})
    with pytest.raises(RefusedPickle, match="Test_data.df names posix.system.*it was not run"):
        convert("steam-llara", source, tmp_path / "data")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "data").exists()
