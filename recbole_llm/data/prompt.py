"""Prompts as segments: text, items and a user token, never a string that is searched and replaced.

A template is YAML text with named fields, ``"... watched {history}. ... {candidates} ..."``. It is split once into
:class:`Field` and text; titles are then put *between* the pieces, so that a title which itself holds ``{history}``,
a comma or a new line cannot shift a behaviour slot. LLaRA (arXiv 2312.02445, section 3.2) writes an item as its
title followed by a behaviour token; :class:`Item` carries both. On which side of the title the token stands, and what
stands between two items, is for the tokenizer (:mod:`recbole_llm.data.tokens`) to know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OPTIONAL = ("user", "profile")  # fields that a template need not have
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Field:
    """A named place of a template: ``history``, ``candidates``, ``target``, ``user`` or ``profile``."""

    name: str


@dataclass(frozen=True)
class Item:
    """An item of the catalogue: its title unless ``title`` is False, with a behaviour slot if ``slot``, then ``note`` (a rating, say)."""

    id: int
    slot: bool
    note: str = ""
    title: bool = True


@dataclass(frozen=True)
class Separator:
    """What stands between two items (``item_separator``)."""


@dataclass(frozen=True)
class UserToken:
    """One slot that holds the CRM's projected user vector."""


Segment = str | Item | Separator | UserToken


def parse_template(template: str, fields: Sequence[str]) -> list[str | Field]:
    """Split a template into text and fields.

    Args:
        template: text with ``{name}`` fields.
        fields: the names that may and must each appear exactly once (``user`` and ``profile`` may be left out).

    Raises:
        ValueError: a field is unknown, missing or repeated, or braces are doubled.
    """
    if "{{" in template or "}}" in template:
        raise ValueError(f"prompt template {template!r}: doubled braces are no escape here; write {{history}} for a field")
    pieces: list[str | Field] = []
    end = 0
    for match in _FIELD.finditer(template):
        pieces += [template[end : match.start()], Field(match.group(1))]
        end = match.end()
    pieces.append(template[end:])
    names = [piece.name for piece in pieces if isinstance(piece, Field)]
    wrong = sorted({name for name in names if name not in fields and name not in OPTIONAL})
    missing = [name for name in fields if name not in names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if wrong or missing or repeated:
        raise ValueError(
            f"prompt template {template!r}: unknown fields {wrong}, missing fields {missing}, repeated fields "
            f"{repeated}; write each of {list(fields)} exactly once ({{user}} and {{profile}} are optional)"
        )
    return [piece for piece in pieces if piece != ""]


def with_words(templates: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """Templates with the dataset's words (``prompt_words``) put in; their fields stay."""
    filled = list(templates)
    for name, word in words.items():
        filled = [text.replace("{" + name + "}", word) for text in filled]
    return filled


def with_profile(template: Sequence[str | Field], text: str) -> list[str | Field]:
    """A parsed template with what is said of a user (``prompt_fields``) where ``{profile}`` stands, else first."""
    place = Field("profile")
    pieces = [text if piece == place else piece for piece in (template if place in template else (place, *template))]
    merged: list[str | Field] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece  # one text: a tokenizer may join words across the border
        elif piece != "":
            merged.append(piece)
    return merged


def items_of(ids: Sequence[int], slot: bool, notes: Sequence[str] | None = None) -> list[Segment]:
    """Items, with a separator between two."""
    segments: list[Segment] = []
    for position, item in enumerate(ids):
        if position:
            segments.append(Separator())
        segments.append(Item(int(item), slot, notes[position] if notes else ""))
    return segments


def fill(template: Sequence[str | Field], shown: Mapping[str, Sequence[Segment]]) -> list[Segment]:
    """A parsed template with the segments ``shown`` in place of its fields; one that is not shown leaves nothing."""
    return [part for piece in template for part in (shown.get(piece.name, ()) if isinstance(piece, Field) else [piece])]


def render(
    template: Sequence[str | Field],
    history: Sequence[int],
    candidates: Sequence[int] = (),
    target: int | None = None,
    behaviour_tokens: str = "both",
    user_token: bool = False,
    notes: Sequence[str] | None = None,
) -> list[Segment]:
    """Fill a parsed template.

    Args:
        template: what :func:`parse_template` returned.
        history: item ids, oldest first; it may be empty ("nothing yet" stands there).
        candidates: item ids in the order shown (LLaRA, iLoRA).
        target: the item asked about (RecLoRA).
        behaviour_tokens: which items carry a behaviour slot.
        user_token: put the CRM's user vector where ``{user}`` stands (the prompt's end, say), or first.
        notes: words after each history item, e.g. " (liked)".

    Returns:
        Segments whose slots number exactly the items marked by ``behaviour_tokens`` plus the user token.
    """
    in_history = behaviour_tokens in ("both", "history")
    in_candidates = behaviour_tokens in ("both", "candidates")
    shown: dict[str, list[Segment]] = {
        "history": items_of(history, in_history, notes) if len(history) else [" nothing yet"],
        "candidates": items_of(candidates, in_candidates),
        "target": [Item(int(target), in_candidates)] if target is not None else [],
        "user": [UserToken()] if user_token else [],
    }
    segments: list[Segment] = []
    if user_token and Field("user") not in template:
        segments.append(UserToken())
    return segments + fill(template, shown)
