"""Routers: weights that sum to one, a usable start, hard routing with a gradient, and refused settings."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from recbole_llm.adapter.router import FORMS, INITS, PersonalisedRouter, Router, routing_weights


def user(rows=5, dim=9):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))


def build(form, init="paper"):
    torch.manual_seed(1)
    if form in FORMS:
        return Router(9, 4, form=form, top_k=2 if form == "topk" else None, init=init)
    return PersonalisedRouter(9, 4, num_modules=3 if form == "personalised" else None, init=init)


ALL = (*FORMS, "personalised", "shared")


def entropy(weights):
    return -(weights * weights.log()).sum(-1).mean().item()


def test_the_papers_start_has_the_entropy_of_normal_logits_of_variance_a_third():
    """Simulated apart: softmax of N(0, 1/3), what 64 inputs of unit variance give with weights from U(-1/8, 1/8)."""
    rng = np.random.default_rng(0)
    odds = np.exp(rng.normal(scale=np.sqrt(1 / 3), size=(200_000, 4)))
    shares = odds / odds.sum(1, keepdims=True)
    expected = -(shares * np.log(shares)).sum(1).mean()
    assert 1.26 < expected < 1.29
    torch.manual_seed(0)
    inputs = torch.randn(200, 64)
    with torch.no_grad():
        found = {init: np.mean([entropy(Router(64, 4, init=init)(inputs)) for _ in range(100)]) for init in INITS}
    assert found["paper"] == pytest.approx(expected, abs=0.01)
    assert math.log(4) - 0.005 < found["uniform"] < math.log(4)


def test_the_papers_start_of_personal_routers_is_that_of_plain_layers():
    torch.manual_seed(0)
    inputs = torch.randn(200, 64)

    def plain():
        return nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 16))

    with torch.no_grad():
        expected = np.mean([(plain()(inputs) / 5).softmax(-1).std().item() for _ in range(40)])
        spread = {
            init: PersonalisedRouter(64, 16, 40, temperature=5.0, init=init).eval()(inputs).std((0, 2)).mean().item()
            for init in INITS
        }
    assert spread["paper"] == pytest.approx(expected, rel=0.05)
    assert spread["uniform"] < 0.3 * expected


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("form", ALL)
def test_weights_sum_to_one_and_have_a_gradient_everywhere(form, init):
    router = build(form, init)
    weights = router(user())
    assert weights.shape == ((5, 3, 4) if form == "personalised" else (5, 4))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    kept = 2 if form == "topk" else 4
    if form != "noisy":                                                  # its noise is meant to move the weights
        assert ((weights > 0).sum(-1) == kept).all()
        assert ((weights[weights > 0] - 1 / kept).abs().max() < 0.1) == (init == "uniform")
    (weights * torch.randn(weights.shape)).sum().backward()
    for name, parameter in router.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_linear_form_is_the_softmax_of_the_paper():
    router = Router(9, 4, temperature=0.5)
    torch.testing.assert_close(router(user()), (user() @ router.out.weight.T / 0.5).softmax(-1))
    assert [name for name, _ in router.named_parameters()] == ["out.weight"]


def test_personalised_router_equals_one_mlp_per_module():
    router = PersonalisedRouter(9, 4, num_modules=3, temperature=5.0).eval()
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.normal_()
    for m in range(3):
        normed = torch.nn.functional.layer_norm(user(), (9,), router.norm_weight[m], router.norm_bias[m])
        hidden = (normed @ router.hidden_weight[m].T + router.hidden_bias[m]).relu()
        expected = ((hidden @ router.out_weight[m].T + router.out_bias[m]) / 5.0).softmax(-1)
        torch.testing.assert_close(router(user())[:, m], expected)


def test_dropout_and_noise_are_off_in_eval():
    for form in ("noisy", "personalised"):
        router = build(form)
        with torch.no_grad():
            for parameter in router.parameters():
                parameter.normal_()
        assert not torch.equal(router(user()), router(user()))
        router.eval()
        assert torch.equal(router(user()), router(user()))


def test_noise_follows_the_seed():
    router = build("noisy")
    torch.manual_seed(7)
    first = router(user())
    torch.manual_seed(7)
    assert torch.equal(first, router(user()))


def test_hard_routing_keeps_k_renormalises_and_passes_gradient_through_the_kept():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    weights = routing_weights(logits, temperature=2.0, top_k=2)
    expected = (torch.tensor([3.0, 2.0]) / 2).softmax(-1)
    torch.testing.assert_close(weights[0], torch.stack([expected[0] * 0, expected[0], expected[0] * 0, expected[1]]))
    assert ((weights > 0).sum(-1) == 2).all()                            # ties too
    weights[0, 1].backward()
    slope = expected[0] * expected[1] / 2
    torch.testing.assert_close(logits.grad[0], torch.stack([slope * 0, slope, slope * 0, -slope]))


def test_temperature_flattens():
    logits = torch.tensor([0.0, 1.0, 4.0])
    assert routing_weights(logits, 5.0).max() < routing_weights(logits).max() < routing_weights(logits, 0.2).max()


@pytest.mark.parametrize("options, message", [
    ({"num_experts": 0}, "num_experts=0"),
    ({"in_dim": 0}, "in_dim=0"),
    ({"temperature": 0.0}, "gate_temperature=0.0"),
    ({"temperature": -1.0}, "gate_temperature=-1.0"),
    ({"temperature": float("nan")}, "gate_temperature=nan"),
    ({"top_k": 5}, "gate_top_k=5: must lie in 1 .. num_experts=4"),
    ({"top_k": 0}, "gate_top_k=0"),
    ({"init": "zero"}, "gate_init='zero': must be one of paper, uniform"),
])
@pytest.mark.parametrize("kind", [Router, PersonalisedRouter])
def test_settings_without_meaning_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"in_dim": 9, "num_experts": 4, **options})


def test_settings_of_one_kind_only():
    with pytest.raises(ValueError, match="gate_form='cubic'"):
        Router(9, 4, form="cubic")
    with pytest.raises(ValueError, match="needs gate_top_k"):
        Router(9, 4, form="topk")
    with pytest.raises(ValueError, match="num_modules=0"):
        PersonalisedRouter(9, 4, num_modules=0)
    with pytest.raises(ValueError, match="gate_dropout=1.0"):
        PersonalisedRouter(9, 4, dropout=1.0)
