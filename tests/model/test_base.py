"""The machinery that models share: what stands in a slot, how the projector starts, which weights learn how fast."""

import pytest
import torch

from recbole_llm.adapter import RowDropout
from recbole_llm.config.properties import llm_settings, short_names
from tests import tiny, workers
from tests.model.contract import ModelContract


@pytest.fixture(scope="module")
def built(tiny_data, tiny_llm, tmp_path_factory):
    contract = ModelContract()
    contract.name, contract.settings = "LLaRA", {"curriculum": "none", "user_token": True}
    return contract.build(tiny_data, tiny_llm, tmp_path_factory.mktemp("base"))


def test_a_slot_holds_its_items_projected_vector_and_other_places_their_token(built):
    _, data, model = built
    batch = next(iter(data[3]))
    embeds = model.embed(batch)
    tokens = model.llm.get_input_embeddings()(batch["prompt_ids"])
    items = batch["prompt_items"]
    expected = model.projector(model.crm.item_vectors)
    torch.testing.assert_close(embeds[items > 0], expected[items[items > 0]])
    assert torch.equal(embeds[items == 0], tokens[items == 0])
    users = model.user_projector(model.crm.user_vectors(batch))
    torch.testing.assert_close(embeds[items == -1], users)  # one user slot a row
    assert (items == -1).sum(1).eq(1).all()


def test_an_answer_follows_a_user_token_at_the_prompts_end(tiny_data, tiny_llm, tmp_path, monkeypatch):
    contract = ModelContract()
    contract.name, contract.settings = "LLaRA", {"curriculum": "none", "user_token": True}
    templates = ["Seen:{history}. Choose from\n{candidates}\nNext:{user}"]
    place = {"behaviour_token_place": "before", "item_separator": "\n", "prompt_templates": templates}
    _, data, model = contract.build(tiny_data, tiny_llm, tmp_path, **place)
    model.eval()
    batch = next(iter(data[3]))
    items = batch["prompt_items"]
    assert (items[:, -1] == -1).all() and (items == -1).sum() == len(items)
    torch.testing.assert_close(model.embed(batch)[:, -1], model.user_projector(model.crm.user_vectors(batch)))
    contract.test_likelihood_of_the_answer_is_the_score_of_the_target(model, batch, True, monkeypatch)
    contract.test_scoring_methods_agree(model, batch)
    answers = [model.tokens.answer(item)[:-1] for item in batch["candidates"][0].tolist()]
    ids = batch["prompt_ids"][0].tolist()
    slots = [place for place, item in enumerate(items[0].tolist()) if item > 0][-len(answers) :]
    assert [ids[slot + 1 : slot + 1 + len(answer)] for slot, answer in zip(slots, answers, strict=True)] == answers


def test_a_model_that_overrides_adapter_and_gate_alone_is_mixed_by_its_gate(tiny_data, tiny_llm, tmp_path, monkeypatch):
    """As README's "Add a model" says: nothing else is needed."""
    from recbole_llm import registry
    from recbole_llm.adapter import GatedLoraConfig
    from recbole_llm.model.base import LLMRecommender

    class FirstExpert(LLMRecommender):
        chosen = 0

        def adapter_config(self):
            return GatedLoraConfig(task_type="CAUSAL_LM", num_experts=2, mixing="split", **self.lora_arguments())

        def gate(self, interaction):
            return torch.eye(2)[[self.chosen] * len(interaction)]

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.register(FirstExpert)
    contract = ModelContract()
    contract.name, contract.settings = "FirstExpert", {"curriculum": "none"}
    _, data, model = contract.build(tiny_data, tiny_llm, tmp_path)
    batch, model = next(iter(data[3])), model.eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.1)
    scores = model.score_candidates(batch)
    model.chosen = 1
    assert (scores - model.score_candidates(batch)).abs().max() > 1e-4


def test_slots_start_at_the_scale_of_the_tokens_that_gemma_multiplies(tiny_data, tmp_path):
    """Its embedding module multiplies by the root of the width; slots stand where its output does."""
    from tests import architectures, tiny

    gemma = architectures.build("gemma", vocab_size=4096, max_position_embeddings=1024)
    folder = tiny.write_llm(tmp_path / "llm")
    gemma.save_pretrained(folder)
    contract = ModelContract()
    contract.name, contract.settings = "LLaRA", {"curriculum": "none"}
    _, data, model = contract.build(tiny_data, folder, tmp_path)
    batch = next(iter(data[3]))
    embeds, slots = model.embed(batch), batch["prompt_items"] > 0
    tokens = embeds[batch["prompt_mask"].bool() & ~slots]
    assert embeds[slots].std().item() == pytest.approx(tokens.std().item(), rel=0.3)


