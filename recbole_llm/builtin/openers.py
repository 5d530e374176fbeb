"""Words that the built-in LLM takes for the beginning of a candidate list, and prompts that it would misread for them."""

from __future__ import annotations

from collections.abc import Sequence

OPENERS = (" candidates", " candidate", " choose", " Choose", " Options", " recommend",
           " Recommend", " predict", " Predict", " Which", " Candidates", " like", " enjoy", " next", " Choice")


def flag_tokens(tokenizer) -> list[int]:
    """Tokens that open a candidate list: words of one token that hardly any title has."""
    split = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in OPENERS]
    return sorted({ids[0] for ids in split if len(ids) == 1})


def misread(tokenizer, templates: Sequence[str]) -> list[str]:
    """What the built-in LLM would misread in prompt templates whose words are filled in; a line for each.

    Items behind an opener are candidates to it, all others the user's history, also if fine-tuning has to say otherwise.
    """
    flags, found = flag_tokens(tokenizer), []
    for template in templates:
        before, _, rest = template.partition("{history}")
        asked = rest.partition("{candidates}" if "{candidates}" in rest else "{target}")[0]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, asked)]
        if early := [tokenizer.decode([token]).strip() for token in ids[0] if token in flags]:
            found.append(
                f"prompt {template!r}: the built-in LLM takes what follows {', '.join(map(repr, early))} for candidates, so the "
                "history too; use other words before {history} (prompt_words: verbed: chosen, rated, played ...)"
            )
        if not set(flags) & set(ids[1]):
            found.append(
                f"prompt {template!r}: the built-in LLM sees no list of candidates begin; between {{history}} and what is asked "
                f"about write one of{','.join(sorted(OPENERS))}"
            )
    return found
