"""The formulas against the released layers' float64 vectors, and against the sums they stand for."""

import numpy as np
import pytest
import torch

from recbole_llm.adapter.functional import add_linear, gated_delta, mixed_delta, mixed_linear
from recbole_llm.adapter.router import PersonalisedRouter

TOLERANCE = 1e-10


def vectors(shared_dir, name):
    with np.load(shared_dir / "reference" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(actual, expected):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["ilora_linear_a", "ilora_linear_b"])
def test_gated_delta_equals_the_released_layer(shared_dir, name):
    v = vectors(shared_dir, name)
    x, gate, A, B = (v[key].requires_grad_() for key in ("x", "gate", "A", "B"))
    assert float(v["scaling"]) == int(v["alpha"]) / (int(v["r"]) / int(v["K"]))
    y = x @ v["W"].T + gated_delta(x, A, B, gate, float(v["scaling"]))
    close(y, v["y"])
    y.backward(v["upstream"])
    for leaf, key in ((x, "grad_x"), (gate, "grad_gate"), (A, "grad_A"), (B, "grad_B")):
        close(leaf.grad, v[key])


def reference_router(v):
    router = PersonalisedRouter(v["user"].shape[1], v["weights"].shape[1], temperature=float(v["temperature"])).double()
    state = {"norm_weight": "gate_ln_weight", "norm_bias": "gate_ln_bias", "hidden_weight": "gate_w1",
             "hidden_bias": "gate_b1", "out_weight": "gate_w2", "out_bias": "gate_b2"}
    router.load_state_dict({key: v[name].unsqueeze(0) for key, name in state.items()})
    return router.eval()


def test_mixed_delta_and_its_router_equal_the_released_layer(shared_dir):
    v = vectors(shared_dir, "reclora_linear_a")
    x, A, B = (v[key].requires_grad_() for key in ("x", "A", "B"))
    weights = reference_router(v)(v["user"])
    close(weights, v["weights"])
    delta = mixed_delta(x, A, B, weights, int(v["alpha"]) / int(v["r"]))
    close(delta, v["delta"])
    delta.backward(v["upstream"])
    for leaf, key in ((x, "grad_x"), (A, "grad_A"), (B, "grad_B")):
        close(leaf.grad, v[key])


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_output_mixing_is_the_weighted_sum_of_the_meta_loras():
    x, A, B = random(2, 5, 6, seed=0), random(3, 4, 6, seed=1), random(3, 7, 4, seed=2)
    weights = random(2, 3, seed=3).softmax(-1)
    expected = sum(2.0 * weights[:, n, None, None] * (x @ A[n].T @ B[n].T) for n in range(3))
    close(mixed_delta(x, A, B, weights, 2.0, mixing="output"), expected)
    assert (mixed_delta(x, A, B, weights, 2.0) - expected).abs().max() > 0.1


def test_output_mixing_by_token_and_both_mixings_for_a_single_expert():
    x, A, B = random(2, 5, 6, seed=0), random(3, 4, 6, seed=1), random(3, 7, 4, seed=2)
    weights = random(2, 5, 3, seed=3).softmax(-1)
    expected = sum(weights[:, :, n, None] * (x @ A[n].T @ B[n].T) for n in range(3))
    close(mixed_delta(x, A, B, weights, 1.0, mixing="output"), expected)
    one_hot = torch.eye(3, dtype=torch.float64)[[2, 0]]
    close(mixed_delta(x, A, B, one_hot, 1.0), mixed_delta(x, A, B, one_hot, 1.0, mixing="output"))


def test_a_gate_per_token_is_a_gate_of_every_position():
    x, A, B, gate = random(2, 5, 6, seed=0), random(8, 6, seed=1), random(7, 8, seed=2), random(2, 5, 4, seed=3)
    actual = gated_delta(x, A, B, gate, 3.0)
    for position in range(5):
        close(actual[:, position:position + 1], gated_delta(x[:, position:position + 1], A, B, gate[:, position], 3.0))
    close(gated_delta(x.flatten(0, 1), A, B, gate, 3.0), actual.flatten(0, 1))


@pytest.mark.parametrize("mixing", ["split", "weight", "output"])
def test_beams_and_flattened_tokens_use_the_gate_of_their_row(mixing):
    x, gate = random(6, 5, 6, seed=0), random(2, 4, seed=3).softmax(-1)
    shapes = ((8, 6), (7, 8)) if mixing == "split" else ((4, 8, 6), (4, 7, 8))
    A, B = (random(*shape, seed=seed) for seed, shape in enumerate(shapes, 1))

    def delta(x, gate):
        return gated_delta(x, A, B, gate, 1.0) if mixing == "split" else mixed_delta(x, A, B, gate, 1.0, mixing)

    expected = torch.cat([delta(x[:3], gate[:1]), delta(x[3:], gate[1:])])        # rows 0-2 are the beams of row 0
    close(delta(x, gate), expected)
    close(delta(x.flatten(0, 1), gate), expected.flatten(0, 1))
    with pytest.raises(ValueError, match="multiple of the gate"):
        delta(x[:5], gate)


def test_fused_sums_equal_the_plain_ones():
    base, z, B = random(2, 5, 7, seed=0), random(2, 5, 4, seed=1), random(7, 4, seed=2)
    close(add_linear(base, z, B), base + z @ B.T)
    per_row = random(2, 7, 4, seed=3)
    close(mixed_linear(z, per_row, base), base + z @ per_row.transpose(1, 2))


def test_what_has_no_meaning_is_refused():
    x, A, B = torch.zeros(2, 5, 6), torch.zeros(8, 6), torch.zeros(7, 8)
    with pytest.raises(ValueError, match="r=8 is not divisible by K=3"):
        gated_delta(x, A, B, torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match="length 4, its input 5"):
        gated_delta(x, A, B, torch.zeros(2, 4, 4), 1.0)
    with pytest.raises(ValueError, match="mixing='mean'"):
        mixed_delta(x, A[None], B[None], torch.zeros(2, 1), 1.0, mixing="mean")
    with pytest.raises(ValueError, match="mixing='output' for a gate per token"):
        mixed_delta(x, A[None], B[None], torch.zeros(2, 5, 1), 1.0)