def test_training_feeds_an_answer_up_to_its_last_choice_and_counts_all_of_it(built, monkeypatch):
    from recbole_llm.llm.constrained_vocabulary import rivals, until_last_choice
    from recbole_llm.model import base

    _, data, model = built
    model.eval()  # no dropout
    batch = next(iter(data[3]))
    rows, place = torch.arange(len(batch)), batch["target_position"]
    for name in ("ids", "mask"):
        batch.interaction[f"answer_{name}"] = batch[f"branch_{name}"][rows, place]
    for name, part in zip(("ids", "mask"), rivals(batch["branch_ids"], batch["branch_mask"]), strict=True):
        batch.interaction[f"rival_{name}"] = part[rows, place]
    monkeypatch.setattr(model, "constrained", True)
    fed = []
    hook = model.llm.register_forward_pre_hook(
        lambda module, args, inputs: fed.append(inputs["inputs_embeds"].shape[1]), with_kwargs=True
    )

    def run():
        model.zero_grad()
        likelihood, tokens = model(batch)
        (-likelihood.sum() / tokens.sum()).backward()
        return likelihood, tokens, [w.grad.clone() for w in model.parameters() if w.grad is not None]

    likelihood, tokens, gradients = run()
    choices = int(until_last_choice(batch["rival_mask"]).sum(1).max())
    assert fed == [batch["prompt_ids"].shape[1] + choices - 1] and choices < batch["answer_ids"].shape[1]
    assert torch.equal(tokens, batch["answer_mask"].sum(1))
    monkeypatch.setattr(base, "until_last_choice", lambda mask: torch.ones_like(mask[..., 0]))
    whole = run()
    hook.remove()
    model.zero_grad()
    assert fed[1] == batch["prompt_ids"].shape[1] + batch["answer_ids"].shape[1] - 1
    torch.testing.assert_close(likelihood, whole[0], atol=1e-5, rtol=1e-5)
    assert gradients and len(gradients) == len(whole[2])
    for one, other in zip(gradients, whole[2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_groups_have_their_own_rates_and_no_decay_on_biases(built):
    config, _, model = built
    config["weight_decay"] = 0.1
    groups = model.parameter_groups()
    config["weight_decay"] = 0.0
    assert {group["name"] for group in groups} == {"adapter", "projector"}
    for group in groups:
        biases = all(w.ndim < 2 for w in group["params"])
        assert group["weight_decay"] == (0.0 if biases else 0.1)


@pytest.mark.parametrize("shared, rows", [("auto", True), (True, True), (False, False)])
def test_one_dropout_mask_serves_a_prompt_on_a_cpu_unless_it_is_switched_off(shared, rows, tiny_data, tiny_llm, tmp_path):
    contract = ModelContract()
    contract.name, contract.settings = "LLaRA", {"lora_dropout": 0.2, "lora_dropout_shared": shared}
    _, _, model = contract.build(tiny_data, tiny_llm, tmp_path)
    found = [layer for name, layer in model.llm.named_modules() if name.endswith("lora_dropout.default")]
    assert found and all(layer.p == 0.2 and isinstance(layer, RowDropout) == rows for layer in found)


FAMILIES = {
    "smollm2-135m": "llama", "smollm2-360m": "llama", "qwen2.5-0.5b": "qwen2", "qwen3-0.6b": "qwen3", "gemma-3-270m": "gemma3_text",
    "llama-3.2-1b": "llama", "llama-2-7b": "llama", "vicuna-7b": "llama",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_short_name_s_family_learns_with_the_settings_that_suit_it(name, tiny_data, tmp_path):
    assert FAMILIES.keys() == set(short_names())
    family, (suited, _) = FAMILIES[name], llm_settings(name, [])
    own = {"head_dim": 8} if family in ("qwen3", "gemma3_text") else {}
    llm = tiny.write_llm(tmp_path / family, architecture=family, **own)
    quick = {"crm_epochs": 0, "learning_rate": 1e-2, "train_sample_size": 8, "valid_sample_size": 8, "history_from": 0.0, "eval_step": 8}
    if suited:
        quick |= {"users_per_list": 4, "train_batch_size": 8}
    given = tiny.settings(tiny_data, llm, tmp_path, **{**suited, **quick})
    config, data, model = workers.build("iLoRA", given)
    before = workers.weights_of(model)
    data[1].set_epoch(0)
    batch = next(iter(data[1]))
    model.eval()
    with torch.no_grad():
        untrained = model(batch)[0].sum()
    fitted = workers.train((config, data, model), tmp_path / "saved", epochs=8)
    assert model.llm.config.model_type == family
    moved = [name for name, weight in workers.weights_of(fitted.model).items() if not torch.equal(weight, before[name])]
    assert any("lora_B" in name for name in moved) and any("projector" in name for name in moved)
    model.eval()
    with torch.no_grad():
        assert model(batch)[0].sum() > untrained + 1
