"""Files and folders are whole or not there, whatever stops the writing."""

import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from recbole_llm.runtime import files


@pytest.fixture
def full(monkeypatch):
    """No file can be renamed: the disk is full."""

    def replace(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", replace)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.whole_file(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old" and aside.parent == tmp_path and aside.name.startswith(".")
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_others_may_read_what_safetensors_writes(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    (tmp_path / "text").write_text("a")
    mode = (tmp_path / "text").stat().st_mode & 0o777
    with files.whole_file(tmp_path / "a.safetensors") as aside:
        save_file({"a": torch.ones(2)}, aside)
    with files.whole_folder(tmp_path / "folder") as aside:
        (aside / "inner").mkdir()
        save_file({"a": torch.ones(2)}, aside / "inner/a.safetensors")
    written = [tmp_path / "a.safetensors", tmp_path / "folder/inner/a.safetensors"]
    assert [path.stat().st_mode & 0o777 for path in written] == [mode, mode] and mode & 0o040


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), files.whole_file(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_explained_where_a_remedy_is_known(tmp_path, full):
    with pytest.raises(OSError, match="^.Errno 28. No space left on device$"):
        files.write_text(tmp_path / "a.txt", "new")
    with pytest.raises(OSError, match=r"No space left on device while writing .*a.txt; free some space or move") as raised:
        files.write_text(tmp_path / "a.txt", "new", "move")
    assert raised.value.errno == errno.ENOSPC and not names(tmp_path)


def test_other_errors_of_the_system_point_at_permissions(tmp_path):
    with pytest.raises(OSError, match="No such file or directory while writing .*; check the folder's permissions or move"):
        files.write_text(tmp_path / "none/a.txt", "new", "move")


def test_a_folder_takes_the_place_of_another(tmp_path):
    folder = tmp_path / "parent/a"
    for text in ("old", "new"):
        with files.whole_folder(folder) as aside:
            (aside / text).write_text(text)
        assert names(folder) == [text] and names(folder.parent) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path, error):
    (tmp_path / "a/old").mkdir(parents=True)
    with pytest.raises(error), files.whole_folder(tmp_path / "a") as aside:
        (aside / "half").write_text("half")
        raise error
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "a/old").mkdir(parents=True)
    replace = os.replace

    def fail(path, target):
        if ".old" not in f"{path}{target}":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(path, target)

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error while writing .*a; check the folder's permissions or move"):
        with files.whole_folder(tmp_path / "a", "move"):
            pass
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def killed_at_rename(number, work):
    """Run ``work`` in a child that is killed when it has renamed ``number`` times."""
    child = os.fork()
    if child == 0:
        replace, done = os.replace, []

        def counted(*names):
            replace(*names)
            done.append(names)
            if len(done) == number:
                os._exit(9)

        files.os.replace = counted
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def replace_folder(folder, text="new"):
    with files.whole_folder(folder) as aside:
        (aside / "file").write_text(text)


@pytest.mark.parametrize(("renames", "left"), [(1, "old"), (2, "new"), (3, "new")])
def test_a_kill_while_a_folder_takes_anothers_place_leaves_one_of_them(tmp_path, renames, left):
    folder = tmp_path / "a"
    replace_folder(folder, "old")
    assert killed_at_rename(renames, lambda: replace_folder(folder)) == 9
    assert folder.exists() == (renames > 1)
    files.put_all_back(tmp_path)
    assert (folder / "file").read_text() == left


def test_the_next_writer_keeps_what_a_killed_one_moved_away(tmp_path):
    folder = tmp_path / "a"
    replace_folder(folder, "old")
    for _ in range(2):  # the second is killed at the same place
        assert killed_at_rename(1 if folder.exists() else 2, lambda: replace_folder(folder)) == 9
        assert (tmp_path / ".a.old/file").read_text() == "old" and not folder.exists()
    replace_folder(folder, "newest")
    assert (folder / "file").read_text() == "newest" and not (tmp_path / ".a.old").exists()


def test_a_removed_folder_does_not_come_back(tmp_path):
    folder = tmp_path / "a"
    replace_folder(folder, "old")
    assert killed_at_rename(2, lambda: replace_folder(folder)) == 9 and (tmp_path / ".a.old").exists()
    files.remove_folder(folder)
    files.put_all_back(tmp_path)
    assert not folder.exists() and not (tmp_path / ".a.old").exists()


def test_what_stands_at_a_link_is_written_where_it_leads(tmp_path):
    (tmp_path / "disk/b").mkdir(parents=True)
    (tmp_path / "disk/a.txt").write_text("old")
    for name in ("a.txt", "b", "new.txt"):
        (tmp_path / name).symlink_to(f"disk/{name}")
    files.write_text(tmp_path / "a.txt", "written")
    files.write_text(tmp_path / "new.txt", "made")  # its target was not there
    replace_folder(tmp_path / "b")
    assert all((tmp_path / name).is_symlink() for name in ("a.txt", "b", "new.txt"))
    assert (tmp_path / "disk/a.txt").read_text() == "written" and (tmp_path / "disk/new.txt").read_text() == "made"
    assert (tmp_path / "disk/b/file").read_text() == "new" and names(tmp_path / "disk") == ["a.txt", "b", "new.txt"]


def test_files_are_on_the_disk_before_their_folder_has_its_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    target = lambda handle: os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: E731
    monkeypatch.setattr(files.os, "fsync", lambda handle: order.append(target(handle)) or fsync(handle))
    monkeypatch.setattr(files.os, "replace", lambda a, b: order.append("rename") or replace(a, b))
    with files.whole_folder(tmp_path / "a", sync=True) as aside:
        (aside / "file").write_text("text")
    assert order == ["file", aside.name, "rename", tmp_path.name]


def test_a_removed_folder_has_no_half_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "a/file").mkdir(parents=True)
    seen, rmtree = [], files.shutil.rmtree
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **more: seen.append((tmp_path / "a").exists()) or rmtree(path, **more))
    files.remove_folder(tmp_path / "a")
    assert seen[-1] is False and not names(tmp_path)


def test_two_writers_of_one_process_do_not_write_into_each_other(tmp_path):
    with files.whole_file(tmp_path / "a.txt") as first:
        first.write_text("first, long")
        with files.whole_file(tmp_path / "a.txt") as second:
            second.write_text("second")
        assert (tmp_path / "a.txt").read_text() == "second"
    assert (tmp_path / "a.txt").read_text() == "first, long" and names(tmp_path) == ["a.txt"]
