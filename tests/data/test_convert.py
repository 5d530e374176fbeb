"""The converters on made-up files in the published formats, and the pickle reader on hostile ones."""

import io
import pickle
import struct
import urllib.error
import urllib.request
import zipfile
from hashlib import sha256

import pytest

from recbole_llm.data.convert import atomic, lastfm, llara
from recbole_llm.data.convert.__main__ import main
from recbole_llm.data.convert.pickles import RefusedPickle, read_frame
from recbole_llm.data.rows import candidate_sets

PAD = llara.PADDING
NAMES = {0: "Morcheeba", 1: "Café Del Mar", 2: "A::B", 3: 'The "K"', 4: "Ministry", 5: "Enigma"}
FRAMES = {
    "train_data.df": [([PAD] * 4, 1, 0), ([0, PAD, PAD, PAD], 1, 1), ([0, 1, 2, PAD], 3, 3), ([0, 1, 2, 3], 4, 4)],
    "Val_data.df": [([2, 3, 4, PAD], 3, 5)],
    "Test_data.df": [([1, 2, 3, 4], 4, 0), ([5, 4, 3, PAD], 3, 1), ([5, PAD, PAD, PAD], 1, 2)],
}


# A pickle as an old pandas writes it: the opcodes of the released files, with stand-ins for pandas' internals.
class _Call:
    """An object that pickles as function(*args), with a state set afterwards."""

    def __init__(self, function, args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)


