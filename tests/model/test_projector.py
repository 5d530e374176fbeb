"""Both forms of the projector: where they start, what they keep, which weights they train and save."""

import pytest
import torch

from recbole_llm.model.projector import Isometry, Projector
from recbole_llm.training.checkpoint import load_checkpoint_into, save_checkpoint
from tests.model.contract import ModelContract


def test_the_projector_starts_at_the_scale_of_the_token_embeddings():
    torch.manual_seed(0)
    table = torch.randn(500, 16) * 3 + 5
    out = Projector(table, 64, out_std=0.02)(table[1:])
    assert out.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_projector_standardises_items_and_only_scales_users():
    table = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) * 3 + 5
    items, users = Projector(table, 8, 1.0), Projector(table, 8, 1.0, centred=False)
    standard = (table[1:] - items.mean) / items.std
    torch.testing.assert_close(standard.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(standard.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    assert not users.mean.any()
    torch.testing.assert_close((table[1:] / users.std).square().mean(), torch.tensor(1.0))


def table_of(n=500, width=16):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0)) * 3 + 5


@pytest.mark.parametrize("width", [16, 64])
def test_a_linear_projector_starts_as_a_scaled_isometry_of_standardised_vectors(width):
    table = table_of(width=width)
    projector = Projector(table, 64, 0.02, "linear")
    standard = (table - table[1:].mean(0)) / projector.std
    out = projector(table)
    products = standard @ standard.T
    torch.testing.assert_close(out @ out.T, products * (0.02**2 * 64 / width), rtol=1e-4, atol=1e-5)
    assert out[1:].square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-4)  # of entries: exact by construction
    assert [name for name, _ in projector.named_parameters()] == ["0.weight", "0.bias"]
    assert torch.equal(projector[0].weight, torch.eye(width)) and not projector[0].bias.any()


def test_the_isometry_is_the_same_in_every_run_and_in_no_checkpoint():
    torch.manual_seed(1)
    items = Projector(table_of(), 32, 1.0, "linear")
    torch.manual_seed(2)
    users = Projector(table_of(n=40), 32, 2.0, "linear", centred=False)
    torch.testing.assert_close(users[1].weight, 2 * items[1].weight)
    assert set(items.state_dict()) == {"0.weight", "0.bias"}
    assert (items[1].weight.std(0) > 0).all() and not torch.equal(Isometry(8, 32, 1.0).weight, items[1].weight[:, :8])


def test_vectors_wider_than_the_llm_and_unknown_forms_are_refused():
    with pytest.raises(ValueError, match="projector_form: linear keeps all 16 numbers .* of 8 cannot; set projector_form: mlp"):
        Projector(table_of(), 8, 1.0, "linear")
    with pytest.raises(ValueError, match="projector_form='cubic'"):
        Projector(table_of(), 8, 1.0, "cubic")


@pytest.fixture(scope="module")
def linear(tiny_data, tiny_llm, tmp_path_factory):
    contract = ModelContract()
    contract.name = "LLaRA"
    contract.settings = {"curriculum": "none", "user_token": True, "projector_form": "linear", "slot_scale": 8.0}
    return contract.build(tiny_data, tiny_llm, tmp_path_factory.mktemp("linear"))


@pytest.mark.parametrize("form", ["mlp", "linear"])
def test_slots_start_at_their_multiple_of_the_token_embeddings(form, linear, tiny_data, tiny_llm, tmp_path):
    contract, built = ModelContract(), linear
    contract.name, contract.settings = "LLaRA", {"curriculum": "none", "slot_scale": 8.0}
    if form == "mlp":
        built = contract.build(tiny_data, tiny_llm, tmp_path)
    _, data, model = built
    batch = next(iter(data[3]))
    slots = model.embed(batch)[batch["prompt_items"] > 0]
    expected = 8 * model.llm.get_input_embeddings().weight.std()
    assert slots.square().mean().sqrt().item() == pytest.approx(expected.item(), rel=0.2)


def test_a_linear_projector_trains_and_comes_back_from_a_checkpoint(linear, tmp_path):
    config, data, model = linear
    data[1].set_epoch(0)
    model.zero_grad()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.05)
    model.calculate_loss(next(iter(data[1]))).backward()
    for projector in (model.projector, model.user_projector):
        assert all(weight.grad.abs().sum() > 0 for weight in projector.parameters())
        with torch.no_grad():
            projector[0].weight.add_(projector[0].weight.grad)
    model.eval()
    batch = next(iter(data[3]))
    scores = model.score_candidates(batch)
    save_checkpoint(model, tmp_path / "saved", {"epoch": 0})
    with torch.no_grad():
        model.projector[0].weight.zero_()
    assert not torch.allclose(model.score_candidates(batch), scores)
    load_checkpoint_into(model, tmp_path / "saved")
    assert torch.equal(model.score_candidates(batch), scores)
    config["slot_scale"] = 1.0
    with pytest.raises(ValueError, match="slot_scale: checkpoint 8.0, here 1.0"):
        load_checkpoint_into(model, tmp_path / "saved")
    config["slot_scale"] = 8.0
