"""Learning itself: minutes of fine-tuning the default LLM must find the answer that slots or gates give away (chance .10).

Run by ``pytest -m learning``; left out otherwise.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from recbole.data.interaction import Interaction

from recbole_llm.adapter import Gate, use_gate
from recbole_llm.config.loader import LLMConfig
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.fit import build
from recbole_llm.model import base
from recbole_llm.model.base import LLMRecommender
from recbole_llm.model.ilora import iLoRA
from recbole_llm.model.llara import LLaRA
from recbole_llm.model.reclora import RecLoRA
from tests.learning import worlds

pytestmark = pytest.mark.learning


class Proof(NamedTuple):
    """A world, settings, and the Hit@1 that a model must reach."""

    world: str
    bar: float
    settings: dict


PROOFS = {
    "LLaRA": Proof("alike", 0.6, {"curriculum": "linear", "epochs": 2, "train_sample_size": 1440, "train_batch_size": 16}),
    "iLoRA": Proof("chain", 0.4, {"behaviour_tokens": "none", "user_token": False, "num_experts": 8}),
    "RecLoRA": Proof("chain", 0.3, {
        "train_sample_size": 2800, "learning_rate": 2e-3, "projector_lr_scale": 5.0, "router_lr_scale": 5.0,
        "user_token": False, "gate_input": "sequence", "crm_history_len": 10, "text_history_len": 1, "users_per_list": 1,
        "click_templates": {"candidates": ["After{history}, is{target} next? Answer:"]},
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(folder of both worlds, their items' vectors)."""
    folder = tmp_path_factory.mktemp("worlds")
    return folder, {"alike": worlds.write_alike(folder), "chain": worlds.write_chain(folder)}


def trained(name, data, out, **more):
    """(trainer after fine-tuning, how far the router's weights, or those of the projector of slots, moved, Hit@1 on the test rows)."""
    proof, (folder, vectors) = PROOFS[name], data
    settings = worlds.settings(folder, out, **{**proof.settings, **more})
    known = worlds.with_known_vectors(LLMConfig(name, proof.world, config_dict=settings), vectors[proof.world], out)
    trainer, (_, train, valid, test) = build(LLMConfig(name, proof.world, config_dict={**settings, "crm_path": known}))
    before = watched_weights(trainer)
    began = time.process_time()
    trainer.fit(train, valid)
    seconds = time.process_time() - began
    moved = max((float((weight - before[n]).abs().max()) for n, weight in watched_weights(trainer).items()), default=0.0)
    hit = trainer.evaluate(test, load_best_model=False)["hit@1"]
    print(f"{name} {more}: hit@1 {hit:.2f}, losses {trainer.train_loss_dict}, moved {moved:.4f}, {seconds:.0f} s")
    return trainer, moved, hit


def watched_weights(trainer):
    """What must learn beside the adapter: LLaRA's projector, the others' router."""
    named = trainer.model.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if name.startswith(("router.", "projector."))}


@pytest.mark.parametrize("world, least, most", [("alike", 0.95, 1.0), ("chain", 0.45, 0.7)])
def test_what_there_is_to_know(world, least, most, data, tmp_path):
    """The best answer that vectors and titles allow: several candidates of ``chain`` are of the right kind."""
    folder, vectors = data
    _, _, _, test = prepare_data(LLMConfig("LLaRA", world, config_dict=worlds.settings(folder, tmp_path)))
    names = test._dataset.field2id_token["item_id"]
    number = np.array([0, *(int(token[1:]) for token in names[1:])])
    hits = []
    for key in (key for batch in test.batch_sampler for key in batch):
        last, listed = number[test.dataset.history(key.row)[-1]], number[list(key.candidates)]
        if world == "alike":
            scores = vectors[world][listed, : worlds.SIGNAL] @ vectors[world][last, : worlds.SIGNAL]
        else:
            scores = listed // len(worlds.KINDS) == last % len(worlds.KINDS)
        best = scores == scores.max()
        hits.append(best[key.target_position] / best.sum())
    assert least <= np.mean(hits) <= most


@pytest.mark.parametrize("name", PROOFS)
def test_the_start_does_not_know(name, data, tmp_path):
    """Far below the bar. Like slots are found a little without training, since the projectors start as an isometry."""
    assert trained(name, data, tmp_path, max_steps=1, learning_rate=1e-9)[2] < PROOFS[name].bar - 0.15


def not_learnt(name, data, out) -> list[str]:
    """What of the proof does not hold; empty: the model has learnt."""
    trainer, moved, hit = trained(name, data, out)
    found = [] if hit >= PROOFS[name].bar else [f"hit@1 {hit:.2f} < {PROOFS[name].bar}"]
    found += [] if moved > 1e-3 else [f"its router or projector moved by {moved:.4f}"]
    if name == "LLaRA":  # text-only prompts first, whose answers nothing tells, then hybrid ones more and more
        losses = trainer.train_loss_dict
        return found + ([] if losses[1] < 0.8 * losses[0] else [f"its loss goes from {losses[0]:.2f} to {losses[1]:.2f}"])
    return found


@pytest.mark.parametrize("name", PROOFS)
def test_fine_tuning_learns(name, data, tmp_path):
    assert not_learnt(name, data, tmp_path) == []


def shift_slots(monkeypatch):
    """Each slot holds the vector of the item before."""
    embed = LLMRecommender.embed

    def shifted(self, interaction):
        items = interaction["prompt_items"].clone()
        for row in items:
            row[row > 0] = row[row > 0].roll(1)
        values = getattr(interaction, "interaction", interaction)  # a click model's branches come as a dict
        return embed(self, Interaction({**values, "prompt_items": items}))

    monkeypatch.setattr(LLMRecommender, "embed", shifted)


def freeze_projector(monkeypatch):
    """Slots stay what they are at the start, an isometry, which is worth something of itself."""
    projector = LLMRecommender._projector
    monkeypatch.setattr(LLMRecommender, "_projector", lambda self, *given, **more: projector(self, *given, **more).requires_grad_(False))


def turn_curriculum(monkeypatch):
    """Hybrid prompts first, text-only ones in the end."""
    monkeypatch.setattr(LLaRA, "hybrid_probability", classmethod(lambda cls, config, progress: 1 - progress))


def roll_gate(monkeypatch):
    """Each row gets the mixture of the row before, in training and in ranking."""
    for model in (iLoRA, RecLoRA):

        def rolled(self, interaction, own=model.gate):
            gate = own(self, interaction)
            return replace(gate, weights=gate.weights.roll(1, 0)) if isinstance(gate, Gate) else gate.roll(1, 0)

        monkeypatch.setattr(model, "gate", rolled)


def cut_gate(monkeypatch):
    """Experts are mixed as ever, but no gradient reaches the router."""

    def without_gradient(llm, gate):
        return use_gate(llm, replace(gate, weights=gate.weights.detach()) if isinstance(gate, Gate) else gate.detach())

    monkeypatch.setattr(base, "use_gate", without_gradient)


BROKEN = [
    *(("LLaRA", break_it) for break_it in (shift_slots, freeze_projector, turn_curriculum)),
    *((name, break_it) for name in ("iLoRA", "RecLoRA") for break_it in (roll_gate, cut_gate)),
]  # fmt: skip


@pytest.mark.parametrize("name, break_it", BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_broken_code_does_not_pass(name, break_it, data, tmp_path, monkeypatch):
    """The proof above is worth something: with one part broken it fails."""
    break_it(monkeypatch)
    found = not_learnt(name, data, tmp_path)
    print(f"{name} {break_it.__name__}: {found}")
    assert found
