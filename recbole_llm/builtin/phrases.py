"""The words around the lists of a prompt: LLaRA's templates in meaning, and paraphrases, for several domains.

A frame is ``(before the history, before the candidates, before the answer)``. Domains give the verb and the nouns.
"""

from __future__ import annotations

import numpy as np

DOMAINS = (
    ("watched", "watch", "movie"),
    ("listened to", "listen to", "music artist"),
    ("played", "play", "game"),
    ("read", "read", "book"),
    ("bought", "buy", "product"),
    ("visited", "visit", "place"),
    # the words of properties/ that are not among these
    ("listened to", "listen to", "artist"),
    ("listened to", "listen to", "track"),
    ("chosen", "choose", "item"),
)

FRAMES = (
    ("This user has {past}", " in the previous. Please predict the next {noun} this user will {verb}. The {noun} title"
     " candidates are", ". Choose only one {noun} from the candidates. The answer is"),
    ("The visit history of this user is:", ". Recommend one {noun} from the following set of {noun} titles for this"
     " user to {verb} next:", ". The recommendation is"),
    ("Given the {past} {noun}s of a user:", " predict the next {noun}. Choose from the candidate set:", ". Answer:"),
    ("A user {past} these {noun}s:", ". Which {noun} will this user {verb} next? Candidates:", ". Next {noun}:"),
    ("History:", ". Options:", ". Choice:"),
    ("The user has {past} the following {noun}s in order:", ". From the candidates below, choose the one the user is"
     " most likely to {verb} next:", ". The most likely {noun} is"),
    ("User has {past}", ". Please recommend the next {noun}, one of:", ". Answer with the title only:"),
    ("Recently {past}:", ". Now choose one of the titles", ". The next one is"),
    # prompt_templates of properties/llm.yaml, word for word
    ("This user has {past} these {noun}s:", ". Which one of the following {noun}s will this user {verb} next?",
     ". Answer with one {noun}:"),
    ("{noun}s that a user has {past}, oldest first:", ". Choose the {noun} to {verb} next from this list:",
     ". The next {noun} is:"),
    ("The history of a user, {noun}s in the order {past}:", ". From the list that follows, recommend the {noun} to {verb}"
     " next:", ". The recommended {noun} is:"),
)

USER_LEADS = ("The taste of this user is", "User", "This user is described by", "The user's representation is", "")
LOOKUPS = (". The title is", ". Which one is", ". Find", ". Title:", ". Answer:")
REPEATS = (". Repeat:", ". Again:", ". The same list:", ". Copy:")
NUMBERS = (". Number", ". Title number", ". Choose number")
YES_NO = (". Will the user like", ". Is the next one",
          ". Would this user enjoy", ". Predict whether the user will like",
          # click_templates of properties/llm.yaml
          *(f". Will this user like the {noun}" for _, _, noun in DOMAINS),
          *(f". Will this user {verb} next the {noun}" for _, verb, noun in DOMAINS))
YES_NO_LEADS = tuple(f"A user's {noun}s, oldest first:" for _, _, noun in DOMAINS)  # click_templates.ctr
# note_words: behind what a user did not like, and did
NOTES = (((" (disliked)",), (" (liked)",)), ((" (1 of 5)", " (2 of 5)", " (3 of 5)"), (" (4 of 5)", " (5 of 5)")))
APART = (" (", ")")  # behaviour_token_words of properties/model/RecLoRA.yaml
YES_NO_ENDS = ("? Answer Yes or No:", "? Answer yes or no. Answer:", "? Answer:", "? Yes or no:")
LISTS = ("Titles:", "The list is", "Candidates:", "Here are some titles:", "Items:")


def fill(text: str, domain: tuple[str, str, str]) -> str:
    """Put a domain's words into a phrase."""
    return text.replace("{past}", domain[0]).replace("{verb}", domain[1]).replace("{noun}", domain[2])


def frame(rng: np.random.Generator) -> tuple[str, str, str]:
    """A random frame in a random domain."""
    chosen, domain = FRAMES[int(rng.integers(len(FRAMES)))], DOMAINS[int(rng.integers(len(DOMAINS)))]
    return tuple(fill(text, domain) for text in chosen)


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def all_phrases() -> list[str]:
    """Every phrase in every domain, for the tokenizer."""
    texts = [fill(text, domain) for domain in DOMAINS for chosen in FRAMES for text in chosen]
    for group in (USER_LEADS, LOOKUPS, REPEATS, NUMBERS, YES_NO, YES_NO_LEADS, YES_NO_ENDS, APART, LISTS,
                  *(words for kind in NOTES for words in kind), (" Yes", " No", " nothing yet")):
        texts += [text for text in group if text]
    return texts
