"""Fields of `<dataset>.user` and `<dataset>.item` as prompts show them (`prompt_fields`): a user's profile, and what stands behind a title.

They are read as text by the reader of all atomic files (`data.atomic`), as titles are: RecBole's own loading would turn them into ids and
numbers, and a .item file of its adds items that nobody interacted with.
"""

from __future__ import annotations

import logging
from pathlib import Path

from recbole_llm.data.atomic import read_table
from recbole_llm.data.item_text import clean_title

_NAMED = 5  # ids shown in a warning


def field_texts(config, dataset, side: str) -> list[str]:
    """What prompts say of each user, or of each item behind its title.

    Args:
        config: reads `prompt_fields`, `field_words`, `value_words` and where the files are.
        dataset: a RecBole dataset; its ids are not changed.
        side: "user" or "item", the ending of the file.

    Returns:
        Texts by internal id, `user_num` or `item_num` of them, all "" where `prompt_fields` names no field of this side. A user
        without a profile (also id 0, someone who is not in the data) has the word for an empty value in each field.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it lacks a field, or says nothing of anybody in the interactions.
    """
    key = dataset.uid_field if side == "user" else dataset.iid_field
    tokens = [str(token) for token in dataset.field2id_token[key]]
    names = shown_names(config, side)
    if not names:
        return [""] * len(tokens)
    written = _read(config, side, key, list(names))
    _check(config, side, tokens[1:], written)
    known = [{str(value): word for value, word in config["value_words"].get(field, {}).items()} for field in names]
    texts = []
    for token in tokens:
        values = [clean_title(value) for value in written.get(token, [""] * len(names))]
        texts.append(_sentence(config["field_words"], side, names, [own.get(v, v) for own, v in zip(known, values, strict=True)]))
    return texts


def shown_names(config, side: str) -> dict[str, str]:
    """{field: its name in prompts} of one side, in order; a name that is not given is the field's, with blanks for underscores."""
    fields = (config["prompt_fields"] or {}).get(side) or ()
    pairs = (next(iter(field.items())) if isinstance(field, dict) else (field, field.replace("_", " ")) for field in fields)
    return {field: str(name) for field, name in pairs}


def _sentence(words: dict, side: str, names: dict[str, str], values: list) -> str:
    """One user's or item's values, in the words of `field_words`."""
    pairs = [
        words["field"].replace("{name}", name).replace("{value}", str(value) or words["empty"])
        for name, value in zip(names.values(), values, strict=True)
    ]
    return words[side].replace("{fields}", ", ".join(pairs))


def _read(config, side: str, key: str, fields: list[str]) -> dict[str, list[str]]:
    """{external token: values}; of a token that occurs twice the first counts, as in RecBole."""
    path = _file(config, side)
    if not path.is_file():
        raise FileNotFoundError(
            f"prompt_fields: {path} not found, and {side}: {fields} are read from it. Make a tab-separated file with the header "
            f"{key}:token<TAB>{fields[0]}:token, or leave {side} out of prompt_fields"
        )

    def wanted(types: dict) -> list[str]:
        if missing := [field for field in (key, *fields) if field not in types]:
            raise ValueError(f"prompt_fields: {path} has no column {', '.join(map(repr, missing))}; it has {', '.join(types)}. Name "
                             f"fields of these under {side}")  # fmt: skip
        return [key, *fields]

    columns = read_table(path, config["field_separator"], config["encoding"], wanted).columns
    found: dict[str, list[str]] = {}
    for token, *values in zip(columns[key], *(columns[field] for field in fields), strict=True):
        found.setdefault(token, values)
    return found


def _check(config, side: str, tokens: list[str], written: dict[str, list[str]]) -> None:
    """Warn of those of the interactions who have no line in the file.

    Raises:
        ValueError: nobody has one.
    """
    absent = [token for token in tokens if token not in written]
    if tokens and len(absent) == len(tokens):
        raise ValueError(
            f"prompt_fields: no {side} of the interactions is in {_file(config, side)}: the interactions have e.g. {tokens[0]!r}, the file "
            f"has e.g. {next(iter(written), 'nobody')!r}; write the ids in both files alike, or leave {side} out of prompt_fields"
        )
    if absent:
        shown = ", ".join(absent[:_NAMED]) + (", ..." if len(absent) > _NAMED else "")
        logging.getLogger().warning(
            f"{len(absent)} of {len(tokens)} {side}s are not in {_file(config, side)}; their fields read "
            f"{config['field_words']['empty']!r} in prompts: {shown}"
        )


def _file(config, side: str) -> Path:
    return Path(config["data_path"]) / f"{config['dataset']}.{side}"
