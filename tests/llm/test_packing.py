"""Rows that share a candidate list give what they give alone."""

import numpy as np
import pytest
import torch

from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError
from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.fit import build
from recbole_llm.llm.packing import LIST_FIELD, SHARED_FIELD, Packing, fed_lengths, shared_tokens
from recbole_llm.training.throughput import Meter
from tests import tiny

SHARED = {
    "users_per_list": 3, "train_batch_size": 7, "user_token": True, "likelihood_over": "candidates", "lora_dropout": 0.0,
    "curriculum": "none", "prompt_templates": ["Choose from:{candidates}. Seen:{history}. Next:{user}"],
}  # fmt: skip


def built(name, tiny_data, tiny_llm, out, **more):
    trainer, data = build(LLMConfig(name, "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, **{**SHARED, **more})))
    return trainer, data[1]


def batches(train, epoch=0):
    train.set_epoch(epoch)
    return list(train)


def alone(batch):
    """The same rows, each with a sequence of its own."""
    return type(batch)({name: column for name, column in batch.interaction.items() if name not in (LIST_FIELD, SHARED_FIELD)})


@pytest.mark.parametrize("likelihood", ["candidates", "vocabulary"])
@pytest.mark.parametrize("name", ["LLaRA", "iLoRA"])
def test_packed_rows_learn_what_rows_alone_learn(name, likelihood, tiny_data, tiny_llm, tmp_path):
    more = {"gate_input": "uniform"} if name == "iLoRA" else {}
    trainer, train = built(name, tiny_data, tiny_llm, tmp_path, likelihood_over=likelihood, **more)
    model = trainer.model.train()
    with torch.no_grad():
        for weight in model.parameters():  # an adapter that begins at zero would hide errors
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    batch = batches(train)[0]
    assert len(batch) == 7 and batch[LIST_FIELD].tolist() == [0, 0, 0, 1, 1, 1, 2] and int(batch[SHARED_FIELD].min()) > 10
    results = []
    for rows in (batch, alone(batch)):
        model.zero_grad()
        likelihoods, tokens = model(rows)
        (-likelihoods.sum() / tokens.sum()).backward()
        results.append((likelihoods, {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-4, rtol=1e-4)
    assert results[0][1].keys() == results[1][1].keys() and any(grad.any() for grad in results[0][1].values())
    for n, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][n], atol=1e-4, rtol=1e-3, msg=lambda text, n=n: f"{n}: {text}")


def test_a_group_feeds_what_its_prompts_share_once(tiny_data, tiny_llm, tmp_path):
    trainer, train = built("LLaRA", tiny_data, tiny_llm, tmp_path)
    batch, fed = batches(train)[0], []
    trainer.model.llm.register_forward_pre_hook(
        lambda module, args, inputs: fed.append(tuple(inputs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    trainer.model(batch)
    trainer.model(alone(batch))
    own = batch["prompt_mask"].sum(1) - batch[SHARED_FIELD]
    assert fed[0][0] == 3 and fed[1][0] == 7
    assert fed[0][1] <= int(batch[SHARED_FIELD].max() + 3 * (own.max() + batch["answer_mask"].sum(1).max()))


def test_tokens_that_a_group_shares_are_counted_once(tiny_data, tiny_llm, tmp_path):
    trainer, train = built("LLaRA", tiny_data, tiny_llm, tmp_path)
    batch = batches(train)[0]
    meters = [Meter(trainer.model, torch.device("cpu")) for _ in range(2)]
    meters[0].count([batch])
    meters[1].count([alone(batch)])
    shared = batch[SHARED_FIELD].tolist()
    assert meters[1].tokens - meters[0].tokens == 2 * shared[0] + 2 * shared[3]  # groups of 3, 3 and 1
    assert fed_lengths(torch.tensor([9, 8, 5]), torch.tensor([4, 4, 9]), torch.tensor([6, 6, 5])).tolist() == [11, 5]


def test_gates_are_the_rows_own_and_the_groups_mean_where_tokens_are_shared():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    packing = Packing.of(mask, torch.tensor([4, 4, 9]), torch.tensor([2, 2, 1]))
    gates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    weights = packing.gate(gates).weights
    assert packing.owner.tolist() == [[-1, -1, 0, 1, 1], [-1, 2, -2, -2, -2]]
    assert packing.positions[0].tolist() == [0, 1, 2, 2, 3]
    torch.testing.assert_close(weights[0], torch.tensor([[0.5, 0.5], [0.5, 0.5], [1, 0], [0, 1], [0, 1]]))
    torch.testing.assert_close(weights[1, :2], gates[2].expand(2, 2))
    seen = packing.mask(torch.float32)[0, 0] == 0
    assert seen.tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, False, True, False],
        [True, True, False, True, True],
    ]


def test_a_users_slot_is_never_shared():
    row = [5, 6, 0, 7], [0, 3, -1, 0]
    assert shared_tokens([row, row]) == 2
    assert shared_tokens([([5, 6, 7], [0, 3, 0]), ([5, 6, 8], [0, 3, 0])]) == 2
    assert shared_tokens([([5, 6], [0, 3]), ([5, 6], [0, 4])]) == 1
    assert shared_tokens([([5, 6], [0, 0]), ([5], [0])]) == 1


def test_a_shared_list_holds_every_target_once_and_says_what_rows_have_seen(tiny_data, tiny_llm, tmp_path):
    config = LLMConfig("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **SHARED))
    sets = candidate_sets(config)
    users = sets.rows.valid[0][:4].tolist()
    targets = sets.rows.valid[1][:3].tolist() + sets.rows.valid[1][:1].tolist()  # one item is the target of two rows
    counts = np.zeros(len(sets.catalogue))
    for number in range(400):
        candidates, positions, unseen = sets.shared_training_list(users, targets, 0, number)
        assert len(set(candidates.tolist())) == len(candidates) == 8
        assert sets.catalogue[candidates[positions]].tolist() == targets
        for i, user in enumerate(users):
            seen = set(sets.histories[user].tolist())
            assert [bool(u) for u in unseen[i]] == [c not in seen or c == candidates[positions[i]] for c in candidates.tolist()]
        counts[candidates] += 1
    wanted = np.isin(sets.catalogue, targets)
    assert (counts[wanted] == 400).all()
    expected = 400 * (8 - wanted.sum()) / (~wanted).sum()
    assert abs(counts[~wanted].mean() - expected) < 1e-9 and counts[~wanted].min() > 0.3 * expected
    again, other = sets.shared_training_list(users, targets, 0, 7), sets.shared_training_list(users, targets, 1, 7)
    assert all(np.array_equal(a, b) for a, b in zip(again, sets.shared_training_list(users, targets, 0, 7), strict=True))
    assert not np.array_equal(again[0], other[0])


def test_what_a_row_has_seen_is_no_rival_of_its_target(tiny_data, tiny_llm, tmp_path):
    _, train = built("LLaRA", tiny_data, tiny_llm, tmp_path, users_per_list=6)
    keys = next(iter(train.batch_sampler))
    assert any(not all(key.unseen) for key in keys)
    batch = train.batch(keys)
    tokens = train.dataset.tokens
    for row, key in enumerate(keys):
        allowed = {tokens.title_ids[item][0] for item, may in zip(key.candidates, key.unseen, strict=True) if may}
        first = batch["rival_ids"][row, 0][batch["rival_mask"][row, 0]]
        assert set(first.tolist()) == allowed


def test_histories_appear_after_their_share_of_the_steps(tiny_data, tiny_llm, tmp_path):
    _, train = built("LLaRA", tiny_data, tiny_llm, tmp_path, history_from=0.5, train_sample_size=70)
    shown = [key.history for batch in train.batch_sampler for key in batch[:1]]
    assert shown == [False] * 5 + [True] * 5
    train.set_epoch(0, start_batch=4)
    assert [key.history for batch in train.batch_sampler for key in batch[:1]] == shown[4:]


def test_a_loader_that_starts_later_draws_the_same_lists(tiny_data, tiny_llm, tmp_path):
    _, train = built("LLaRA", tiny_data, tiny_llm, tmp_path)
    whole = list(train.batch_sampler)
    train.set_epoch(0, start_batch=3)
    assert list(train.batch_sampler) == whole[3:]


@pytest.mark.parametrize(
    "name, settings, line",
    [
        ("LLaRA", {"users_per_list": 8}, "users_per_list: must be below n_candidates=8, got 8"),
        ("iLoRA", {"history_batch_size": 2, **SHARED}, "history_batch_size: must be at least 3, the rows of a list, with experts, got 2"),
        ("LLaRA", {"users_per_list": 0}, "users_per_list: must be an integer >= 1"),
        ("LLaRA", {"history_from": 0.5, "user_token": False}, "history_from: prompts without a history say nothing"),
        ("LLaRA", {"history_from": 0.5, "curriculum": "linear"}, "history_from: text-only prompts, with which curriculum: linear"),
        ("RecLoRA", {"users_per_list": 2}, "users_per_list: RecLoRA has it at 1 alone, got 2"),
        ("RecLoRA", {"users_per_list": 1, "history_from": 0.1}, "history_from: RecLoRA has it at 0.0 alone, got 0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, settings, line, tiny_data, tiny_llm, tmp_path):
    given = tiny.settings(tiny_data, tiny_llm, tmp_path, **({**SHARED, **settings} if name == "LLaRA" else settings))
    with pytest.raises(ConfigError, match=line):
        LLMConfig(name, "tiny", config_dict=given)


@pytest.mark.parametrize("settings, kept", [
    ({"history_batch_size": 4, "train_batch_size": 4}, 4), ({"history_batch_size": 4, "gate_input": "uniform"}, 4), ({"history_batch_size": 4, "num_experts": 1}, 4),
    ({"history_batch_size": 4, "history_from": 1.0}, 4), ({"users_per_list": 15}, 15), ({"n_candidates": 5}, 10), ({"history_batch_size": None}, None),
])  # fmt: skip
def test_passes_with_histories_hold_whole_lists(settings, kept):
    """The default LLM's own setting grows with a list that the user makes longer."""
    assert LLMConfig("iLoRA", "ml-100k", config_dict=settings)["history_batch_size"] == kept


def test_an_llm_that_takes_no_tree_is_named(tiny_data, tmp_path):
    llm = tiny.write_llm(tmp_path / "windowed", "mistral", sliding_window=16)
    trainer, train = built("LLaRA", tiny_data, llm, tmp_path)
    with pytest.raises(ValueError, match="users_per_list: rows cannot share this LLM's forward pass .*window of 16"):
        trainer.model(batches(train)[0])
