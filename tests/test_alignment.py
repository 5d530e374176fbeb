"""Projector alignment: the bilinear form that it learns, what it learns from, and where its maps go."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbole_llm import ConfigError, LLMConfig, alignment
from recbole_llm.builtin.slots import Projectors, save_projectors
from recbole_llm.data.preparation import prepare_data
from tests import tiny
from tests.model.contract import ModelContract

D, N_ITEMS, C = 8, 300, 10


def world(n: int, seed: int, sharp: float, telling: int = D, users: bool = False):
    """(choices, table): targets are drawn by the softmax of ``sharp`` times inner products in the first ``telling`` numbers."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(N_ITEMS, D, generator=torch.Generator().manual_seed(99))
    tastes, own = (functional.normalize(torch.randn(n, D, generator=draw)) for _ in range(2))
    candidates = torch.randint(1, N_ITEMS, (n, C), generator=draw)
    seen = tastes + alignment.USER_SHARE * own if users else tastes
    scores = sharp * torch.einsum("nd,ncd->nc", seen[:, :telling], table[candidates][..., :telling])
    targets = torch.multinomial(scores.softmax(1), 1, generator=draw)[:, 0]
    return alignment.Choices(tastes, own if users else None, candidates, targets), table


def hits(choices, table, maps) -> float:
    """Hit@1, row by row in numpy: another path than ``Choices.loss``."""
    tables = [t.numpy().astype(float) for t in maps]
    right = 0
    for i, (row, target) in enumerate(zip(choices.candidates.numpy(), choices.targets.tolist(), strict=True)):
        taste = choices.tastes[i].numpy() @ tables[0]
        if choices.users is not None:
            taste = taste + choices.users[i].numpy() @ tables[1]
        right += int(np.argmax([taste @ (table[item].numpy() @ tables[0]) for item in row]) == target)
    return right / len(choices.targets)


