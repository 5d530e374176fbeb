"""The candidates of a phase: their digest, what is refused, and their file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.data.candidates import CandidateSet, build_candidate_set, read_npz, write_npz
from tests.data.worlds import build, catalogue_of, worlds

# Changes only with the definition of the candidate function, which would silently change every leaderboard.
PINNED = "c95175efc44372c498f16052b508cee222552c088898d52bd7359d0c005e3b63"


@given(worlds(), st.data())
def test_sha256_changes_with_any_element(world, data):
    made = build(world)
    row = data.draw(st.integers(0, len(made) - 1))
    column = data.draw(st.integers(0, made.n_candidates - 1).filter(lambda c: c != made.target_position[row]))
    candidates = made.candidates.copy()
    candidates[row, column] = (candidates[row, column] + 1) % len(made.catalogue)
    users = made.user_ids.astype("U9").copy()
    users[row] += "x"
    fields = {name: getattr(made, name) for name in ("phase", "seed", "user_ids", "item_ids", "catalogue")}
    fields |= {"candidates": made.candidates, "target_position": made.target_position}
    for change in ({"candidates": candidates}, {"user_ids": users}, {"phase": "valid"}):
        assert CandidateSet(**{**fields, **change}).sha256 != made.sha256
    assert CandidateSet(**fields).sha256 == made.sha256


def test_pinned_digest():
    catalogue = catalogue_of(12)
    histories = {"ann": np.array([0, 1, 2]), "bob": np.array([2, 9])}
    rows = (["ann", "bob"], [str(catalogue[1]), str(catalogue[9])])
    made = build_candidate_set(rows, histories, catalogue, 5, 2020, "test")
    assert made.sha256 == PINNED


def test_a_target_outside_the_history_is_an_error():
    catalogue = catalogue_of(10)
    with pytest.raises(ValueError, match="row 0: target 'item 5' is not in the history of user 'u'"):
        build_candidate_set((["u"], ["item 5"]), {"u": np.array([1])}, catalogue, 3, 0, "test")


def test_a_set_cannot_be_changed():
    made = build((catalogue_of(9), {"u": np.array([1])}, (["u"], ["item 1"]), 4))
    with pytest.raises(ValueError):
        made.candidates[0, 0] = 1
    with pytest.raises(ValueError, match="target is not at its target_position"):
        CandidateSet(
            "test", 1, made.user_ids, np.array(["item 2"]), made.catalogue, made.candidates, made.target_position
        )


@settings(max_examples=20)
@given(worlds())
def test_a_file_gives_the_set_back(tmp_path_factory, world):
    path = tmp_path_factory.mktemp("sets") / "set.npz"
    made = build(world)
    write_npz(path, made.arrays())
    loaded = read_npz(path, CandidateSet.from_arrays)
    for name in CandidateSet.FIELDS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made, name))
    assert [file.name for file in path.parent.iterdir()] == ["set.npz"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "changed", "missing field"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "set.npz"
    made = build((catalogue_of(9), {"u": np.array([1])}, (["u"], ["item 1"]), 4))
    write_npz(path, made.arrays())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "changed":
        np.savez(path, **{**made.arrays(), "user_ids": np.array(["w"])})
    else:
        np.savez(path, **{name: array for name, array in made.arrays().items() if name != "catalogue"})
    with pytest.raises(ValueError, match="set.npz is damaged .*delete it"):
        read_npz(path, CandidateSet.from_arrays)


def test_an_object_array_is_not_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    made = build((catalogue_of(9), {"u": np.array([1])}, (["u"], ["item 1"]), 4))
    np.savez(tmp_path / "set.npz", **made.arrays(), more=np.array([Harm()], dtype=object))
    with pytest.raises(ValueError, match="damaged"):
        read_npz(tmp_path / "set.npz", CandidateSet.from_arrays)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"cannot write .*set.npz \(No space left on device\); free space"):
        write_npz(tmp_path / "set.npz", {"a": np.ones(1)})
    assert list(tmp_path.iterdir()) == []
