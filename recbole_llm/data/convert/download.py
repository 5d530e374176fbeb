"""Downloads that go on where they broke off, are checked, and appear whole or not at all.

The standard library is enough: torch.hub's download starts anew after a break, and huggingface_hub's is for its own hub.
"""

import http.client
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from recbole_llm.runtime.files import file_sha256

TRIES = 3  # of a connection that breaks
TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 18


class RemoteFile(NamedTuple):
    """A file to download: its address, its sha256 (None where it is not known), and whether it may be absent (404)."""

    url: str
    sha256: str | None
    optional: bool = False

    @property
    def name(self) -> str:
        return Path(unquote(urlsplit(self.url).path)).name


def download(file: RemoteFile, folder: Path) -> dict | None:
    """Download a file into `folder`; return {url, size, sha256}, or None for an optional file that is not there.

    `<name>.part` grows until the file is whole, then it is renamed; a `.part` that is there goes on by a Range request,
    unless the server's copy changed since (If-Range).

    Raises:
        ConnectionError: the address does not answer, answers with an error, or breaks off `TRIES` times.
        ValueError: the file's sha256 is another; the file is removed.
        OSError: it cannot be written.
    """
    path = folder / file.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        reason = ""
        for _ in range(TRIES):
            before = part.stat().st_size if part.exists() else 0
            try:
                if _receive(file.url, part):
                    break
                reason = f"the connection broke off at {part.stat().st_size:,} bytes; run again to go on from there"
            except urllib.error.HTTPError as error:
                if error.code == 404 and file.optional:
                    return None
                raise ConnectionError(f"cannot download {file.url} (it answered {error.code} {error.reason})") from error
            except (urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                why = getattr(error, "reason", error)
                if file.optional and isinstance(why, FileNotFoundError):  # file://
                    return None
                reason = str(why) or type(error).__name__
                if not part.exists() or part.stat().st_size == before:  # it did not even begin
                    raise ConnectionError(f"cannot download {file.url} ({reason})") from error
        else:
            raise ConnectionError(f"cannot download {file.url} ({reason})")
        os.replace(part, path)
        _validator(part).unlink(missing_ok=True)
    return _checked(file, path)


def _checked(file: RemoteFile, path: Path) -> dict:
    digest = file_sha256(path)
    if file.sha256 and digest != file.sha256.lower():
        path.unlink()
        raise ValueError(
            f"{file.url}: sha256 is {digest}, expected {file.sha256}. The download is damaged or the publisher replaced the "
            f"file; try again, or, if you trust it, name the digest: sha256 in the dataset's source, or "
            f"python -m recbole_llm.data.convert NAME --sha256={digest} where it is the only file"
        )
    return {"url": file.url, "size": path.stat().st_size, "sha256": digest}


def _validator(part: Path) -> Path:
    """Where the ETag or date of a partial download's server copy is kept."""
    return part.with_name(f"{part.name}.of")


def _receive(url: str, part: Path) -> bool:
    """Append to or restart `part`; whether all bytes that the server announced are there."""
    have = part.stat().st_size if part.exists() else 0
    known = _validator(part).read_text() if have and _validator(part).exists() else ""
    headers = {"Range": f"bytes={have}-", "If-Range": known} if known else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        goes_on = getattr(answer, "status", None) == 206
        if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            return False
        length = answer.headers.get("Content-Length")
        start = have if goes_on else 0
        total = start + int(length) if length is not None else None
        if validator := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
            _validator(part).write_text(validator)
        elif not goes_on:
            _validator(part).unlink(missing_ok=True)
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
        with bar, open(part, "ab" if goes_on else "wb") as file:
            while block := answer.read(_BLOCK):
                _write(file, block, part)
                bar.update(len(block))
        return total is None or part.stat().st_size == total


def _write(file, block: bytes, part: Path) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise OSError(error.errno, f"cannot write {part} ({error.strerror}); free space or choose another data_path") from error