class _Pickler(pickle._Pickler):
    """The pure-Python pickler, so that names can be written without importing what they name."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, tuple) and len(obj) == 3 and obj[0] == "GLOBAL":
            self.write(pickle.GLOBAL + f"{obj[1]}\n{obj[2]}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.parts[0])
            self.save(obj.parts[1])
            self.write(pickle.REDUCE)
            if len(obj.parts) == 3:
                self.save(obj.parts[2])
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def name(module, attribute):
    return ("GLOBAL", module, attribute)


def old_frame(rows, core="core") -> bytes:
    """A frame `seq, len_seq, next` in the layout of the released files: an object block and an int64 block."""
    ndarray, dtype = name("numpy", "ndarray"), name("numpy", "dtype")
    objects = _Call(dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    integers = _Call(dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 0))

    def object_array(cells, shape):
        made = (ndarray, (0,), b"b")
        return _Call(name(f"numpy.{core}.multiarray", "_reconstruct"), made, (1, shape, objects, False, cells))

    numbers = b"".join(struct.pack("<q", row[column]) for column in (1, 2) for row in rows)
    buffer = _Call(name(f"numpy.{core}.numeric", "_frombuffer"), (numbers, integers, (2, len(rows)), "C"))
    block = name("pandas._libs.internals", "_unpickle_block")
    cut = name("builtins", "slice")
    blocks = (
        _Call(block, (object_array([row[0] for row in rows], (1, len(rows))), _Call(cut, (0, 1, 1)), 2)),
        _Call(block, (buffer, _Call(cut, (1, 3, 1)), 2)),
    )
    new_index, index = name("pandas.core.indexes.base", "_new_Index"), name("pandas.core.indexes.base", "Index")
    columns = _Call(new_index, (index, {"data": object_array(["seq", "len_seq", "next"], (3,)), "name": None}))
    span = {"name": None, "start": 0, "stop": len(rows), "step": 1}
    axes = [columns, _Call(new_index, (name("pandas.core.indexes.range", "RangeIndex"), span))]
    manager = _Call(name("pandas.core.internals.managers", "BlockManager"), (blocks, axes))
    state = {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}, "_flags": {}}
    return dump(_Call(name("pandas.core.frame", "DataFrame"), (), state))


def dump(obj) -> bytes:
    out = io.BytesIO()
    _Pickler(out, 4).dump(obj)
    return out.getvalue()


def write_llara(folder, frames=FRAMES, names=NAMES):
    folder.mkdir(exist_ok=True)
    for file, rows in frames.items():
        (folder / file).write_bytes(old_frame(rows))
    (folder / "id2name.txt").write_text("".join(f"{key}::{value}\n" for key, value in names.items()), encoding="utf-8")
    return folder


@pytest.mark.parametrize("core", ["core", "_core"])
def test_an_old_frame_is_read_without_pandas(tmp_path, core):
    path = tmp_path / "a.df"
    path.write_bytes(old_frame(FRAMES["train_data.df"], core))
    rows = FRAMES["train_data.df"]
    assert read_frame(path) == {
        "seq": [row[0] for row in rows],
        "len_seq": [row[1] for row in rows],
        "next": [row[2] for row in rows],
    }


def test_llara_writes_one_session_per_row_of_three_or_more(tmp_path, capsys):
    assert main(["llara", "--source", str(write_llara(tmp_path / "raw")), "--target", str(tmp_path / "data")]) == 0
    folder = tmp_path / "data/lastfm-llara"
    header = "user_id:token\titem_id:token\titem_id_list:token_seq\n"
    assert (folder / "lastfm-llara.train.inter").read_text() == header + "train-2\t3\t0 1 2\ntrain-3\t4\t0 1 2 3\n"
    assert (folder / "lastfm-llara.valid.inter").read_text() == header + "valid-0\t5\t2 3 4\n"
    assert (folder / "lastfm-llara.test.inter").read_text() == header + "test-0\t0\t1 2 3 4\ntest-1\t1\t5 4 3\n"
    items = (folder / "lastfm-llara.item").read_text(encoding="utf-8").splitlines()
    assert items[:4] == ["item_id:token\tname:token", "0\tMorcheeba", "1\tCafé Del Mar", "2\tA::B"]
    assert "--data_path=" in capsys.readouterr().out


def test_the_converted_split_loads_through_recbole(make_config, tmp_path):
    llara.convert(write_llara(tmp_path / "raw"), tmp_path / "data")
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
    llara.convert(shared_dir / "data/lastfm-llara", tmp_path)
    lines = {
        split: len((tmp_path / f"lastfm-llara/lastfm-llara.{split}.inter").read_text().splitlines()) - 1
        for split in llara.FRAMES
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
    source = write_llara(tmp_path / "raw", {**FRAMES, "Test_data.df": [row]})
    with pytest.raises(ValueError, match=f"Test_data.df, {message}"):
        llara.convert(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_missing_and_malformed_sources(tmp_path, capsys):
    source = write_llara(tmp_path / "raw")
    (source / "id2name.txt").write_text("0::a\nnonsense\n")
    with pytest.raises(ValueError, match="id2name.txt, line 2: expected id::name, found 'nonsense'"):
        llara.convert(source, tmp_path / "data")
    (source / "Val_data.df").unlink()
    assert main(["llara", "--source", str(source), "--target", str(tmp_path / "data")]) == 1
    assert "lacks Val_data.df. They are published with LLaRA" in capsys.readouterr().err


def hostile(tmp_path, case) -> bytes:
    """A pickle that would write `tmp_path/ran` if it were run by `pickle.load`."""
    harm = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    run = {
        "exec": _Call(name("builtins", "exec"), (harm,)),
        "eval": _Call(name("builtins", "eval"), (f"__import__('os').system('touch {tmp_path / 'ran'}')",)),
        "system": _Call(name("posix", "system"), (f"touch {tmp_path / 'ran'}",)),
        "dotted": _Call(name("numpy", "ndarray.__class__"), (harm,)),
        "getattr": _Call(_Call(name("builtins", "getattr"), (name("numpy", "ndarray"), "tofile")), (harm,)),
        "pandas eval": _Call(name("pandas.core.computation.eval", "eval"), (harm,)),
    }
    if case == "inside":  # in the state of an allowed class, inside an allowed call
        return dump(
            _Call(
                name("pandas.core.frame", "DataFrame"), (), {"_mgr": _Call(name("builtins", "slice"), (run["exec"],))}
            )
        )
    if case == "last":  # after a whole and valid frame
        good = old_frame(FRAMES["Val_data.df"])
        return good[:-1] + dump(run["exec"])[2:]
    return dump(run[case])


CASES = ["exec", "eval", "system", "dotted", "getattr", "pandas eval", "inside", "last"]


@pytest.mark.parametrize("case", CASES)
def test_a_pickle_that_names_anything_else_is_refused_before_it_runs(tmp_path, case):
    path = tmp_path / "bad.df"
    path.write_bytes(hostile(tmp_path, case))
    with pytest.raises(RefusedPickle, match="bad.df names .*it was not run"):
        read_frame(path)
    assert not (tmp_path / "ran").exists()


def test_the_hostile_pickles_are_real(tmp_path):
    for case in ("exec", "system"):
        pickle.loads(hostile(tmp_path, case))
        (tmp_path / "ran").unlink()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps([1, 2]),
        dump(_Call(name("pandas.core.frame", "DataFrame"), (), {"_mgr": 3})),
        dump(_Call(name("numpy", "dtype"), ("i8",))),
        dump(_Call(_Call(name("builtins", "slice"), (1,)), (2,))),  # calls what a call made
        old_frame([([0, 1, 2.5], 3, 2)]),
        old_frame([([0, 1, [2]], 3, 2)]),
        old_frame(FRAMES["train_data.df"])[:-200],
        b"\x80\x04\x82\x01.",  # a copyreg extension
        b"\x80\x04\x8c\x01aQ.",  # a persistent id
    ],
)
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "odd.df"
    path.write_bytes(content)
    with pytest.raises(RefusedPickle, match="odd.df"):
        read_frame(path)


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """BUILD on a record class itself: the classes are made afresh for each file."""
    path = tmp_path / "a.df"
    frame = name("pandas.core.frame", "DataFrame")
    out = io.BytesIO()
    pickler = _Pickler(out, 2)
    pickler.write(pickle.PROTO + b"\x02")
    pickler.save(frame)
    pickler.save((None, {"name": "broken", "__setstate__": 1}))
    pickler.write(pickle.BUILD + pickle.STOP)
    path.write_bytes(out.getvalue())
    with pytest.raises(RefusedPickle):
        read_frame(path)
    path.write_bytes(old_frame(FRAMES["Val_data.df"]))
    assert read_frame(path)["next"] == [5]


# Last.fm (HetRec 2011)
TAGS = (
    "userID\tartistID\ttagID\ttimestamp\r\n"
    "2\t52\t13\t1238536800000\r\n2\t52\t15\t1238536800000\r\n3\t60\t1\t-428720400000\r\n"
)
ARTISTS = b"id\tname\turl\tpictureURL\n52\tMorcheeba\thttp://a\thttp://b\n60\tCaf\xe9\thttp://c\t\n61\tNobody\t\t\n"


def write_hetrec(folder, tags=TAGS, artists=ARTISTS):
    folder.mkdir(exist_ok=True)
    (folder / lastfm.TAGS).write_bytes(tags.encode())
    (folder / lastfm.ARTISTS).write_bytes(artists)
    return folder


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
        lastfm.convert(write_hetrec(tmp_path / "raw", tags), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def archive_of(tmp_path, damage=False) -> bytes:
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"inside/{lastfm.TAGS}", TAGS)
        file.writestr(f"inside/{lastfm.ARTISTS}", ARTISTS)
    content = path.read_bytes()
    return content.replace(b"Morcheeba", b"Morcheebo") if damage else content


@pytest.fixture
def served(monkeypatch):
    """A function that makes the address answer with these bytes."""

    class Answer(io.BytesIO):
        headers = {"Content-Length": "1"}

    def serve(content):
        monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer(content))
        return sha256(content).hexdigest()

    return serve


def test_lastfm_is_downloaded_and_checked(tmp_path, served, capsys):
    digest = served(archive_of(tmp_path))
    target = ["--target", str(tmp_path / "data")]
    assert main(["lastfm", *target]) == 1
    error = capsys.readouterr().err
    assert f"sha256 is {digest}, expected {lastfm.SHA256}" in error and f"--sha256={digest}" in error
    assert not (tmp_path / "data").exists()
    assert main(["lastfm", *target, f"--sha256={digest.upper()}"]) == 0
    assert len((tmp_path / "data/lastfm/lastfm.inter").read_text().splitlines()) == 4
    assert "hetrec2011-lastfm-2k.zip" in capsys.readouterr().err  # the progress bar


def test_a_damaged_archive_is_refused(tmp_path, served):
    digest = served(archive_of(tmp_path, damage=True))
    with pytest.raises(ValueError, match="the archive is damaged"):
        lastfm.convert(None, tmp_path / "data", sha256=digest)
    assert not (tmp_path / "data").exists()


def test_offline_the_error_names_file_address_and_command(tmp_path, monkeypatch, capsys):
    def offline(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    assert main(["lastfm", "--target", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    for part in (lastfm.URL, lastfm.TAGS, lastfm.ARTISTS, "python -m recbole_llm.data.convert lastfm --source DIR"):
        assert part in error


def test_a_full_disk_leaves_the_target_as_it_was(tmp_path, monkeypatch):
    atomic.write_dataset(tmp_path, "toy", {"toy.item": ["old"]})

    def lines():
        yield "new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*toy \(No space left on device\); free space"):
        atomic.write_dataset(tmp_path, "toy", {"toy.item": ["new"], "toy.inter": lines()}, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["toy"]
    assert (tmp_path / "toy/toy.item").read_text() == "old\n"


def test_a_failed_replacement_puts_the_old_files_back(tmp_path, monkeypatch):
    folder = atomic.write_dataset(tmp_path, "toy", {"toy.item": ["old"]})
    rename = type(folder).rename

    def fail_for_new(path, target):
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", fail_for_new)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_dataset(tmp_path, "toy", {"toy.item": ["new"]}, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["toy"]
    assert (folder / "toy.item").read_text() == "old\n"
