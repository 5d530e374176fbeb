"""Generated prompts: the same for the same seed, answers right by an independent computation, nobody's titles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recbole
from sklearn.metrics import roc_auc_score

from recbole_llm.builtin import phrases, titles
from recbole_llm.builtin.sequences import SKILLS
from recbole_llm.builtin.tasks import Generator, Plan
from recbole_llm.builtin.tokenizer import train_tokenizer
from recbole_llm.builtin.worlds import World

PLAN = Plan(items=(3, 6), history=(2, 4), questions=3)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(seed=5, vocab_size=800)


def _generator(tokenizer, seed=3) -> Generator:
    return Generator(tokenizer, seed, world_items=120, titles=400)


@pytest.mark.parametrize("skill", SKILLS)
def test_same_seed_same_batch(tokenizer, skill):
    first, second, other = (_generator(tokenizer, seed).batch(PLAN.only(skill), 400) for seed in (3, 3, 4))
    for name in ("ids", "slots", "answers", "rivals", "skills", "vectors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.ids, other.ids)


def test_state_is_restored(tokenizer):
    generator = _generator(tokenizer)
    generator.batch(PLAN, 300)
    state = generator.state
    expected = generator.batch(PLAN, 300)
    generator.state = state
    np.testing.assert_array_equal(generator.batch(PLAN, 300).ids, expected.ids)


def _titles_before_slots(batch, row: int, start: int, stop: int, comma: int) -> list[tuple[list[int], int]]:
    """``(title ids, vector row)`` of every slot in ``[start, stop)``, read back from the token sequence."""
    found, begin = [], start
    for position in range(start, stop):
        if batch.slots[row, position]:
            ids = batch.ids[row, begin:position].tolist()
            found.append((ids, int(batch.slots[row, position]) - 1))
            begin = position + 1
            if batch.ids[row, begin] == comma:
                begin += 1
    return found


@pytest.mark.parametrize("skill", ["lookup", "noisy", "user"])
def test_answer_is_the_nearest_candidate(tokenizer, skill):
    """One shown vector, one list: its answer stands before the slot with the largest inner product."""
    batch = _generator(tokenizer).batch(Plan(items=(4, 4), questions=1).only(skill), 800)
    comma = tokenizer(",", add_special_tokens=False)["input_ids"][0]
    for row in range(len(batch.ids)):
        answer = np.flatnonzero(batch.answers[row])
        slots = np.flatnonzero(batch.slots[row, : answer[0]])
        assert len(slots) == 5
        query, candidates = batch.vectors[batch.slots[row, slots[0]] - 1], batch.slots[row, slots[1:]] - 1
        best = int(np.argmax([float(np.dot(query, batch.vectors[c])) for c in candidates]))
        if skill == "lookup":
            np.testing.assert_array_equal(batch.vectors[candidates[best]], query)
        listed = _titles_before_slots(batch, row, slots[0] + 1, answer[0], comma)
        assert listed[best][0][-len(answer) + 1 :] == batch.ids[row, answer][:-1].tolist()
        assert batch.ids[row, answer[-1]] == tokenizer.eos_token_id


def test_yes_or_no_is_asked_once(tokenizer):
    """One answer per history, about as often yes as no: yes is said of the item that is more like what the user liked."""
    batch = _generator(tokenizer).batch(Plan(items=(4, 4), history=(3, 3), questions=3).only("yes_no"), 8000)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("ĠYes", "ĠNo"))
    said, like = [], []
    for row in range(len(batch.ids)):
        answer, slots = np.flatnonzero(batch.answers[row]), np.flatnonzero(batch.slots[row])
        assert batch.ids[row, answer].tolist() in ([yes, tokenizer.eos_token_id], [no, tokenizer.eos_token_id])
        assert len(slots) == 4 and slots[-1] < answer[0]
        vectors = batch.vectors[batch.slots[row, slots] - 1]
        said.append(batch.ids[row, answer[0]] == yes)
        like.append(float(vectors[-1] @ (0.75 ** np.arange(3)[::-1] @ vectors[:3])))
    said, like = np.array(said), np.array(like)
    assert 0.35 < said.mean() < 0.65
    assert np.median(like[said]) > np.quantile(like[~said], 0.9)


def test_a_yes_is_said_of_what_is_like_the_liked_items(tokenizer):
    """Where notes stand behind the history's items, those disliked say nothing of the answer."""
    generator, plan = _generator(tokenizer), Plan(items=(4, 4), history=(6, 6)).only("yes_no")
    notes = [[generator.pool.text(note) for kind in phrases.NOTES for note in kind[like]] for like in (0, 1)]
    bracket = len(generator.pool.text(phrases.APART[1]))  # one may stand before the note
    said, alike = [], {0: [], 1: []}
    for batch in (generator.batch(plan, 8000) for _ in range(8)):
        for row, ids in enumerate(batch.ids.tolist()):
            slots = np.flatnonzero(batch.slots[row])
            vectors = batch.vectors[batch.slots[row, slots] - 1]
            noted = [[any(ids[slot + skip :][: len(note)] == note for note in kind for skip in (1, 1 + bracket))
                      for slot in slots[:-1]] for kind in notes]
            if not all(map(any, noted)):
                continue
            assert np.add(*noted, dtype=int).tolist() == [1] * 6  # every item has one of them
            said.append(ids[np.flatnonzero(batch.answers[row])[0]] == generator.yes[0])
            for like in (0, 1):
                alike[like].append(float(vectors[-1] @ vectors[:-1][noted[like]].mean(0)))
    assert len(said) > 100
    assert roc_auc_score(said, alike[1]) > 0.9 and abs(roc_auc_score(said, alike[0]) - 0.5) < 0.2


