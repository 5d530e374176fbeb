"""Writing atomic files whole or not at all."""

import signal

import pytest

from recbole_llm.data.convert import atomic
from recbole_llm.runtime import files


def test_a_full_disk_leaves_the_target_as_it_was(tmp_path):
    """A limit on the size of files stands for the full disk: the write itself fails."""
    resource = pytest.importorskip("resource")
    atomic.write_dataset(tmp_path, "toy", {"toy.item": ["old"]})
    lines = (f"line {number}" for number in range(300_000))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*toy \(File too large\); free space"):
            atomic.write_dataset(tmp_path, "toy", {"toy.item": ["new"], "toy.inter": lines}, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [file.name for file in tmp_path.iterdir()] == ["toy"]
    assert (tmp_path / "toy/toy.item").read_text() == "old\n"


def test_an_error_of_the_source_is_not_called_one_of_the_target(tmp_path):
    def lines():
        yield "new"
        raise OSError(5, "Input/output error", "the source")

    with pytest.raises(OSError, match="the source"):
        atomic.write_dataset(tmp_path / "data", "toy", {"toy.inter": lines()})
    assert not (tmp_path / "data").exists()


def test_a_failed_replacement_puts_the_old_files_back(tmp_path, monkeypatch):
    folder = atomic.write_dataset(tmp_path, "toy", {"toy.item": ["old"]})
    rename = files.os.replace

    def fail_for_new(path, target):
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(files.os, "replace", fail_for_new)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_dataset(tmp_path, "toy", {"toy.item": ["new"]}, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["toy"]
    assert (folder / "toy.item").read_text() == "old\n"
