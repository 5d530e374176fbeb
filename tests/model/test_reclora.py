import copy

import pytest
import torch

from recbole_llm import ConfigError, LLMConfig, run_recbole_llm
from recbole_llm.crm.training import load_or_train
from recbole_llm.data.tokens import USER_SLOT
from recbole_llm.model.reclora import RecLoRA
from recbole_llm.results.result_file import read_result
from recbole_llm.training.checkpoint import load_checkpoint_into, save_checkpoint
from tests import tiny
from tests.model.contract import PointwiseContract
from tests.model.reclora import SMALL, prepared


class TestRecLoRA(PointwiseContract):
    name = "RecLoRA"
    settings = SMALL

    def test_gates_are_distributions_for_each_projection_and_the_users_alone(self, model, batch):
        gate = model.gate(batch).weights
        assert gate.shape == (len(batch), 4, 4)  # two layers with q and v; four meta-LoRAs
        torch.testing.assert_close(gate.sum(-1), torch.ones(gate.shape[:2]))
        torch.testing.assert_close(model.gate(batch[[2]]).weights[0], gate[2])

    def test_shared_prefixes_score_as_separate_prompts(self, model, batch):
        """Items that share their history's forward pass get what each gets with a prompt of its own."""
        apart = copy.deepcopy(batch)
        for name in ("prompt_ids", "prompt_mask", "prompt_items"):
            own = batch[name][:, None].expand(-1, batch["candidates"].shape[1], -1)
            apart.interaction[name] = own.contiguous()
        torch.testing.assert_close(model.score_candidates(apart), model.score_candidates(batch), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "more",
        [
            {"lora_mixing": "output"},
            {"lora_mixing": "none"},
            {"gate_shared": True},
            {"gate_top_k": 1},
            {"gate_input": "target"},
            {"crm_model": "DIEN", "gate_input": "target"},
            {"text_history": "relevant", "crm_history": "relevant"},
            {"history_notes": "ratings", "user_token": True},
        ],
        ids=str,
    )
    def test_variants_train_and_score(self, more, tiny_data, tiny_llm, tmp_path):
        _, data, model = self.build(tiny_data, tiny_llm, tmp_path, crm_epochs=0, **more)
        data[1].set_epoch(0)
        model.calculate_loss(next(iter(data[1]))).backward()
        batch = next(iter(data[3]))
        scores = model.eval().score_candidates(batch)
        assert scores.shape == batch["candidates"].shape and torch.isfinite(scores).all()
        alone = model.score_candidates(batch[[1]])[0]
        torch.testing.assert_close(alone, scores[1], rtol=1e-4, atol=1e-5)
        if more.get("gate_top_k"):
            assert ((model.gate(batch).weights > 0).sum(-1) == 1).all()

    def test_a_user_token_may_stand_behind_the_item_asked_about(self, tiny_data, tiny_llm, tmp_path):
        templates = {"candidates": ["Seen:{history}. Next{target}? Yes or No:{user}"], "ctr": ["{history}{target}"]}
        _, data, model = self.build(
            tiny_data, tiny_llm, tmp_path, user_token=True, behaviour_token_place="before", click_templates=templates
        )
        model.eval()
        batch = next(iter(data[3]))
        assert not (batch["prompt_items"] == USER_SLOT).any()
        assert ((batch["branch_items"] == USER_SLOT).sum(2) == 1).all()
        last = batch["branch_mask"].sum(2, keepdim=True) - 1
        assert (batch["branch_items"].gather(2, last) == USER_SLOT).all()
        self.test_likelihood_of_the_answer_is_the_score_of_the_target(model, batch)
        self.test_a_row_is_scored_the_same_alone_and_among_others(model, batch)
        data[1].set_epoch(0)
        assert (next(iter(data[1]))["prompt_items"][:, -1] == USER_SLOT).all()

    @pytest.mark.parametrize(("key", "other"), [("gate_temperature", 1.0), ("gate_top_k", 3)])
    def test_a_checkpoint_of_another_gate_is_refused(self, model, tmp_path, key, other):
        save_checkpoint(model, tmp_path / "saved", {"epoch": 0})
        before, model.config[key] = model.config[key], other
        try:
            with pytest.raises(ValueError, match=f"{key}: checkpoint {before!r}, here {other!r}"):
                load_checkpoint_into(model, tmp_path / "saved")
        finally:
            model.config[key] = before


class TestRecLoRAOverCandidates(PointwiseContract):
    name = "RecLoRA"
    settings = {**SMALL, "likelihood_over": "candidates"}

    def test_an_answer_competes_with_the_other_answer_alone(self, model, train_batch):
        """exp(log-likelihood) of Yes and of No sum to one."""
        both = copy.deepcopy(train_batch)
        with torch.no_grad():
            found = [model(train_batch)[0]]
            yes, no = model.yes_no
            both.interaction["answer_ids"] = yes + no - train_batch["answer_ids"]
            found.append(model(both)[0])
        torch.testing.assert_close(found[0].exp() + found[1].exp(), torch.ones(len(train_batch)))


