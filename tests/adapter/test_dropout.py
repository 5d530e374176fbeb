"""Dropout by row: its marginals, scale and gradient, and that a mask in the weights is a mask on the input."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from recbole_llm.adapter import RowDropout, cast_weights, drop_by_row, use_gate
from recbole_llm.adapter import functional as fn
from recbole_llm.adapter.dropout import drop
from tests.adapter.llama import gated_llama, prompts, softmax_gate, tiny_llama


def test_each_element_is_dropped_with_p_and_keeps_its_mean_and_tokens_of_a_row_share_a_mask():
    torch.manual_seed(0)
    x = torch.full((400, 3, 50), 2.0)
    out = RowDropout(0.1)(x)
    assert out.unique().tolist() == pytest.approx([0.0, 2 / 0.9])
    error = (0.1 * 0.9 / (400 * 50)) ** 0.5  # of the share that is dropped
    assert abs((out == 0).float().mean() - 0.1) < 4 * error
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])
    rows, features = (out[:, 0] == 0).float().var(0), (out[:, 0] == 0).float().var(1)
    assert rows.mean() > 0.08 and features.mean() > 0.08  # neither rows nor features move together


def test_nothing_is_dropped_in_evaluation_and_the_generator_is_left_alone():
    x, dropout = torch.randn(2, 3, 4), RowDropout(0.5).eval()
    before = torch.get_rng_state()
    assert dropout(x) is x and dropout.mask(x) is None and RowDropout(0.0).train().mask(x) is None
    assert torch.equal(before, torch.get_rng_state())


def test_rows_without_a_length_are_dropped_one_by_one_and_other_dropouts_act_on_the_input():
    torch.manual_seed(0)
    flat = torch.ones(200, 6)
    dropped, mask = drop(RowDropout(0.5), flat)
    assert mask is None and not torch.equal(dropped[0] == 0, dropped[1] == 0)
    dropped, mask = drop(nn.Dropout(0.5), torch.ones(2, 5, 6))
    assert mask is None and (dropped[:, 0] != dropped[:, 1]).any()


@pytest.mark.parametrize("rows", [2, 4])
def test_a_mask_in_the_weights_is_one_on_the_input_values_and_gradients(rows):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    A = torch.randn(rows, 5, 6, dtype=torch.float64, requires_grad=True)
    shared = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    mask = RowDropout(0.5).mask(x).double()
    for weight, linear in ((A, fn.mixed_linear), (shared, nn.functional.linear)):
        expected = linear(x * mask[:, None], weight)
        upstream = torch.randn_like(expected)
        found = fn.masked_linear(x, weight, mask)
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(*(torch.autograd.grad(y, (x, weight), upstream) for y in (found, expected)), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mixing", ["plain", "split", "weight", "output"])
def test_an_adapter_with_shared_dropout_computes_what_it_does_on_a_dropped_input(mixing, monkeypatch):
    if mixing == "plain":
        model = get_peft_model(tiny_llama(), LoraConfig(r=8, lora_dropout=0.5, init_lora_weights=False, target_modules="all-linear"))
        cast_weights(model)
    else:
        model = gated_llama(mixing, lora_dropout=0.5)
    drop_by_row(model)
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.Dropout)}
    assert kinds == {RowDropout}
    other = copy.deepcopy(model)
    for dropout in (m for m in other.modules() if isinstance(m, RowDropout)):
        dropout.mask, fixed = None, RowDropout.mask
        dropout.forward = lambda x, d=dropout, fixed=fixed: x * fixed(d, x)[:, None]
        dropout.__class__ = nn.Dropout  # acts on the input
    results = []
    for llm in (model, other):
        torch.manual_seed(3)
        gate = softmax_gate(3, 4)
        with use_gate(llm, gate) if mixing != "plain" else torch.enable_grad():
            logits = llm.train()(prompts()).logits
        logits.square().sum().backward()
        results.append([logits.detach(), *(w.grad for n, w in llm.named_parameters() if "lora_" in n)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.manual_seed(4)
    with use_gate(model, gate) if mixing != "plain" else torch.enable_grad():
        assert not torch.allclose(model(prompts()).logits, results[0][0])  # another draw
