"""Item titles, read from `<dataset>.item` without RecBole's reader.

`read_csv` turns the titles `NA`, `None` and `null` into missing values, strips quotes and fails on
`"Weird Al" Yankovic`; loading the .item file through RecBole also adds items that nobody interacted with. Here lines
are split at the separator, nothing is interpreted, and titles are keyed by the external item token.

The released LLaRA code moves ", A" before it looks for ", An", anywhere in a title, which gives "A American in
Parisn"; `move_article` moves a whole article at the end of the title only, `released_article` does as they do.
"""

import logging
import re
import unicodedata
from pathlib import Path

_ARTICLES = "A An The Le La Les L' Un Une El Los Las Una Il Lo Gli Der Die Das Ein Eine Het Den Det".split()
_AT_END = re.compile(rf"^(?P<title>.*\S), (?P<article>{'|'.join(_ARTICLES)})(?P<rest>(?: \([^()]*\))*)$")
_BIDI_CONTROLS = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_NAMED = 5  # ids shown in a warning


def move_article(title: str) -> str:
    """Put an article that was moved behind the title back in front of it.

    "Usual Suspects, The" -> "The Usual Suspects"; "American in Paris, An (1951)" -> "An American in Paris (1951)";
    "Enfer, L'" -> "L'Enfer". Only the end of the title counts, or what precedes trailing parentheses; what stands
    inside parentheses is left as it is.
    """
    found = _AT_END.match(title)
    if found is None:
        return title
    space = "" if found["article"].endswith("'") else " "
    return f"{found['article']}{space}{found['title']}{found['rest']}"


def released_article(title: str) -> str:
    """What the released LLaRA code makes of a title: each of ", The", ", A", ", An" in turn, wherever it stands."""
    for article in ("The", "A", "An"):
        if (marker := f", {article}") in title:
            title = f"{article} {title.replace(marker, '')}"
    return title


_ARTICLE_RULES = {True: move_article, False: str, "released": released_article}


def clean_title(text: str) -> str:
    """Return the text on one line: control characters and runs of white space become one space.

    Bidirectional controls are removed (they would reorder the rest of a prompt on screen); letters of any script,
    quotes, markers and emoji stay as they are.
    """
    text = text.translate(_BIDI_CONTROLS)
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text).split())


def _unescape(value: str) -> str:
    """Undo CSV quoting where it is certain: outer quotes and only doubled quotes inside, one pair at least."""
    inner = value[1:-1]
    quoted = len(value) > 2 and value[0] == value[-1] == '"' and '""' in inner
    return inner.replace('""', '"') if quoted and '"' not in inner.replace('""', "") else value


def _columns(header: str, separator: str, wanted: dict[str, str], path: Path) -> list[int]:
    """Positions of the wanted columns; `wanted` maps a field to the config key that names it."""
    names = [column.rsplit(":", 1)[0] for column in header.removeprefix("\ufeff").split(separator)]
    for field, key in wanted.items():
        if field not in names:
            raise ValueError(
                f"{path} has no column {field!r} (key {key}); it has: {', '.join(names)}. Set {key} to one of them"
            )
    return [names.index(field) for field in wanted]


def read_titles(
    path, item_field: str, text_field: str, separator: str = "\t", encoding: str = "utf-8"
) -> dict[str, str]:
    """Read one column of an .item file, exactly as it is written.

    Returns
    -------
    titles : external item token -> text. Of a token that occurs twice the first counts, as in RecBole.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file or a column is missing, a row has more columns than the header, or the text is not in `encoding`.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().decode(encoding).split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not {encoding} text; set `encoding` to the file's own"
        ) from error
    header = lines[0].rstrip("\r")
    width = len(header.split(separator))
    item, text = _columns(header, separator, {item_field: "ITEM_ID_FIELD", text_field: "item_text_field"}, path)
    titles: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        line = line.removesuffix("\r")
        if not line:
            continue
        values = line.split(separator)
        if len(values) > width:
            raise ValueError(
                f"{path}, line {number}: {len(values)} columns where the header has {width}; "
                f"remove the field_separator {separator!r} from the text"
            )
        values += [""] * (width - len(values))  # editors strip empty columns at the end of a line
        titles.setdefault(values[item], _unescape(values[text]))
    return titles


def _item_file(config) -> Path:
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not config["item_text_field"]:
        raise ValueError(
            f"item_text_field is not set, so items have no text. Set it to the column of {path} that holds the titles "
            f"(item_text_field: title)"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: prompts need item titles. Make a tab-separated file with the header "
            f"{config['ITEM_ID_FIELD']}:token<TAB>{config['item_text_field']}:token"
        )
    return path


def load_titles(config, dataset) -> list[str]:
    """Return the titles of a dataset's items.

    Parameters
    ----------
    config : reads `item_text_field`, `move_article`, `field_separator`, `encoding`, `data_path`.
    dataset : a RecBole dataset; its item ids are not changed.

    Returns
    -------
    titles : by internal item id, `item_num` long; the padding item's is "". An item without text is named by its
        external id, "item 1234"; such items are counted in one warning.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no .item file, no `item_text_field`, or no such column.
    """
    path = _item_file(config)
    written = read_titles(
        path, dataset.iid_field, config["item_text_field"], config["field_separator"], config["encoding"] or "utf-8"
    )
    titles, unnamed = [""], []
    for token in dataset.field2id_token[dataset.iid_field][1:]:
        title = clean_title(written.get(str(token), ""))
        if not title:
            unnamed.append(str(token))
            title = clean_title(f"item {token}")
        titles.append(_ARTICLE_RULES[config["move_article"] or False](title))
    if unnamed:
        shown = ", ".join(unnamed[:_NAMED]) + (", ..." if len(unnamed) > _NAMED else "")
        logging.getLogger().warning(
            f"{len(unnamed)} of {len(titles) - 1} items have no {config['item_text_field']} in {path} and are named by "
            f"their id: {shown}"
        )
    return titles