class TestRecLoRAWithATargetAwareGate(PointwiseContract):
    name = "RecLoRA"
    settings = {**SMALL, "gate_input": "target"}

    def test_the_gate_reads_the_item_asked_about(self, model, batch):
        other = copy.deepcopy(batch)
        other.interaction["item_id"] = batch["candidates"][:, -1].where(
            batch["candidates"][:, -1] != batch["item_id"], batch["candidates"][:, 0]
        )
        assert not torch.allclose(model.gate(other).weights, model.gate(batch).weights, atol=1e-9)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"gate_temperature": 0}, "gate_temperature: must be a number > 0"),
        ({"gate_temperature": -1.5}, "gate_temperature: must be a number > 0"),
        ({"num_experts": 0}, "num_experts: must be an integer >= 1"),
        ({"lora_r": 0}, "lora_r: must be an integer >= 1"),
        ({"gate_top_k": 17}, "gate_top_k: must be at most num_experts=16"),
        ({"lora_mixing": "both"}, "lora_mixing: must be one of 'weight', 'output', 'none'"),
        ({"text_history": "best"}, "text_history: must be one of 'recent', 'relevant'"),
        ({"llm_eval": "generate"}, "llm_eval: generate has no meaning for RecLoRA, which scores items"),
        ({"answer_words": ["Yes"]}, "answer_words: must be two words"),
        ({"gate_input": "item_mean"}, "gate_input: RecLoRA takes auto, target or sequence"),
    ],
    ids=str,
)
def test_bad_settings_name_the_key_and_the_rule(settings, complaint, tiny_data):
    with pytest.raises(ConfigError, match=complaint):
        LLMConfig("RecLoRA", "tiny", config_dict={"data_path": str(tiny_data), **settings})


def test_a_sample_larger_than_the_data_is_all_of_it(tiny_data, tiny_llm, tmp_path, caplog):
    _, (_, train, _, _) = prepared(tiny_data, tiny_llm, tmp_path, train_sample_size=9999)
    assert train.batches.sample.tolist() == list(range(len(train.dataset)))
    assert "train_sample_size=9999, but there are" in caplog.text


def test_a_gate_that_reads_the_target_needs_a_crm_that_does(tiny_data, tiny_llm, tmp_path):
    config, data = prepared(
        tiny_data, tiny_llm, tmp_path, crm_model="SASRec", gate_input="target", crm_config={"hidden_size": 16}
    )
    with pytest.raises(ValueError, match="crm_model=SASRec does not; use DIN or DIEN"):
        RecLoRA(config, data[1]._dataset)


@pytest.mark.parametrize("name", ["DIN", "DIEN"])
def test_the_gate_reads_what_the_crms_final_layer_reads(name, tiny_data, tiny_llm, tmp_path):
    config, (_, train, _, test) = prepared(tiny_data, tiny_llm, tmp_path, crm_model=name)
    crm = load_or_train(config, train._dataset)
    batch = next(iter(test))
    final = crm.model.dnn_predict_layers if name == "DIN" else crm.model.dnn_predict_layer
    vectors = crm.user_vectors(batch, batch["item_id"])
    asked_for = {**batch.interaction, "neg_item_id_list": batch["item_id_list"]}
    torch.testing.assert_close(final(vectors).squeeze(1).sigmoid(), crm.model.predict(asked_for))
    assert not vectors.requires_grad and torch.equal(crm.train().user_vectors(batch, batch["item_id"]), vectors)
    items = crm.model.embedding_layer.token_embedding_table["item"].embedding.weight
    assert torch.equal(crm.item_vectors, items[: train._dataset.item_num])


def test_candidates_with_a_history_for_each_are_tested_reported_and_permuted(tiny_data, tiny_llm, tmp_path):
    """The whole run: scores, leak check and permutations read a prompt for every candidate."""
    more = {**SMALL, "text_history": "relevant", "crm_history": "relevant", "permutations": 2, "latency_rows": 2}
    found = run_recbole_llm("RecLoRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **more))
    record = read_result(found["result_file"])
    assert record["protocol"] == "candidates" and record["checks"]["leaks"]["id_outside"] == 0
    spread = record["checks"]["permutations"]
    assert spread["hit@1"] == [pytest.approx(record["metrics"]["hit@1"], abs=1e-3)] * 2 and spread["same_top"] == 1.0
    assert record["valid"].keys() == record["metrics"].keys()
