"""The generation protocol of LLaRA (arXiv 2312.02445): which candidate does an answer name? ValidRatio, HitRatio@1.

An answer is its first line, as in the evaluators released with LLaRA and iLoRA: what an LLM writes below it is no part of it.
It is valid if it names exactly one candidate. Deviations from the released code, which looks for every title as
a substring and so rejects perfect answers whose title holds another candidate's ("Toy Story 2" and "Toy Story"):

- an answer that is a candidate's title, character for character, names that candidate;
- otherwise titles are looked for longest first, at word boundaries, without case, and what one has matched is taken
  away before shorter ones are tried;
- candidates are told apart by id. Where several share a title, an answer that names it stands for the first of them in
  candidate order: positions are uniform, so this is right as often as a fair choice between them;
- HitRatio@1 is given over valid answers and over all: published numbers differ in which they mean.
"""

from __future__ import annotations

import re
import unicodedata

# Letters of scripts that put no spaces between words (Thai, Lao, Burmese, Khmer, kana, Han): no boundary needed.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W{_UNSPACED}]"
_TAKEN = "\n"  # a normalised text holds no newline, so nothing matches across a span that was taken away


def is_generated(config) -> bool:
    """Whether a run writes answers: for its test rows, or to select an epoch by."""
    return config["llm_eval"] == "generate" or config["selection"] == "generation"


def first_line(text):
    """The first line that is not blank, without white space around it; "" where there is none."""
    return text.strip().partition("\n")[0].strip()


def match_candidate(text, candidates):
    """Id of the one candidate that the answer names, or None if it names none or several.

    Args:
        text: the answer.
        candidates: (id, title) pairs in candidate order.
    """
    named = named_candidates(text, candidates)
    return named[0] if len(named) == 1 else None


def named_candidates(text, candidates):
    """Ids of all candidates that the answer names, longest title first; of equal titles the first candidate."""
    line = first_line(text)
    for answer in (text, line):  # a title may hold a line break itself
        plain = " ".join(answer.split())
        for item, title in candidates:
            if plain and plain == " ".join(title.split()):
                return [item]
    first = {}
    for item, title in candidates:
        first.setdefault(_normalise(title), item)
    answer, named = _normalise(line), []
    for title in sorted(filter(None, first), key=len, reverse=True):
        answer, count = re.subn(_pattern(title), _TAKEN, answer)
        if count:
            named.append(first[title])
    return named


def generation_report(texts, candidates, targets):
    """Metrics of generated answers.

    Args:
        texts: n answers.
        candidates: n lists of (id, title) in candidate order.
        targets: n ids.

    Returns:
        {"valid_ratio", "hit@1_valid", "hit@1_all", "n"}; "hit@1_valid" is None where no answer is valid.

    Raises:
        ValueError: no rows, lists of different lengths, or a target that is not among its row's candidates.
    """
    n = len(texts)
    if not n or len(candidates) != n or len(targets) != n:
        raise ValueError(
            f"need as many answers as candidate lists and targets, and at least one: "
            f"{n}, {len(candidates)}, {len(targets)}"
        )
    for row, (options, target) in enumerate(zip(candidates, targets, strict=True)):
        if all(item != target for item, _ in options):
            raise ValueError(f"row {row}: the target {target!r} is not among its candidates")
    answers = [match_candidate(text, options) for text, options in zip(texts, candidates, strict=True)]
    valid = sum(answer is not None for answer in answers)
    hits = sum(answer is not None and answer == target for answer, target in zip(answers, targets, strict=True))
    return {"valid_ratio": valid / n, "hit@1_valid": hits / valid if valid else None, "hit@1_all": hits / n, "n": n}


def _normalise(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _pattern(title):
    """The title where it neither begins nor ends inside a word."""
    before = rf"(?<!{_WORD})" if re.match(_WORD, title) else ""
    after = rf"(?!{_WORD})" if re.match(_WORD, title[-1]) else ""
    return before + re.escape(title) + after
