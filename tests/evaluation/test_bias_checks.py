"""Bias checks: groups, planted position bias, candidate permutations, planted leaks."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_llm.evaluation import bias_checks
from recbole_llm.leaderboard.statistics import flatness_p

Segment = namedtuple("Segment", "text")


@dataclass(frozen=True)
class Key:
    row: int
    candidates: tuple
    target_position: int


def test_popularity_groups_hold_a_third_of_the_interactions_each():
    counts = np.array([60, 30, 30, 20, 20, 20, 0])
    assert bias_checks.popularity_groups(np.arange(7), counts).tolist() == [0, 1, 1, 2, 2, 2, 2]


def test_history_groups_are_thirds_with_honest_names():
    group, names = bias_checks.history_groups(np.array([3, 4, 5, 10, 11, 12, 40, 50, 60]))
    assert names == ["3-5", "10-12", "40-60"] and np.bincount(group).tolist() == [3, 3, 3]
    group, names = bias_checks.history_groups(np.array([8, 8, 8]))
    assert names == ["8-8"] and set(group) == {0}


def test_counts_per_group():
    found = bias_checks.group_counts(np.array([1, 2, 1, 1]), np.array([0, 0, 1, 2]), ["a", "b", "c"])
    assert found == {"groups": ["a", "b", "c"], "hits": [1, 1, 1], "rows": [2, 1, 1]}


def test_permuted_batches_keep_rows_and_targets():
    keys = [[Key(i, tuple(range(10 * i, 10 * i + 5)), i % 5) for i in range(6)]]
    (again,) = bias_checks.permuted_batches(keys, 3)
    assert [key.row for key in again] == list(range(6))
    for old, new in zip(keys[0], again, strict=True):
        assert sorted(new.candidates) == sorted(old.candidates)
        assert new.candidates[new.target_position] == old.candidates[old.target_position]
    assert again != keys[0] and bias_checks.permuted_batches(keys, 3) == bias_checks.permuted_batches(keys, 3)


class Rows(torch.utils.data.Dataset):
    def __getitem__(self, key):
        return key


class Batch(dict):
    def to(self, device):
        return self


def collate(keys):
    return Batch(
        candidates=torch.tensor([key.candidates for key in keys]),
        target_position=torch.tensor([key.target_position for key in keys]),
    )


def trainer_of(score):
    model = SimpleNamespace(score_candidates=score, eval=lambda: None)
    return SimpleNamespace(model=model, device="cpu", steps=SimpleNamespace(autocast=torch.no_grad))


def loader():
    rng = np.random.default_rng(0)
    batches = [
        [Key(i, tuple(rng.permutation(100)[:8].tolist()), int(rng.integers(8))) for i in range(s, s + 25)]
        for s in range(0, 100, 25)
    ]
    return SimpleNamespace(dataset=Rows(), batch_sampler=batches, collate_fn=collate)


def test_a_model_that_reads_items_does_not_move_under_permutations_and_one_that_reads_places_does():
    steady = bias_checks.permutation_spread(trainer_of(lambda batch: batch["candidates"].float()), loader(), 4, 0)
    assert steady["sd"] == 0 and steady["same_top"] == 1.0 and len(set(steady["hit@1"])) == 1
    first = bias_checks.permutation_spread(
        trainer_of(lambda batch: -torch.arange(8.0).expand(batch["candidates"].shape)), loader(), 4, 0
    )
    assert first["sd"] > 0 and first["same_top"] < 0.1


def test_a_planted_preference_for_the_first_place_is_found():
    rng = np.random.default_rng(0)
    position = rng.integers(20, size=2000)
    rank = np.where(rng.random(2000) < np.where(position == 0, 0.8, 0.35), 1, 5)
    found = bias_checks.group_counts(rank, position, [str(i) for i in range(20)])
    assert flatness_p(found["hits"], found["rows"]) < 1e-6


TITLES = ["[PAD]", "It", "It Happened One Night", "Heat", "Casino", "Speed", "Heat"]


class Tokens:
    """One character, one token."""

    tokenizer = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))
    title_ids = [[ord(c) for c in " " + title] for title in TITLES]


def leaks(text: str, candidates, position, history, slots=(), target=None):
    target = candidates[position] if target is None else target
    ids = torch.tensor([[ord(c) for c in text] + [0] * len(slots)])
    items = torch.tensor([[0] * len(text) + list(slots)])
    batch = {
        "candidates": torch.tensor([candidates]),
        "target_position": torch.tensor([position]),
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids, dtype=torch.bool),
        "prompt_items": items,
        "item_id_list": torch.tensor([history]),
        "candidate_row": torch.tensor([17]),
    }
    return bias_checks.leak_check(loader_of(batch, target), Tokens)


def loader_of(batch, target):
    """A loader of one batch with one row, whose target is `target`."""
    split = SimpleNamespace(
        config={"ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list"}, iid_field="item_id", inter_feat={"item_id": torch.tensor([0, target])}
    )
    parts = {"dataset": SimpleNamespace(split=split), "batch_sampler": [[Key(1, (), 0)]]}
    return type("Loader", (list,), parts)([batch])


@pytest.mark.parametrize(
    "text, candidates, position, history, slots, expected",
    [
        ("watched Casino. Candidates: Heat, Speed", [3, 5], 0, [4], (), (0, 0)),
        ("watched Casino, Heat. Candidates: Heat, Speed", [3, 5], 0, [4], (), (0, 1)),  # the title once more
        ("watched Casino. Candidates: Heat, Speed", [3, 5], 0, [4, 3], (), (1, 1)),  # the item is in the history
        (
            "watched Casino. Candidates: Heat, Speed",
            [3, 5],
            0,
            [4],
            (4, 3, 5, 3),
            (1, 0),
        ),  # a behaviour token of its own
        ("watched It Happened One Night. Candidates: It, Heat", [1, 3], 0, [2], (), (0, 0)),  # inside a longer title
        ("watched Casino. Candidates: Heat, Heat", [3, 6], 0, [4], (), (0, 0)),  # two items, one title
        ("watched Speed.", [3, 4], 0, [5], (), (0, 0)),  # RecLoRA: no list in what its questions share
        ("watched Speed, Heat.", [3, 4], 0, [5], (), (0, 1)),
        ("watched Speed.", [3, 4], 0, [5], (5, 3), (1, 0)),
        (
            "watched Heat. Candidates: Heat, Casino",
            [3, 4],
            0,
            [6],
            (),
            (0, 1),
        ),  # the other item of that title, seen before
    ],
)
def test_leaks(text, candidates, position, history, slots, expected):
    found = leaks(text, candidates, position, history, slots)
    assert (found["id_outside"], found["title_outside"]) == expected and found["rows"] == 1
    assert found["examples"] == ([17] if any(expected) else [])


def test_a_target_that_was_not_retrieved_must_not_be_in_the_prompt_at_all():
    """Protocol full: the candidates are what the recommender retrieved."""
    assert leaks("watched Casino. Candidates: Heat, Speed", [3, 5], 0, [4], target=2)["title_outside"] == 0
    found = leaks("watched Casino, It Happened One Night. Candidates: Heat, Speed", [3, 5], 0, [4], target=2)
    assert found["title_outside"] == 1
    assert leaks("watched Casino. Candidates: Heat", [3, 5], 0, [4], (2,), target=2)["id_outside"] == 1


def test_a_leak_in_any_of_a_rows_prompts_is_found():
    """RecLoRA with histories by relevance: a prompt [C, P] and a history [C, L] for each candidate."""
    clean, leaky = "watched Casino.       ", "watched Casino, Speed."
    for texts, expected in ([clean, clean], 0), ([clean, leaky], 1):
        ids = torch.tensor([[[ord(c) for c in text] for text in texts]])
        batch = {
            "candidates": torch.tensor([[3, 5]]), "prompt_ids": ids, "prompt_items": torch.zeros_like(ids),
            "prompt_mask": torch.ones_like(ids, dtype=torch.bool), "candidate_row": torch.tensor([17]),
            "item_id_list": torch.tensor([[[4, 0], [4, 0]]]),
        }  # fmt: skip
        found = bias_checks.leak_check(loader_of(batch, 5), Tokens)
        assert found["title_outside"] == expected and found["id_outside"] == 0


def test_histories_of_candidates_move_with_them():
    @dataclass(frozen=True)
    class Question(Key):
        text: tuple = ()
        long: tuple = ()

    per_item = Question(0, (7, 8, 9), 1, text=((70,), (80,), (90,)), long=((71,), (81,), (91,)))
    shared = Question(1, (7, 8, 9), 1, text=((1, 2),), long=((3,),))
    ((first, second),) = bias_checks.permuted_batches([[per_item, shared]], 5)
    assert first.candidates != per_item.candidates
    assert first.text == tuple((10 * item,) for item in first.candidates)
    assert first.long == tuple((10 * item + 1,) for item in first.candidates)
    assert second.text == shared.text and second.long == shared.long
