import numpy as np
import pytest
import torch
from recbole.data import create_dataset

from recbole_llm import LLMConfig
from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.dataloader import (
    TestPromptDataLoader,
    TrainPromptDataLoader,
    ValidPromptDataLoader,
)
from recbole_llm.data.prompt import with_words
from tests import tiny


@pytest.fixture(scope="module")
def built(tiny_data, tiny_llm, tmp_path_factory):
    settings = tiny.settings(tiny_data, tiny_llm, tmp_path_factory.mktemp("loader"), curriculum="none", epochs=2)
    config = LLMConfig("LLaRA", "tiny", config_dict=settings)
    return config, create_dataset(config).build()


def epoch(loader, number, start_batch=0):
    loader.set_epoch(number, start_batch)
    return list(loader)


def same(a, b):
    return a.interaction.keys() == b.interaction.keys() and all(torch.equal(a[k], b[k]) for k in a.interaction)


def test_training_batches_hold_the_seeded_sample_once(built):
    config, (train, *_) = built
    loader = TrainPromptDataLoader(config, train)
    batches = epoch(loader, 0)
    assert sum(map(len, batches)) == 64 and len(batches) == len(loader) == 8
    pairs = {(int(u), int(i)) for b in batches for u, i in zip(b["user_id"], b["item_id"], strict=True)}
    assert len(pairs) == 64
    again = {(int(u), int(i)) for b in epoch(loader, 1) for u, i in zip(b["user_id"], b["item_id"], strict=True)}
    assert again == pairs


def test_an_epoch_is_a_function_of_its_number(built):
    config, (train, *_) = built
    first, second = (epoch(TrainPromptDataLoader(config, train), 1) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    other = epoch(TrainPromptDataLoader(config, train), 0)
    assert not all(a["candidates"].equal(b["candidates"]) for a, b in zip(first, other, strict=True))


def test_an_epoch_resumes_at_any_batch(built):
    config, (train, *_) = built
    loader = TrainPromptDataLoader(config, train)
    whole = epoch(loader, 1)
    for start in (1, 5, 8):
        assert all(same(a, b) for a, b in zip(whole[start:], epoch(loader, 1, start), strict=True))


def test_negatives_change_with_the_epoch_and_never_hold_the_history(built):
    config, (train, *_) = built
    loader = TrainPromptDataLoader(config, train)
    histories = candidate_sets(config).histories
    seen = {}
    for number in (0, 1):
        for batch in epoch(loader, number):
            for user, item, row in zip(batch["user_id"], batch["item_id"], batch["candidates"], strict=True):
                tokens = train.id2token("item_id", row.numpy())
                token = train.id2token("user_id", int(user))
                mine = {str(t) for t in candidate_sets(config).catalogue[histories[token]]}
                assert set(map(str, tokens)) & mine == {str(train.id2token("item_id", int(item)))}
                seen.setdefault((int(user), int(item)), set()).add(frozenset(row.tolist()))
    assert np.mean([len(sets) for sets in seen.values()]) > 1.9


def test_prompts_are_left_padded_and_slots_name_history_then_candidates(built):
    config, (train, *_) = built
    for batch in epoch(TrainPromptDataLoader(config, train), 0):
        mask = batch["prompt_mask"]
        assert mask[:, -1].all() and (mask.int().diff(dim=1) >= 0).all()
        for row in range(len(batch)):
            slots = batch["prompt_items"][row][batch["prompt_items"][row] != 0].tolist()
            length = min(int(batch["item_length"][row]), config["history_max_len"])
            history = batch["item_id_list"][row][: batch["item_length"][row]][-length:].tolist()
            candidates = batch["candidates"][row].tolist()
            assert slots in (history + candidates, candidates + history)
            assert candidates[batch["target_position"][row]] == batch["item_id"][row]


def test_answers_are_the_targets_title_and_the_end_token(built):
    config, (train, *_) = built
    loader = TrainPromptDataLoader(config, train)
    tokenizer = train.prompt_tokenizer.tokenizer
    for batch in epoch(loader, 0)[:3]:
        for row in range(len(batch)):
            ids = batch["answer_ids"][row][batch["answer_mask"][row]].tolist()
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids[:-1]) == " " + train.titles[batch["item_id"][row]]


