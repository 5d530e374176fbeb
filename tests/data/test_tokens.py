import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from recbole_llm.data.prompt import Item, Separator, UserToken, parse_template, render
from recbole_llm.data.tokens import USER_SLOT, PromptTokenizer

TEMPLATE = parse_template("Watched:{history}. Choose:{candidates}. Answer:", ("history", "candidates"))
NASTY = [
    "",
    "Plain Title",
    "{history} and {candidates}",
    "One, two, three",
    'The "quoted" one',
    "NA",
    "</s> <pad> <s>",
    "Amélie 🎬 \u0645\u0631\u062d\u0628\u0627",
    "x" * 400,
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llm):
    return AutoTokenizer.from_pretrained(tiny_llm)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return PromptTokenizer(tokenizer, NASTY, title_max_tokens=20)


def test_a_prompt_reads_as_its_text_with_slots_removed(prompts, tokenizer):
    ids, items = prompts.assemble(render(TEMPLATE, [1, 3], [5, 4]))
    text = tokenizer.decode([i for i, item in zip(ids, items, strict=True) if not item], skip_special_tokens=False)
    assert text == '<s>Watched: Plain Title, One, two, three. Choose: NA, The "quoted" one. Answer:'


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, len(NASTY) - 1), max_size=10), st.lists(st.integers(1, len(NASTY) - 1), min_size=1, max_size=20))
def test_no_title_shifts_a_slot(prompts, history, candidates):
    """Whatever titles hold, slot k is right behind title k's own tokens and names item k."""
    ids, items = prompts.assemble(render(TEMPLATE, history, candidates))
    places = [place for place, item in enumerate(items) if item]
    assert [items[place] for place in places] == history + candidates
    for place in places:
        title = prompts.title_ids[items[place]]
        assert ids[place - len(title) : place] == title and ids[place] == prompts.pad_token_id
        assert not any(items[place - len(title) : place])


def test_words_stand_around_a_slot_and_nowhere_else(tokenizer):
    prompts = PromptTokenizer(tokenizer, NASTY, title_max_tokens=20, slot_words=(" (", ")"))
    ids, items = prompts.assemble([Item(1, True, " (liked)"), ",", Item(3, False, " (liked)")])
    shown = [tokenizer.decode([i]) if not item else f"<{item}>" for i, item in zip(ids, items, strict=True)]
    assert "".join(shown) == "<s> Plain Title (<1>) (liked), One, two, three (liked)"
    plain = PromptTokenizer(tokenizer, NASTY, title_max_tokens=20)
    assert plain.assemble([Item(1, True)])[1] == [0] * (1 + len(plain.title_ids[1])) + [1]


def test_a_slot_stands_behind_or_in_front_of_its_title(tokenizer):
    shown = {}
    for place in ("after", "before"):
        prompts = PromptTokenizer(tokenizer, NASTY, 20, slot_words=(" (", ")"), slot_place=place, separator="\n")
        ids, items = prompts.assemble([Item(1, True, " (liked)"), Separator(), Item(3, True), Separator(), Item(4, False)])
        pieces = [tokenizer.decode([i]) if not item else f"<{item}>" for i, item in zip(ids, items, strict=True)]
        shown[place] = "".join(pieces)
        assert ids[items.index(1)] == prompts.pad_token_id
    assert shown["after"] == '<s> Plain Title (<1>) (liked)\n One, two, three (<3>)\n The "quoted" one'
    assert shown["before"] == '<s> (<1>) Plain Title (liked)\n (<3>) One, two, three\n The "quoted" one'


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, len(NASTY) - 1), max_size=10), st.lists(st.integers(1, len(NASTY) - 1), min_size=1, max_size=20))
def test_a_slot_in_front_is_followed_by_its_own_title(tokenizer, history, candidates):
    prompts = PromptTokenizer(tokenizer, NASTY, 20, slot_place="before", separator="\n")
    ids, items = prompts.assemble(render(TEMPLATE, history, candidates))
    places = [place for place, item in enumerate(items) if item]
    assert [items[place] for place in places] == history + candidates
    for place in places:
        title = prompts.title_ids[items[place]]
        assert ids[place + 1 : place + 1 + len(title)] == title  # the ids that an answer has
        assert prompts.answer(items[place]) == [*title, prompts.eos_token_id]


def test_a_new_line_is_one_whatever_a_tokenizer_makes_of_several():
    """Byte-pair tokenizers join new lines into one token: an encoding behind the anchor must not count it in."""

    class Joining:
        eos_token_id, pad_token_id, bos_token_id = 2, 0, None

        def __call__(self, texts, add_special_tokens, split_special_tokens):
            def one(text):
                return [900 if piece == "\n\n" else ord(piece) for piece in re.findall("\n\n|.|\n", text)]

            return {"input_ids": one(texts) if isinstance(texts, str) else [one(t) for t in texts]}

    prompts = PromptTokenizer(Joining(), ["", "A", "B"], separator="\n")
    ids, _ = prompts.assemble([Item(1, False), Separator(), Item(2, False)])
    assert ids == [ord(character) for character in " A\n B"]


def test_a_title_cannot_smuggle_in_a_special_token(prompts, tokenizer):
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert not special & set(prompts.title_ids[6])
    assert tokenizer.decode(prompts.title_ids[6]) == " </s> <pad> <s>"


def test_long_titles_are_cut_and_answers_end(prompts):
    assert len(prompts.title_ids[8]) == 20
    assert prompts.answer(1) == [*prompts.title_ids[1], prompts.eos_token_id]
    assert prompts.lengths().tolist() == [len(ids) for ids in prompts.title_ids]


def test_the_user_token_is_one_slot(prompts):
    ids, items = prompts.assemble([UserToken(), "Hello", Item(1, False, " (liked)")])
    assert items.count(USER_SLOT) == 1 and sum(map(bool, items)) == 1
    assert ids[-len(prompts.encode(" (liked)")) :] == prompts.encode(" (liked)")


def test_sentencepiece_style_tokenizers_put_no_space_before_a_comma(prompts):
    """A tokenizer that marks the start of every text (Llama-2) must not mark the start of every piece."""

    class Marking:
        eos_token_id, pad_token_id, bos_token_id = 2, 0, 1

        def __call__(self, texts, add_special_tokens, split_special_tokens):
            def one(text):
                return [ord(c) for c in ("\u2581" + text.replace(" ", "\u2581"))]

            return {"input_ids": one(texts) if isinstance(texts, str) else [one(t) for t in texts]}

    marking = PromptTokenizer(Marking(), ["", "A b"])
    assert marking.encode(",") == [ord(",")]
    assert marking.title_ids[1] == [ord(c) for c in "\u2581A\u2581b"]


def test_a_tokenizer_without_an_end_token_is_refused():
    class NoEnd:
        eos_token_id = None

    with pytest.raises(ValueError, match="no end-of-sequence token"):
        PromptTokenizer(NoEnd(), ["", "a"])


def test_a_cut_title_is_named_as_answers_hold_it(prompts, tokenizer):
    """A perfect answer must be recognised: it can hold no more of the title than `title_max_tokens`."""
    for item in range(1, len(NASTY)):
        answer = tokenizer.decode(prompts.answer(item), skip_special_tokens=True)
        assert answer.strip() == prompts.named(item).strip()
    assert prompts.named(1) == "Plain Title" and len(prompts.named(8)) < 400
