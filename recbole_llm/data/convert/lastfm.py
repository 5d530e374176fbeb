"""Last.fm (HetRec 2011, Cantador et al.) with timestamps as RecBole atomic files.

RecBole's own `lastfm` download has no timestamps, so it cannot be used sequentially. The tag assignments have them:
`user_taggedartists-timestamps.dat` (userID, artistID, tagID, timestamp in ms; tab-separated, with a header) gives
`lastfm.inter`, one line per tag assignment; `properties/dataset/lastfm.yaml` keeps the first of each (user, artist).
`artists.dat` (id, name, url, pictureURL) gives `lastfm.item`; it is UTF-8 with some bad bytes.

The data are for non-commercial use; they are fetched, never shipped. GroupLens publishes no checksum. The one below
is that of the loaders "HetrecLastFM" of the library OmniRec (github.com/ISG-Siegen/OmniRec), and several other public
repositories give the same; `--sha256` replaces it, should the publisher ever repack the archive.
"""

import hashlib
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from recbole_llm.data.convert.atomic import cell, write_dataset

DATASET = "lastfm"
URL = "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip"
SHA256 = "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c"
TAGS, ARTISTS = "user_taggedartists-timestamps.dat", "artists.dat"
TAG_COLUMNS, ARTIST_COLUMNS = ["userID", "artistID", "tagID", "timestamp"], ["id", "name"]
COMMAND = "python -m recbole_llm.data.convert lastfm --source DIR --target DIR"
_TIMEOUT = 30  # seconds without an answer


def _table(path: Path, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) after checking the header; bytes that are not UTF-8 become U+FFFD."""
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    header = lines[0].lstrip("\ufeff").rstrip("\r").split("\t")
    if header[: len(columns)] != columns:
        raise ValueError(f"{path}, line 1: expected the columns {', '.join(columns)}, found {', '.join(header)}")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.rstrip("\r").split("\t")
        if cells == [""]:
            continue
        if len(cells) < len(columns):
            raise ValueError(f"{path}, line {number}: {len(cells)} columns, expected {len(columns)}")
        yield number, cells


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def read_tags(path: Path) -> list[tuple[str, str, str]]:
    """Return (user, artist, timestamp) of every tag assignment, in the order of the file."""
    rows = []
    for number, (user, artist, tag, time) in ((n, cells[:4]) for n, cells in _table(path, TAG_COLUMNS)):
        if not all(map(_is_integer, (user, artist, tag, time))):
            raise ValueError(
                f"{path}, line {number}: expected four integers, found {user!r} {artist!r} {tag!r} {time!r}"
            )
        rows.append((user, artist, time))
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def read_artists(path: Path) -> dict[str, str]:
    """Return artist id -> name."""
    return {cells[0]: cell(cells[1]) for _, cells in _table(path, ARTIST_COLUMNS)}


def convert_folder(source, target, force: bool = False) -> Path:
    """Write `<target>/lastfm/lastfm.{inter,item}` from a folder with the two HetRec files; return the folder.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is missing, or the line that is not as described above. Nothing is written then.
    """
    source = Path(source)
    missing = [name for name in (TAGS, ARTISTS) if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)}. They are in {URL}; unpack it, then: {COMMAND}")
    tags, artists = read_tags(source / TAGS), read_artists(source / ARTISTS)
    tagged = dict.fromkeys(artist for _, artist, _ in tags)
    files = {
        f"{DATASET}.inter": ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(row) for row in tags)],
        f"{DATASET}.item": [
            "item_id:token\tname:token",
            *(f"{artist}\t{artists[artist]}" for artist in tagged if artist in artists),
        ],
    }
    print(f"{len(tags)} tag assignments of {len({row[0] for row in tags})} users and {len(tagged)} artists")
    return write_dataset(target, DATASET, files, force)


def _fetch(path: Path) -> str:
    """Download the archive to `path` with a progress bar; return its sha256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=Path(URL).name) as bar:
            while block := answer.read(1 << 16):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Write the two files of the archive into `folder`; zipfile checks their CRCs."""
    with zipfile.ZipFile(archive) as content:
        members = {Path(name).name: name for name in content.namelist()}
        for name in (TAGS, ARTISTS):
            if name not in members:
                raise ValueError(f"{archive.name} does not hold {name}; it holds {', '.join(members)}")
            (folder / name).write_bytes(content.read(members[name]))


def convert_download(target, force: bool = False, sha256: str | None = None) -> Path:
    """Download the archive, check it, and convert it as `convert_folder`.

    Raises
    ------
    ConnectionError
        Without a network: names the files, the address and the command.
    ValueError
        If the archive's sha256 is another, or the archive is damaged.
    """
    expected = (sha256 or SHA256).lower()
    with tempfile.TemporaryDirectory(prefix="hetrec-") as working:
        archive = Path(working) / Path(URL).name
        try:
            found = _fetch(archive)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(
                f"cannot download {URL} ({reason}). Fetch it elsewhere, unpack {TAGS} and {ARTISTS} into a folder DIR, "
                f"then: {COMMAND}"
            ) from error
        if found != expected:
            raise ValueError(
                f"{URL}: sha256 is {found}, expected {expected}. The download is damaged or the archive was replaced; "
                f"try again, or, if you trust it, pass --sha256={found}"
            )
        try:
            _unpack(archive, Path(working))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{URL}: the archive is damaged ({error}); download it again") from error
        return convert_folder(working, target, force)


def convert(source, target, force: bool = False, sha256: str | None = None) -> Path:
    """Convert the files in `source`, or download them where it is None."""
    return convert_download(target, force, sha256) if source is None else convert_folder(source, target, force)