def test_history_answer_is_nearest_to_the_decayed_mean(tokenizer):
    batch = _generator(tokenizer).batch(Plan(items=(5, 5), history=(3, 3), questions=1).only("history"), 800)
    for row in range(len(batch.ids)):
        answer = np.flatnonzero(batch.answers[row])
        rows = batch.slots[row, np.flatnonzero(batch.slots[row, : answer[0]])] - 1
        weights = np.array([0.75**2, 0.75, 1.0])
        taste = (weights[:, None] * batch.vectors[rows[:3]]).sum(0)
        best = int((batch.vectors[rows[3:]] @ taste).argmax())
        slot = np.flatnonzero(batch.slots[row])[3 + best]
        n = len(answer) - 1
        assert batch.ids[row, slot - n : slot].tolist() == batch.ids[row, answer[:-1]].tolist()


@pytest.mark.parametrize("skill", SKILLS)
def test_rivals_are_the_ways_to_go_on_of_the_listed_titles(tokenizer, skill):
    """Every answer's tokens are among their rivals; where nothing is left to choose, the token stands alone."""
    batch = _generator(tokenizer).batch(replace(PLAN, alike=1.0, weights={skill: 1.0}), 600)
    asked = batch.answers > 0
    among = batch.rivals[asked]
    assert (batch.rivals[~asked] == -1).all()
    assert (among == batch.ids[asked][:, None]).sum(1).tolist() == [1] * int(asked.sum())
    first = batch.answers != np.pad(batch.answers, ((0, 0), (1, 0)))[:, :-1]
    counts = (batch.rivals >= 0).sum(2)
    assert (counts[asked & first] >= (1 if skill in ("repeat", "number") else 2)).mean() > 0.8
    assert counts[asked & (batch.ids == tokenizer.eos_token_id)].mean() < 1.2  # titles inside titles are rare


def test_soft_answers_are_better_than_chance_and_not_always_best():
    world = World(np.random.default_rng(4), 32, 300)
    ranks = []
    for item in range(300):
        query = world.vectors[item]
        items, position = world.candidates(query, [item], 15, 0.3, soft=1.0)
        assert item not in items and len(set(items.tolist())) == 15
        ranks.append(int((world.vectors[items] @ query > world.vectors[items[position]] @ query).sum()))
    assert 0.2 < np.mean(np.array(ranks) == 0) < 0.95 and np.mean(ranks) < 4  # uniform: .07 and 7
    short, best = world.candidates(query, [7], 6, 0.3, soft=1.0)  # short lists have a best one
    assert (world.vectors[short] @ query).argmax() == best


def test_alike_titles_begin_with_one_piece(tokenizer):
    generator = Generator(tokenizer, 3, titles=4_000)
    rng, found = np.random.default_rng(0), []
    for _ in range(50):
        listed = generator.pool.draw(rng, 10, 12)
        generator.pool.alike(rng, listed, 12, member=4)
        openings = [title[0] for title in listed]
        found.append(openings.count(openings[4]))
        assert len(listed) == 10
    assert np.mean(np.array(found) >= 2) > 0.6


def test_choices_lead_by_the_margin():
    world = World(np.random.default_rng(0), 32, 200)
    query = world.vectors[7]
    items, position = world.choices(query, [7], 6, margin=0.5)
    scores = world.vectors @ query
    assert 7 not in items and len(set(items.tolist())) == 6
    others = np.delete(scores[items], position)
    assert scores[items[position]] - others.max() >= 0.5 * scores.std() - 1e-5


def test_popular_items_share_a_direction_with_the_histories():
    """Coherence is |mean| over the root mean square of a history's vectors: 1 where all are alike."""

    def coherence(popular):
        found = []
        for seed in range(20):
            world = World(np.random.default_rng(seed), 32, 200, popular=popular)
            for items in world.histories(5, 10, 4.0):
                vectors = world.vectors[items]
                found.append(np.linalg.norm(vectors.mean(0)) / np.sqrt((vectors**2).sum(1).mean()))
        return np.mean(found)

    assert coherence((0.8, 0.8)) > coherence((0.0, 0.0)) + 0.1
    world = World(np.random.default_rng(3), 32, 200, popular=(0.8, 0.8))
    assert abs((world.vectors**2).mean() - 1) < 1e-3 and np.abs(world.vectors.mean(0)).max() < 1e-3


def test_answer_position_is_uniform():
    world = World(np.random.default_rng(1), 32, 200)
    positions = [world.choices(world.vectors[i % 200], [i % 200], 5, 0.3)[1] for i in range(1000)]
    counts = np.bincount(positions, minlength=5)
    assert ((counts - 200) ** 2 / 200).sum() < 20  # chi-square, 4 degrees of freedom: p < .001 beyond 18.5


def test_no_title_of_a_dataset():
    """No title of ml-100k with three words or more is made or kept here."""
    file = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.item"
    rows = file.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    real = {row.split("\t")[1].lower() for row in rows}
    real = {title for title in real if len(title.split()) >= 3}
    assert len(real) > 500
    real |= {f"the {title[:-5]}" for title in real if title.endswith(", the")}
    made = {title.lower() for seed in (11, 2020) for title in titles.make_titles(seed, 20_000)}
    made |= {title.lower() for title in titles.make_titles(2020, 30_000, pseudo=0.2)}  # the tokenizer's
    source = Path(titles.__file__).read_text(encoding="utf-8").lower().replace("\n", " ")
    assert not real & made
    assert not {title for title in real if title in source}
