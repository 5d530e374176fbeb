"""The pickle reader on frames as they are released, and on hostile ones."""

import io
import pickle

import pytest

from recbole_llm.data.convert.pickles import RefusedPickle, read_frame
from tests.data.convert.pickled import Call, Pickler, dump, name, old_frame
from tests.data.convert.published import LLARA_FRAMES as FRAMES


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


def hostile(tmp_path, case) -> bytes:
    """A pickle that would write `tmp_path/ran` if it were run by `pickle.load`."""
    harm = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    run = {
        "exec": Call(name("builtins", "exec"), (harm,)),
        "eval": Call(name("builtins", "eval"), (f"__import__('os').system('touch {tmp_path / 'ran'}')",)),
        "system": Call(name("posix", "system"), (f"touch {tmp_path / 'ran'}",)),
        "dotted": Call(name("numpy", "ndarray.__class__"), (harm,)),
        "getattr": Call(Call(name("builtins", "getattr"), (name("numpy", "ndarray"), "tofile")), (harm,)),
        "pandas eval": Call(name("pandas.core.computation.eval", "eval"), (harm,)),
    }
    if case == "inside":  # in the state of an allowed class, inside an allowed call
        return dump(
            Call(
                name("pandas.core.frame", "DataFrame"), (), {"_mgr": Call(name("builtins", "slice"), (run["exec"],))}
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
        assert (tmp_path / "ran").exists(), case
        (tmp_path / "ran").unlink()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps([1, 2]),
        dump(Call(name("pandas.core.frame", "DataFrame"), (), {"_mgr": 3})),
        dump(Call(name("numpy", "dtype"), ("i8",))),
        dump(Call(Call(name("builtins", "slice"), (1,)), (2,))),  # calls what a call made
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
    pickler = Pickler(out, 2)
    pickler.write(pickle.PROTO + b"\x02")
    pickler.save(frame)
    pickler.save((None, {"name": "broken", "__setstate__": 1}))
    pickler.write(pickle.BUILD + pickle.STOP)
    path.write_bytes(out.getvalue())
    with pytest.raises(RefusedPickle):
        read_frame(path)
    path.write_bytes(old_frame(FRAMES["Val_data.df"]))
    assert read_frame(path)["next"] == [5]
