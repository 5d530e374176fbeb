"""Words of the question "will the user like this item?": its templates, its answers' tokens, the notes behind a history's items."""

from __future__ import annotations

from recbole_llm import registry
from recbole_llm.data.click.timelines import Timelines


def kind_asked(protocol) -> str:
    """The key of `click_templates` for a protocol: of liking (ctr), or of what comes next (candidates), also where it is unknown."""
    return "ctr" if registry.is_protocol(protocol) and registry.protocol(protocol).labelled else "candidates"


def click_templates(config) -> list[str]:
    """The question's templates for the run's protocol."""
    return config["click_templates"][kind_asked(config["protocol"])]


def first_token_ids(tokenizer, yes="Yes", no="No", context="Answer:", separator=" "):
    """First tokens of two answers as they follow the prompt's end: (yes_id, no_id).

    Raises:
        ValueError: both answers begin with the same token, or one has no token.
    """
    base = tokenizer(context, add_special_tokens=False)["input_ids"]
    found = []
    for word in (yes, no):
        ids = tokenizer(context + separator + word, add_special_tokens=False)["input_ids"]
        if ids[: len(base)] == base:
            ids = ids[len(base) :]
        else:  # the tokenizer merges across the border: take the answer as fed by itself
            ids = tokenizer(separator + word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the tokenizer gives {word!r} no token after {context!r}; choose another answer word")
        found.append(ids[0])
    if found[0] == found[1]:
        raise ValueError(
            f"{yes!r} and {no!r} begin with the same token ({found[0]}) in this tokenizer; choose other answer words"
        )
    return tuple(found)


def answer_ids(config, tokenizer, text: str) -> tuple[int, int]:
    """First tokens of Yes and No as they follow the end of a template.

    They follow after a blank, or without one where a tokenizer makes the blank a token of its own.

    Args:
        config: reads `answer_words`.
        tokenizer: the LLM's.
        text: the template.

    Returns:
        (yes_id, no_id)

    Raises:
        ValueError: they are the same both ways.
    """
    (yes, no), context = config["answer_words"], text.rsplit("}", 1)[-1] or "Answer:"
    try:
        return first_token_ids(tokenizer, yes, no, context)
    except ValueError:
        return first_token_ids(tokenizer, yes, no, context, separator="")


def note_kind(config) -> str:
    """`history_notes`, or what it is where it is null: likes of labelled rows, else none."""
    return config["history_notes"] or ("likes" if registry.protocol(config["protocol"]).labelled else "none")


def history_notes(config, timelines: Timelines) -> list[str] | None:
    """What is written behind each item of a history: likes, ratings or nothing (None)."""
    kind = note_kind(config)
    words = config["note_words"]
    if kind == "likes" and timelines.labels is not None:
        return [" " + words["liked" if label else "disliked"] for label in timelines.labels.tolist()]
    if kind == "ratings" and timelines.ratings is not None:
        return [" " + words["rating"].replace("{rating}", f"{value:g}") for value in timelines.ratings.tolist()]
    if kind != "none":
        raise ValueError(f"history_notes: {kind!r} needs {'labels' if kind == 'likes' else 'ratings'}, which "
                         f"{config['dataset']} does not have; set history_notes: none")  # fmt: skip
    return None
