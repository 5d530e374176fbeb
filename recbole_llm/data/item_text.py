"""Item titles, read from `<dataset>.item` by the reader of all atomic files (`data.atomic`).

Loading the .item file through RecBole would add items that nobody interacted with, and cut titles into words. Here
titles are kept as they are written, keyed by the external item token.

The released LLaRA code moves ", A" before it looks for ", An", anywhere in a title, which gives "A American in
Parisn"; `move_article` moves a whole article at the end of the title only, `released_article` does as they do.
"""

import logging
import re
import unicodedata
from pathlib import Path

from recbole_llm.data.atomic import read_table

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


def read_titles(
    path, item_field: str, text_field: str, separator: str = "\t", encoding: str = "utf-8"
) -> dict[str, str]:
    """Read one column of an .item file, exactly as it is written.

    Returns:
        External item token -> text. Of a token that occurs twice the first counts, as in RecBole.

    Raises:
        FileNotFoundError, ValueError: the file or a column is missing, or as
            :func:`recbole_llm.data.atomic.read_table`.
    """

    def wanted(types: dict) -> list[str]:
        for field, key in ((item_field, "ITEM_ID_FIELD"), (text_field, "item_text_field")):
            if field not in types:
                raise ValueError(
                    f"{path} has no column {field!r} (key {key}); it has: {', '.join(types)}. Set {key} to one of them"
                )
        return [item_field, text_field]

    columns = read_table(path, separator, encoding, wanted).columns
    titles: dict[str, str] = {}
    for item, text in zip(columns[item_field], columns[text_field], strict=True):
        titles.setdefault(item, text)
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


def _strangers(path: Path, text_field: str, item: str, written: dict[str, str]) -> str:
    """What to say where no item of the interactions has a title."""
    if item in written:
        return f"{path}: the column {text_field!r} is empty for all items of the interactions; set item_text_field to another"
    return (
        f"no item of the interactions has a {text_field} in {path}: the interactions have e.g. {item!r}, the .item file "
        f"has e.g. {next(iter(written), 'no item')!r}; write the ids in both files alike (as 3, not 3.0)"
    )


def titles_and_unnamed(config, dataset) -> tuple[list[str], list[str]]:
    """(titles as `load_titles` returns them, external ids of the items that have none).

    Raises:
        FileNotFoundError, ValueError: as `load_titles`.
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
    if len(unnamed) == len(titles) - 1:
        raise ValueError(_strangers(path, config["item_text_field"], unnamed[0], written))
    return titles, unnamed


def load_titles(config, dataset) -> list[str]:
    """Return the titles of a dataset's items.

    Args:
        config: reads `item_text_field`, `move_article`, `field_separator`, `encoding`, `data_path`.
        dataset: a RecBole dataset; its item ids are not changed.

    Returns:
        Titles by internal item id, `item_num` of them; the padding item's is "". An item without text is named by its
        external id, "item 1234"; such items are counted in one warning.

    Raises:
        FileNotFoundError, ValueError: there is no .item file, no `item_text_field`, no such column, or no item
            of the interactions has a text.
    """
    titles, unnamed = titles_and_unnamed(config, dataset)
    if unnamed:
        shown = ", ".join(unnamed[:_NAMED]) + (", ..." if len(unnamed) > _NAMED else "")
        logging.getLogger().warning(
            f"{len(unnamed)} of {len(titles) - 1} items have no {config['item_text_field']} in {_item_file(config)} and are named by "
            f"their id: {shown}"
        )
    return titles
