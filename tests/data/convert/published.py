"""Made-up folders in the form in which each dataset is published."""

import gzip
import json
import zipfile
from pathlib import Path

from tests.data.convert.pickled import frame_of, old_frame, scalar

PAD = 4606
LLARA_NAMES = {0: "Morcheeba", 1: "Café Del Mar", 2: "A::B", 3: 'The "K"', 4: "Ministry", 5: "Enigma"}
LLARA_FRAMES = {
    "train_data.df": [([PAD] * 4, 1, 0), ([0, PAD, PAD, PAD], 1, 1), ([0, 1, 2, PAD], 3, 3), ([0, 1, 2, 3], 4, 4)],
    "Val_data.df": [([2, 3, 4, PAD], 3, 5)],
    "Test_data.df": [([1, 2, 3, 4], 4, 0), ([5, 4, 3, PAD], 3, 1), ([5, PAD, PAD, PAD], 1, 2)],
}
TAGS = (
    "userID\tartistID\ttagID\ttimestamp\r\n"
    "2\t52\t13\t1238536800000\r\n2\t52\t15\t1238536800000\r\n3\t60\t1\t-428720400000\r\n"
)
ARTISTS = b"id\tname\turl\tpictureURL\n52\tMorcheeba\thttp://a\thttp://b\n60\tCaf\xe9\thttp://c\t\n61\tNobody\t\t\n"
USERS, ITEMS = range(1, 7), range(1, 9)  # of ratings and reviews: each user has five or more, each item too
PAIRS = [(user, item) for user in USERS for item in ITEMS if (user + item) % 8]
TITLES = {1: "Toy Story (1995)", 2: "Usual Suspects, The (1995)", 3: "Misérables, Les (1995)", 4: 'Weird "Al", (1996)',
          5: "Babylon 5", 6: "unknown", 7: "Shanghai Triad (Yao a yao) (1995)", 8: "Death Note (2006-2007)"}  # fmt: skip


def write(folder: Path, files: dict) -> Path:
    """A folder with these files; text is written as UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def zipped(path: Path, files: dict, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return path


def lines(rows, separator="\t") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def write_hetrec(folder, tags=TAGS, artists=ARTISTS):
    return write(folder, {"user_taggedartists-timestamps.dat": tags, "artists.dat": artists})


def ml_100k() -> dict:
    ratings = [(u, i, 1 + (u * i) % 5, 881250949 + 10 * u + i) for u, i in PAIRS]
    flags = ["0"] * 5 + ["1"] + ["0"] * 9 + ["1"] + ["0"] * 3  # Comedy, Sci-Fi
    movies = [(i, title, "01-Jan-1995", "", "http://x", *flags) for i, title in TITLES.items()]
    people = [(u, 20 + u, "M", "technician", f"8571{u}") for u in USERS]
    return {
        "u.data": lines(ratings),
        "u.item": lines(movies, "|").encode("latin-1"),
        "u.user": lines(people, "|"),
        "u1.base": "1\t1\t5\t1\n",
    }


def ml_1m() -> dict:
    ratings = [(u, i, 1 + (u * i) % 5, 978300760 + 10 * u + i) for u, i in PAIRS]
    movies = [(i, title, "Children's|Comedy") for i, title in TITLES.items()]
    people = [(u, "F", 25, 10, "48067") for u in USERS]
    return {
        "ratings.dat": lines(ratings, "::"),
        "movies.dat": lines(movies, "::").encode("latin-1"),
        "users.dat": lines(people, "::"),
    }


def ml_csv(name: str) -> dict:
    ratings = [(u, i, 0.5 + ((u * i) % 10) / 2, 1147880044 + 10 * u + i) for u, i in PAIRS]
    movies = [(i, '"' + t.replace('"', '""') + '"', "(no genres listed)" if i == 5 else "Drama|Sci-Fi") for i, t in TITLES.items()]
    return {
        "ratings.csv": "userId,movieId,rating,timestamp\r\n" + lines(ratings, ","),
        "movies.csv": "movieId,title,genres\r\n" + lines(movies, ","),
        "README.txt": f"Summary\n=======\n\nThis dataset ({name}) describes 5-star rating ...",
    }


def steam() -> dict:
    reviews = [
        {"username": f'u"{u}\t\'é', "product_id": str(10 * i), "date": f"2017-12-{i:02}", "hours": 1.5, "text": "[u'x': 1]"}
        for u, i in PAIRS
    ]
    games = [{"id": str(10 * i), "title": f"Game's \"{i}\"", "app_name": "no"} for i in ITEMS if i not in (3, 8)]
    games += [{"id": "30", "app_name": "By app name"}, {"title": "no id"}]
    literal = ["{" + ", ".join(f"u{k!r}: {'u' if isinstance(v, str) else ''}{v!r}" for k, v in one.items()) + "}" for one in reviews]
    return {
        "steam_reviews.json.gz": "\n".join(literal) + "\n",
        "steam_games.json.gz": "\n".join(map(repr, games)) + "\n",
    }


def goodreads(genre: str = "") -> dict:
    shelved = [
        {"user_id": f"a{u}", "book_id": str(i), "rating": 1 + (u * i) % 5, "is_read": True,
         "date_added": f"Sun Jul {i:02} 07:44:10 -0700 2017"}
        for u, i in PAIRS
    ]  # fmt: skip
    shelved.append(shelved[0] | {"book_id": "9", "rating": 0})
    books = [{"book_id": str(i), "title": f"Book {i}"} for i in ITEMS]
    ending = f"_{genre}" if genre else ""
    return {
        f"goodreads_interactions{ending or '_dedup'}.json.gz": "\n".join(map(json.dumps, shelved)),
        f"goodreads_books{ending}.json.gz": "\n".join(map(json.dumps, books)),
    }


def amazon(category: str = "Video_Games", raw: bool = False) -> dict:
    ratings = [(f"AE{u}", f"B00{i}", float(1 + (u * i) % 5), 1515181044000 + 10 * u + i) for u, i in PAIRS]
    keys = ("user_id", "parent_asin", "rating", "timestamp")
    meta = [{"parent_asin": f"B00{i}", "title": None if i == 8 else f"Item\t{i}"} for i in range(1, 30)]
    files = {f"meta_{category}.jsonl.gz": "\n".join(map(json.dumps, meta))}
    if raw:
        reviews = [dict(zip(keys, row, strict=True)) | {"text": "long"} for row in ratings]
        return files | {f"{category}.jsonl.gz": "\n".join(map(json.dumps, reviews))}
    return files | {f"{category}.csv.gz": ",".join(keys) + "\n" + lines(ratings, ",")}


def llara_rows(padding: int, users: int = 12, pairs: bool = False) -> dict[str, list]:
    """Frames' rows as they are released: every prefix of a user is a training row, padded to ten."""
    def padded(history):
        return history + [(padding, 0) if pairs else padding] * (10 - len(history))

    rows = {"train": [], "valid": [], "test": []}
    for user in range(users):
        items = [(user + step) % 6 for step in range(6)]
        items = [(item, 3 + item % 3) for item in items] if pairs else items
        for length in range(1, 5):
            rows["train"].append((padded(items[:length]), length, items[length]))
        rows["valid" if user % 2 else "test"].append((padded(items[:4]), 4, items[5]))
    return rows


