"""Steam, Goodreads and Amazon from made-up files in the published formats."""

import json

import pytest

from recbole_llm.data.convert.convert import convert
from recbole_llm.data.convert.goodreads import unix_time
from tests.data.convert.published import amazon, goodreads, steam, write


def text(folder, ending):
    return (folder / f"{folder.name}.{ending}").read_text(encoding="utf-8").splitlines()


def test_steam_reviews_are_literals_of_numbered_users(tmp_path):
    folder = convert("steam", write(tmp_path / "raw", steam()), tmp_path / "data")
    assert text(folder, "inter")[:2] == ["user_id:token\titem_id:token\ttimestamp:float\thours:float", "0\t10\t1512086400\t1.5"]
    assert {line.split("\t")[0] for line in text(folder, "inter")[1:]} == set("012345")
    assert text(folder, "item")[1] == '10\tGame\'s "1"' and "30\tBy app name" in text(folder, "item")


def test_australian_reviews(tmp_path, capsys):
    reviews = [
        {"posted": "Posted November 5, 2011.", "item_id": "10", "recommend": True},
        {"posted": "Posted July 24.", "item_id": "20", "recommend": True},
        {"posted": "Posted February 30, 2012.", "item_id": "20", "recommend": True},
        {"posted": "Posted May 1, 2012.", "item_id": "20", "recommend": False},
    ]
    files = {"australian_user_reviews.json": repr({"user_id": "js41637", "reviews": reviews}) + "\n"}
    folder = convert("steam", write(tmp_path / "raw", files | {"steam_games.json.gz": steam()["steam_games.json.gz"]}), tmp_path / "d")
    assert text(folder, "inter")[1:] == ["0\t10\t1320451200\t1", "0\t20\t1335830400\t0"]
    assert "2 reviews of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["__import__('os').system('touch ran')"] * 3, "steam_reviews.json.gz: 3 of 45 lines are no dict, first line 43"),
        (["(" * 3000] * 3, "3 of 45 lines are no dict"),
        ([repr({"username": "a", "date": "2017-01-01"})], "line 43: expected username, product_id, date and hours .KeyError: 'product_id'"),
    ],
)
def test_lines_that_are_no_records(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    files = steam()
    files["steam_reviews.json.gz"] += "\n".join(lines) + "\n"
    with pytest.raises(ValueError, match=message):
        convert("steam", write(tmp_path / "raw", files), tmp_path / "data")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "data").exists()


def test_one_broken_line_is_left_out_and_said(tmp_path, capsys):
    files = steam()
    files["steam_reviews.json.gz"] += "{u'username': u'half\n"
    folder = convert("steam", write(tmp_path / "raw", files), tmp_path / "data")
    assert len(text(folder, "inter")) == 43
    assert "note: 1 unreadable line of" in capsys.readouterr().out


def test_goodreads_keeps_rated_books_in_time(tmp_path, capsys):
    folder = convert("goodreads", write(tmp_path / "raw", goodreads()), tmp_path / "data")
    assert text(folder, "inter")[1] == "a1\t1\t2\t1498920250" and len(text(folder, "inter")) == 43
    assert text(folder, "item")[1] == "1\tBook 1" and len(text(folder, "item")) == 9
    assert "1 shelvings without a rating left out" in capsys.readouterr().out
    assert unix_time("Sun Jul 30 07:44:10 -0700 2017") == 1501425850


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "a", "book_id": "1", "rating": 4, "date_added": "2017"}', "line 44: expected a rating of 1 to 5 and a date"),
        ('{"user_id": "a", "book_id": "1", "rating": 4}', "line 44: expected an object with user_id, book_id, rating, date_added"),
        ('{"user_id": ', "line 44: not JSON"),
    ],
)
def test_bad_goodreads_lines(tmp_path, line, message):
    files = goodreads()
    files["goodreads_interactions_dedup.json.gz"] += "\n" + line
    with pytest.raises(ValueError, match=message):
        convert("goodreads", write(tmp_path / "raw", files), tmp_path / "data")


def test_goodreads_csv_has_no_times(tmp_path):
    files = {"goodreads_interactions.csv": "user_id,book_id,is_read,rating,is_reviewed\n", "goodreads_books.json": "{}"}
    with pytest.raises(ValueError, match="has no times, sequences need them; get goodreads_interactions_dedup.json.gz"):
        convert("goodreads", write(tmp_path / "raw", files), tmp_path / "data")


def test_amazon_takes_the_5_core_file_before_the_reviews(tmp_path, capsys):
    raw = write(tmp_path / "raw", amazon() | amazon(raw=True))
    folder = convert("amazon-2023-Video_Games", raw, tmp_path / "a")
    assert "Video_Games.csv.gz" in capsys.readouterr().out
    (raw / "Video_Games.csv.gz").unlink()
    other = convert("amazon-2023", raw, tmp_path / "b")  # the files say which category
    assert other.name == "amazon-2023-Video_Games" and text(folder, "inter") == text(other, "inter")
    assert text(folder, "inter")[1] == "AE1\tB001\t2.0\t1515181044011"
    assert text(folder, "item")[1] == "B001\tItem 1"


def test_amazon_rows_are_checked(tmp_path):
    files = amazon()
    files["Video_Games.csv.gz"] += "AE1,B001,5.0\n"
    with pytest.raises(ValueError, match="Video_Games.csv.gz, line 44: expected user_id,parent_asin,rating,timestamp, found 'AE1"):
        convert("amazon-2023-Video_Games", write(tmp_path / "raw", files), tmp_path / "data")
    files = amazon(raw=True)
    files["Video_Games.jsonl.gz"] += "\n" + json.dumps({"user_id": "a\tb", "parent_asin": "B001", "rating": 5, "timestamp": 1})
    with pytest.raises(ValueError, match="Video_Games.jsonl.gz, line 43: expected"):
        convert("amazon-2023-Video_Games", write(tmp_path / "raw2", files), tmp_path / "data")