@pytest.mark.parametrize("loader_class", [ValidPromptDataLoader, TestPromptDataLoader])
def test_evaluation_shows_the_frozen_candidates(built, loader_class):
    config, splits = built
    chosen = getattr(candidate_sets(config), loader_class.phase)
    split = splits[1] if loader_class.phase == "valid" else splits[2]
    rows = []
    for batch in loader_class(config, split):
        for i, row in enumerate(batch["candidate_row"].tolist()):
            shown = split.id2token("item_id", batch["candidates"][i].numpy())
            assert list(shown) == chosen.catalogue[chosen.candidates[row]].tolist()
            assert split.id2token("user_id", int(batch["user_id"][i])) == chosen.user_ids[row]
            assert int(batch["target_position"][i]) == chosen.target_position[row]
            for j, item in enumerate(batch["candidates"][i].tolist()):
                ids = batch["branch_ids"][i, j][batch["branch_mask"][i, j]].tolist()
                assert ids == split.prompt_tokenizer.answer(item)
            rows.append(row)
    assert sorted(rows) == list(range(len(chosen)))


def test_the_target_is_nowhere_but_among_the_candidates(built):
    """Leak check: the target's id fills exactly one slot, and it is its candidate's."""
    config, splits = built
    for batch in TestPromptDataLoader(config, splits[2]):
        slots = (batch["prompt_items"] == batch["item_id"][:, None]).sum(1)
        assert slots.eq(1).all()


def test_a_validation_sample_is_seeded_and_keeps_its_row_numbers(built):
    config, splits = built
    config["valid_sample_size"] = 7
    rows = [r for b in ValidPromptDataLoader(config, splits[1]) for r in b["candidate_row"].tolist()]
    again = [r for b in ValidPromptDataLoader(config, splits[1]) for r in b["candidate_row"].tolist()]
    config["valid_sample_size"] = None
    assert len(set(rows)) == 7 and rows == again


def test_curriculum_draws_once_per_batch_with_rising_probability(built):
    config, (train, *_) = built
    config["curriculum"], config["epochs"], config["train_sample_size"] = "linear", 40, None
    config["train_batch_size"] = 4
    loader = TrainPromptDataLoader(config, train)
    shares = []
    for number in range(40):
        loader.batches.epoch = number
        drawn = [{key.hybrid for key in batch} for batch in loader.batches]
        assert all(len(kinds) == 1 for kinds in drawn)
        shares.append(np.mean([kinds == {True} for kinds in drawn]))
    config["curriculum"], config["epochs"], config["train_sample_size"] = "none", 2, 64
    config["train_batch_size"] = 8
    expected = (np.arange(40) + 0.5) / 40
    assert np.abs(np.array(shares).reshape(4, 10).mean(1) - expected.reshape(4, 10).mean(1)).max() < 0.05
    assert loader.batches.progress(0) == 39 / 40


def test_batches_hold_rows_of_like_length(built):
    """Bucketing must save padding against random batches of the same rows."""
    config, (train, *_) = built
    loader = TrainPromptDataLoader(config, train)
    batches = epoch(loader, 0)
    padded = sum(b["prompt_mask"].numel() for b in batches)
    lengths = torch.cat([b["prompt_mask"].sum(1) for b in batches])
    lengths = lengths[torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))]
    unsorted = sum(int(chunk.max()) * len(chunk) for chunk in lengths.split(8))
    assert padded < unsorted


def test_templates_carry_the_datasets_words(built):
    config, _ = built
    words = {"verb": "watch", "verbed": "watched", "item": "movie", "items": "movies"}
    templates = with_words(config["prompt_templates"], words)
    assert len(templates) == 3 and all("movie" in text and "{item" not in text for text in templates)