@pytest.mark.parametrize("users", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_form_in_the_docstring(users):
    choices, table = world(6, 0, 3.0, users=users)
    draw = torch.Generator().manual_seed(5)
    maps = [torch.randn(D, D, generator=draw) for _ in range(2 if users else 1)]
    found = []
    for i in range(2, 6):
        taste = choices.tastes[i] @ maps[0] + (choices.users[i] @ maps[1] if users else 0)
        scores = np.array([float(taste @ (maps[0].T @ table[item])) for item in choices.candidates[i]])
        found.append(np.log(np.exp(scores).sum()) - scores[choices.targets[i]])
    assert choices.loss(table, maps, slice(2, 6)).item() == pytest.approx(np.mean(found), rel=1e-4)


@pytest.mark.parametrize("users", [False, True])
def test_it_learns_which_directions_tell_and_from_the_rows_alone(users):
    choices, table = world(12000, 1, 8.0, telling=D // 2, users=users)
    held, _ = world(1000, 2, 8.0, telling=D // 2, users=users)
    identities = alignment._identities(choices, table)
    with alignment._one_thread():
        maps = alignment.fit(choices, table, seed=3)
        again, other = alignment.fit(choices, table, seed=3), alignment.fit(choices, table, seed=4)
    best = [m.clone() for m in identities]
    for m in best:
        m[D // 2 :] = 0  # the map that the choices were made with
    none, learnt, all_there_is = (hits(held, table, m) for m in (identities, maps, best))
    assert learnt > none + 0.5 * (all_there_is - none)
    assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True)) and not torch.equal(maps[0], other[0])


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_it_starts_twice_as_sharp_as_rows_ask_for_whatever_the_vectors_scale(scale):
    choices, table = world(4000, 4, 6.0)
    found = alignment.sharpness(choices, table * scale) * scale / alignment.SHARPER
    assert found == pytest.approx(6.0, rel=0.25)  # the grid's step is 1.41


@pytest.mark.parametrize("users", [False, True])
def test_learning_starts_there_with_the_users_share(users, monkeypatch):
    choices, table = world(200, 6, 6.0, users=users)
    monkeypatch.setattr(alignment, "LEARNING_RATE", 0.0)
    start = alignment.sharpness(choices, table) ** 0.5 * torch.eye(D)
    expected = [start, 0.65 * start] if users else [start]
    for found, matrix in zip(alignment.fit(choices, table, seed=0), expected, strict=True):
        torch.testing.assert_close(found, matrix)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A tiny LLM with pretrained projectors, as those that builtin.pretrain writes."""
    folder = tiny.write_llm(tmp_path_factory.mktemp("aligned") / "llm")
    torch.manual_seed(0)
    save_projectors(Projectors(32, torch.zeros(32), torch.eye(32), 1.0), folder)
    return folder


class LLaRA(ModelContract):
    name, settings = "LLaRA", {"curriculum": "none", "user_token": True}


def test_it_reads_each_users_latest_rows_with_unseen_candidates(tiny_data, llm, tmp_path):
    config, data, model = LLaRA().build(tiny_data, llm, tmp_path, projector_alignment=2, history_max_len=3)
    split = data[1]._dataset
    feat, vectors = split.inter_feat, torch.randn(split.item_num, 16, generator=torch.Generator().manual_seed(0))
    choices = alignment.gather(config, split, model.crm, vectors)
    users, lengths, items = (feat[name].numpy() for name in ("user_id", "item_length", "item_id"))
    latest = [i for i in range(len(users)) if sum((users == users[i]) & (lengths > lengths[i])) < 2]
    assert choices.candidates[range(len(latest)), choices.targets].tolist() == items[latest].tolist()
    everything = {user: set() for user in users.tolist()}
    for part in data[1:]:
        rows = part.dataset.split.inter_feat
        columns = (rows[name].tolist() for name in ("user_id", "item_id_list", "item_id"))
        for user, shown, target in zip(*columns, strict=True):
            everything[user] |= {target, *shown}
    for row, candidates, taste in zip(latest, choices.candidates.tolist(), choices.tastes, strict=True):
        assert everything[users[row]] & set(candidates) == {items[row]} and len(set(candidates)) == config["n_candidates"]
        history = feat["item_id_list"][row, : lengths[row]].tolist()[-3:]
        expected = sum(0.6**age * vectors[item] for age, item in enumerate(reversed(history)))
        torch.testing.assert_close(taste, expected / expected.norm())
    expected = model.crm.user_vectors(feat[torch.tensor(latest)])
    torch.testing.assert_close(choices.users, expected / expected.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("user_token", [False, True])
def test_projectors_read_mapped_vectors_of_the_same_size_and_nothing_else_changes(tiny_data, llm, tmp_path, user_token):
    contract = LLaRA()
    config, data, plain = contract.build(tiny_data, llm, tmp_path, user_token=user_token)
    *_, aligned = contract.build(tiny_data, llm, tmp_path, user_token=user_token, projector_alignment=3)
    *_, again = contract.build(tiny_data, llm, tmp_path, user_token=user_token, projector_alignment=3)
    config["projector_alignment"] = 3
    maps = alignment.alignment_maps(config, data[1]._dataset, plain.crm)
    table = plain.crm.item_vectors[1:]
    mapped = (table - table.mean(0)) @ maps[0]
    torch.testing.assert_close(mapped.norm(), (table - table.mean(0)).norm())
    torch.testing.assert_close(aligned.projector(table), plain.projector(mapped + table.mean(0)), atol=1e-5, rtol=1e-4)
    changed = {"projector.0.weight"}
    if user_token:
        users = plain.crm.user_vectors(data[1]._dataset.inter_feat[:50])
        torch.testing.assert_close(aligned.user_projector(users), plain.user_projector(users @ maps[1]), atol=1e-5, rtol=1e-4)
        changed.add("user_projector.0.weight")
    before, after, twice = (model.state_dict() for model in (plain, aligned, again))
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed  # adapters were drawn alike
    assert all(torch.equal(twice[name], weight) for name, weight in after.items())


def test_projectors_drawn_at_random_are_not_aligned(tiny_data, tiny_llm, tmp_path):
    with pytest.raises(ValueError, match="projector_alignment: .* drawn at random for vectors of 16 numbers"):
        LLaRA().build(tiny_data, tiny_llm, tmp_path, projector_alignment=2)


def test_user_vectors_of_another_width_are_refused(tiny_data, llm, tmp_path):
    given = tiny.settings(tiny_data, llm, tmp_path, projector_alignment=2, user_token=True)
    config = LLMConfig("LLaRA", "tiny", config_dict=given)
    crm = SimpleNamespace(name="Wide", user_vectors=lambda rows: torch.ones(len(rows), 24))
    split = prepare_data(config)[1]._dataset
    with pytest.raises(ValueError, match="Wide has 24 and 16 numbers; set projector_alignment to null"):
        alignment.gather(config, split, crm, torch.ones(split.item_num, 16))


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("LLaRA", {"behaviour_tokens": "none"}, "projector_alignment: behaviour_tokens is none"),
        ("RecLoRA", {"behaviour_tokens": "both"}, "projector_alignment: RecLoRA asks about one item"),
        ("iLoRA", {"projector_alignment": 0}, "projector_alignment: must be an integer >= 1, or null, got 0"),
    ],
)
def test_settings_that_leave_nothing_to_align_are_refused(tiny_data, tiny_llm, tmp_path, model, more, message):
    given = tiny.settings(tiny_data, tiny_llm, tmp_path, **{"projector_alignment": 20, **more})
    with pytest.raises(ConfigError, match=message):
        LLMConfig(model, "tiny", config_dict=given)
