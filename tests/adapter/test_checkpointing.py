"""Gradient checkpointing of a gated model: the recomputation sees the gate of its own batch, or says that it cannot."""

import copy
import pickle

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_llm.adapter import (
    Gate,
    GatedLoraConfig,
    adapter_parameters,
    checkpoint_context_fn,
    enable_gradient_checkpointing,
    gated_modules,
    use_gate,
)
from recbole_llm.adapter.gate import GateHolder
from tests.adapter.llama import fill, gated_llama, prompts, softmax_gate

MIXINGS = ("split", "weight", "output")


def gradients(model, losses):
    model.zero_grad()
    sum(losses).backward()
    return [parameter.grad.clone() for parameter in adapter_parameters(model)]


def two_forwards(model, per_module=False):
    """Two batches with gates of their own, both outstanding: the losses, and the gates' leaves."""
    m = len(gated_modules(model))
    gates = [softmax_gate(3, m, 4, seed=s) if per_module else softmax_gate(3, 4, seed=s) for s in (5, 6)]
    gates = [gate.mul(4).softmax(-1).requires_grad_() for gate in gates]
    losses = []
    for gate, ids in zip(gates, (prompts(seed=3), prompts(seed=4)), strict=True):
        with use_gate(model, Gate.per_module(gate) if per_module else gate):
            losses.append(model(ids, labels=ids).loss)
    return losses, gates


@pytest.mark.parametrize("per_module", [False, True])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_checkpointing_with_two_outstanding_forwards(mixing, per_module):
    model = gated_llama(mixing)
    losses, gates = two_forwards(model, per_module)
    expected = gradients(model, losses) + [gate.grad for gate in gates]
    enable_gradient_checkpointing(model.train())
    losses, gates = two_forwards(model, per_module)
    actual = gradients(model, losses) + [gate.grad for gate in gates]
    assert (model.gate_holder.gates, model.gate_holder.restored) == ({}, False)      # recomputation left no trace
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_checkpointing_survives_a_gate_block_around_backward_and_a_second_backward():
    model = gated_llama()
    losses, gates = two_forwards(model)
    expected = gradients(model, losses)
    enable_gradient_checkpointing(model.train())
    losses, gates = two_forwards(model)
    model.zero_grad()
    with use_gate(model, softmax_gate(3, 4, seed=11)):
        sum(losses).backward(retain_graph=True)
        sum(losses).backward()
    for parameter, gradient in zip(adapter_parameters(model), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-5, atol=1e-6)


class Checkpointed(nn.Module):
    """One linear layer under torch's own checkpointing, with the caller's options."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.options = nn.Linear(6, 10), {}

    def forward(self, x):
        return checkpoint(lambda x: self.up(x).tanh(), x, **self.options)


def checkpointed_gradient(options):
    model = get_peft_model(Checkpointed(), GatedLoraConfig(r=8, num_experts=4, target_modules=["up"]))
    fill(model)
    if options.pop("context_fn", False):
        options["context_fn"] = checkpoint_context_fn(model)
    model.base_model.model.options = options
    losses = []
    for seed in (5, 6):
        x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        with use_gate(model, softmax_gate(2, 4, seed=seed).mul(6).softmax(-1)):
            losses.append(model(x).square().sum())
    with use_gate(model, softmax_gate(2, 4, seed=7)):
        return gradients(model, losses)[0]


def test_checkpointing_that_would_lose_the_gate_raises(monkeypatch):
    right = checkpointed_gradient({"use_reentrant": False, "context_fn": True})
    for options in ({"use_reentrant": False}, {"use_reentrant": True}):
        with pytest.raises(RuntimeError, match="checkpoint_context_fn"):
            checkpointed_gradient(dict(options))
    # What the check prevents: with it off, the recomputation runs with whatever gate is there, silently.
    monkeypatch.setattr(GateHolder, "current", lambda self, adapter: self.gates[None])
    torch.testing.assert_close(checkpointed_gradient({"use_reentrant": False, "context_fn": True}), right)
    wrong = checkpointed_gradient({"use_reentrant": False})
    assert (wrong - right).norm() > 0.1 * right.norm()


def test_reentrant_checkpointing_of_a_hugging_face_model_raises():
    model = gated_llama().train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with use_gate(model, softmax_gate(3, 4)):
        loss = model(prompts(), labels=prompts()).loss
        with pytest.raises(RuntimeError, match="gradient checkpointing recomputes"):
            loss.backward()


def test_copies_and_pickles_of_a_checkpointed_model_have_a_holder_of_their_own():
    model, gate = gated_llama("weight"), softmax_gate(3, 4)
    enable_gradient_checkpointing(model.train())
    with use_gate(model, gate):
        model(prompts())
        with torch.no_grad():
            model(prompts())
        other = copy.deepcopy(model)
    assert other.gate_holder is not model.gate_holder and other.gate_holder.gates == {}
    expected = gradients(model, two_forwards(model)[0])
    for one, copied in zip(gradients(other, two_forwards(other)[0]), expected, strict=True):
        assert torch.equal(one, copied)
    assert pickle.loads(pickle.dumps(model.gate_holder)).modules == model.gate_holder.modules
