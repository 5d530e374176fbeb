"""Reading published files: archives that are damaged or hostile, encodings, long lines."""

import zipfile

import pytest

from recbole_llm.data.convert import files as module
from recbole_llm.data.convert.convert import convert
from recbole_llm.data.convert.files import PublishedFiles
from tests.data.convert.published import PUBLISHED, amazon, write, zipped


def test_a_truncated_zip(tmp_path):
    archive = zipped(tmp_path / "ml-1m.zip", PUBLISHED["ml-1m"](), "ml-1m/")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match="ml-1m.zip is truncated or damaged .*; delete it and download it again"):
        convert("ml-1m", archive, tmp_path / "data")


def test_a_zip_whose_content_changed(tmp_path):
    archive = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w") as file:  # stored: the bytes can be changed without breaking the format
        for name, content in PUBLISHED["ml-1m"]().items():
            file.writestr(name, content)
    archive.write_bytes(archive.read_bytes().replace(b"Toy Story", b"Toy Stork"))
    with pytest.raises(ValueError, match="ml-1m.zip:movies.dat is truncated or damaged .*CRC"):
        convert("ml-1m", archive, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("cut", [30, 4])
def test_a_truncated_gzip(tmp_path, cut):
    source = write(tmp_path / "raw", amazon())
    whole = (source / "Video_Games.csv.gz").read_bytes()
    (source / "Video_Games.csv.gz").write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match="Video_Games.csv.gz is truncated or damaged"):
        convert("amazon-2023-Video_Games", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("entry", ["../ratings.dat", "/etc/ratings.dat", "a/../../ratings.dat", "..\\ratings.dat", "C:/ratings.dat"])
def test_a_zip_that_points_outside_is_refused(tmp_path, entry):
    archive = zipped(tmp_path / "ml-1m.zip", PUBLISHED["ml-1m"]() | {entry: "1::1::1::1\n"})
    with pytest.raises(ValueError, match="points outside the archive; get it again"):
        PublishedFiles(archive)


def test_lines_have_their_numbers_and_no_ends(tmp_path):
    files = PublishedFiles(write(tmp_path, {"a.txt": "\ufeffone\r\ntwo\n\nfour", "b.txt.gz": "x\n"}))
    assert list(files.lines("a.txt")) == [(1, "one"), (2, "two"), (3, ""), (4, "four")]
    assert files.names == ["a.txt", "b.txt"] and files.read("b.txt") == b"x\n" and "b.txt" in files and "c" not in files


def test_a_file_that_is_one_endless_line_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 1 << 20)
    files = PublishedFiles(write(tmp_path, {"a.json.gz": b"x" * (3 << 20)}))
    with pytest.raises(ValueError, match="a.json.gz, line 1: longer than 1 MiB"):
        list(files.lines("a.json"))


def test_progress_is_shown_once_it_takes_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "tqdm", lambda **settings: __import__("tqdm").tqdm(**settings | {"delay": 0, "mininterval": 0}))
    source = write(tmp_path, {"a.txt": "line\n" * 200_000})
    assert sum(1 for _ in PublishedFiles(source).lines("a.txt")) == 200_000
    shown = capsys.readouterr().err
    assert "a.txt: 100%" in shown and "1.00M/1.00M" in shown