def llara(dataset: str, users: int = 12) -> dict:
    names = {"train": "train_data.df", "valid": "Val_data.df", "test": "Test_data.df"}
    if dataset == "movielens-llara":
        frames = {}
        for split, rows in llara_rows(1682, users, pairs=True).items():
            seqs, lengths, targets = map(list, zip(*rows, strict=True))
            numbers = [scalar(length) for length in lengths]
            first = [(scalar(item), scalar(rating, "f8")) for item, rating in seqs[0]]
            frames[names[split]] = frame_of(
                {"seq": [first, *seqs[1:]], "len_seq": numbers, "next": targets}, before_13=split == "train"
            )
        return frames | {"u.item": ml_100k()["u.item"]}
    padding = {"steam-llara": 3581, "lastfm-llara": 4606}[dataset]
    frames = {names[split]: old_frame(rows) for split, rows in llara_rows(padding, users).items()}
    return frames | {"id2name.txt": "".join(f"{key}::{value}\n" for key, value in LLARA_NAMES.items())}


def write_llara(folder, frames=LLARA_FRAMES, names=LLARA_NAMES):
    files = {file: old_frame(rows) for file, rows in frames.items()}
    return write(folder, files | {"id2name.txt": "".join(f"{key}::{value}\n" for key, value in names.items())})


PUBLISHED = {
    "lastfm": lambda: {"user_taggedartists-timestamps.dat": TAGS, "artists.dat": ARTISTS},
    "ml-100k": ml_100k,
    "ml-1m": ml_1m,
    **{name: lambda name=name: ml_csv(name) for name in ("ml-20m", "ml-25m", "ml-32m")},
    "steam": steam,
    "goodreads": goodreads,
    "goodreads-poetry": lambda: goodreads("poetry"),
    "amazon-2023-Video_Games": amazon,
    "amazon-2023-Books": lambda: amazon("Books", raw=True),
    **{name: lambda name=name: llara(name) for name in ("movielens-llara", "steam-llara", "lastfm-llara")},
}
