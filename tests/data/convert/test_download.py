"""Downloads from a server of this machine: whole, broken, resumed, changed, refused."""

import hashlib
import signal

import pytest

from recbole_llm.data.convert.download import RemoteFile, download

CONTENT = bytes(range(256)) * 4096  # 1 MiB


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_arrives_whole_with_a_progress_bar(server, tmp_path, capsys):
    server.files["a%20b.zip"] = CONTENT
    file = RemoteFile(server.url("a%20b.zip"), digest(CONTENT).upper())
    record = download(file, tmp_path / "d")
    assert record == {"url": file.url, "size": len(CONTENT), "sha256": digest(CONTENT)}
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["a b.zip"]
    assert "a b.zip: 100%" in capsys.readouterr().err
    assert download(file, tmp_path / "d") == record and len(server.requests) == 1  # it is there


def test_a_broken_connection_goes_on_where_it_was(server, tmp_path):
    server.files["a.zip"], server.cut = CONTENT, 2
    assert download(RemoteFile(server.url("a.zip"), digest(CONTENT)), tmp_path)["size"] == len(CONTENT)
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=600000-"]


def test_what_arrived_is_kept_for_the_next_run_but_is_no_data(server, tmp_path):
    server.files["a.zip"], server.cut = CONTENT, 3
    file = RemoteFile(server.url("a.zip"), None)
    with pytest.raises(ConnectionError, match="cannot download http.*a.zip .*broke off at 900,000 bytes; run again to go on"):
        download(file, tmp_path)
    assert not (tmp_path / "a.zip").exists() and (tmp_path / "a.zip.part").stat().st_size == 900_000
    assert download(file, tmp_path)["sha256"] == digest(CONTENT)
    assert server.requests[-1][1] == "bytes=900000-" and [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_file_that_changed_in_between_is_not_patched_together(server, tmp_path):
    server.files["a.zip"], server.cut = CONTENT, 3
    file = RemoteFile(server.url("a.zip"), None)
    with pytest.raises(ConnectionError):
        download(file, tmp_path)
    server.files["a.zip"] = CONTENT[::-1]
    assert download(file, tmp_path)["sha256"] == digest(CONTENT[::-1])


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.files["a.zip"], server.cut, server.ranges = CONTENT, 1, False
    assert download(RemoteFile(server.url("a.zip"), None), tmp_path)["sha256"] == digest(CONTENT)


def test_another_digest_is_refused_and_removed(server, tmp_path):
    server.files["a.zip"] = CONTENT
    with pytest.raises(ValueError, match=f"sha256 is {digest(CONTENT)}, expected {'0' * 64}.*try again, or, if you trust it"):
        download(RemoteFile(server.url("a.zip"), "0" * 64), tmp_path)
    assert not any(tmp_path.iterdir())


def test_absent_files(server, tmp_path):
    assert download(RemoteFile(server.url("no.df"), None, optional=True), tmp_path) is None
    with pytest.raises(ConnectionError, match=r"no.df \(it answered 404 Not Found\)"):
        download(RemoteFile(server.url("no.df"), None), tmp_path)
    server.server_close()
    with pytest.raises(ConnectionError, match=r"a.zip \(.*Connection"):
        download(RemoteFile(server.url("a.zip"), None, optional=True), tmp_path)


def test_a_file_of_this_machine(tmp_path):
    (tmp_path / "here.zip").write_bytes(CONTENT)
    record = download(RemoteFile(f"file://{tmp_path}/here.zip", None), tmp_path / "d")
    assert record["sha256"] == digest(CONTENT)
    assert download(RemoteFile(f"file://{tmp_path}/gone.zip", None, optional=True), tmp_path / "d") is None
    with pytest.raises(ConnectionError, match="gone.zip .*No such file"):
        download(RemoteFile(f"file://{tmp_path}/gone.zip", None), tmp_path / "d")


def test_a_full_disk_is_named(server, tmp_path):
    resource = pytest.importorskip("resource")
    server.files["a.zip"] = CONTENT
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*a.zip.part \(File too large\); free space or choose another"):
            download(RemoteFile(server.url("a.zip"), None), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "a.zip").exists()
