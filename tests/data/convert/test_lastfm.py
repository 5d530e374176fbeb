"""HetRec 2011 Last.fm from made-up files in the published format."""

import pytest

from recbole_llm.data.convert.__main__ import main
from recbole_llm.data.convert.convert import convert
from tests.data.convert.published import TAGS, write_hetrec


def test_lastfm_from_a_folder(tmp_path, capsys):
    arguments = ["lastfm", "--source", str(write_hetrec(tmp_path / "raw")), "--target", str(tmp_path / "data")]
    assert main(arguments) == 0
    folder = tmp_path / "data/lastfm"
    assert (folder / "lastfm.inter").read_text() == (
        "user_id:token\titem_id:token\ttimestamp:float\n2\t52\t1238536800000\n2\t52\t1238536800000\n3\t60\t-428720400000\n"
    )
    assert (folder / "lastfm.item").read_text(
        encoding="utf-8"
    ) == "item_id:token\tname:token\n52\tMorcheeba\n60\tCaf\ufffd\n"
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == ["lastfm"]
    assert main(arguments) == 1
    assert "holds files already; pass --force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("userID\tartistID\ttagID\n", "line 1: expected the columns userID, artistID, tagID, timestamp"),
        (TAGS + "2\tx\t3\t4\n", "line 5: expected four integers, found '2' 'x' '3' '4'"),
        (TAGS + "2\t3\n", "line 5: 2 columns, expected 4"),
        ("userID\tartistID\ttagID\ttimestamp\n", "has no rows"),
    ],
)
def test_bad_lastfm_files_are_named_and_nothing_is_written(tmp_path, tags, message):
    with pytest.raises(ValueError, match=f"timestamps.dat.*{message}"):
        convert("lastfm", write_hetrec(tmp_path / "raw", tags), tmp_path / "data")
    assert not (tmp_path / "data").exists()
