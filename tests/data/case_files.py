"""A small dataset as atomic files, which cases of bad input change."""

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
USERS, STEPS, ITEMS = 12, 9, 40


def interactions() -> list[tuple[str, str, int]]:
    """(user, item, step), each user's in order; all items occur, and i24 is the latest of u0."""
    return [(f"u{u}", f"i{(7 * u + 3 * step) % ITEMS}", step) for u in range(USERS) for step in range(STEPS)]


ROWS = interactions()
LATEST = sorted((user, item) for user, item, step in ROWS if step == STEPS - 1)


def inter(time=lambda step: 1000 + step, newest_first=False, separator="\t", header=HEADER, name=lambda item: item):
    rows = sorted(ROWS, key=lambda row: -row[2] if newest_first else 0)
    lines = [separator.join((user, name(item), str(time(step)))) for user, item, step in rows]
    return "\n".join([header.replace("\t", separator), *lines]) + "\n"


def items(title=lambda i: f"Title {i}", separator="\t", name=lambda i: f"i{i}"):
    lines = [f"{name(i)}{separator}{title(i)}" for i in range(ITEMS)]
    return "\n".join([f"item_id:token{separator}title:token_seq", *lines]) + "\n"


def write(folder, files: dict[str, str | bytes], name="case"):
    (folder / name).mkdir(exist_ok=True)
    for suffix, text in files.items():
        (folder / name / f"{name}.{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def pairs(split) -> list[tuple[str, str]]:
    columns = (
        split.field2id_token[f][split.inter_feat[f].numpy()].tolist() for f in (split.uid_field, split.iid_field)
    )
    return sorted(zip(*columns, strict=True))
