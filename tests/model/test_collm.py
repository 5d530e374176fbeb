import copy
from pathlib import Path

import pytest
import torch

from recbole_llm.config.stages import stage_at
from tests.model.contract import PointwiseContract

CRM = {"train_batch_size": 64, "embedding_size": 8}


class TestCoLLM(PointwiseContract):
    name = "CoLLM"
    settings = {"text_history_len": 4, "lora_dropout": 0.0, "stages": None, "crm_config": CRM}

    @pytest.mark.parametrize("crm_model", ["BPR", "LightGCN", "SASRec"])
    def test_the_user_slot_holds_the_crms_vector(self, crm_model, tiny_data, tiny_llm, tmp_path):
        own = {"train_batch_size": 64, **({"hidden_size": 8, "inner_size": 8} if crm_model == "SASRec" else CRM)}
        for _ in range(2):  # trained, then read from its file
            _, data, model = self.build(tiny_data, tiny_llm, tmp_path, crm_model=crm_model, crm_config=own)
        batch = next(iter(data[3]))
        assert model.crm.user_vectors(batch).shape == (len(batch), 8) and model.crm.item_vectors.shape == (model.n_items, 8)
        if model.crm.general:  # RecBole's sequential splits give a graph their first items too: retrieval ranks by these vectors
            expected = model.crm.model.full_sort_predict(batch).view(len(batch), -1)
            torch.testing.assert_close(model.crm.user_table[batch["user_id"]] @ model.crm.item_vectors.T, expected, atol=1e-5, rtol=1e-4)

    def test_weights_of_other_users_are_refused(self, built, tiny_data, tiny_llm, tmp_path):
        from recbole_llm.crm import settings, store

        config, data, model = built
        (file,) = (Path(config["checkpoint_dir"]) / "crm").glob("*.safetensors")
        dataset = data[1]._dataset
        shuffled = copy.copy(dataset)
        tokens = dataset.field2id_token[dataset.uid_field].copy()
        tokens[[1, 2]] = tokens[[2, 1]]
        shuffled.field2id_token = {**dataset.field2id_token, dataset.uid_field: tokens}
        own = settings.crm_config(config)
        assert store.read(file, own, dataset).sha256 == model.crm.sha256
        with pytest.raises(ValueError, match="trained on other users, or in another order"):
            store.read(file, own, shuffled)

    def test_stages_train_the_adapter_then_the_map(self, tiny_data, tiny_llm, tmp_path):
        from recbole_llm.training.trainer import LLMTrainer

        stages = [{"name": "text", "until": 0.5, "trains": ["adapter"], "prompts": "text"}, {"name": "map", "until": 1.0, "trains": ["projector"]}]
        config, data, model = self.build(tiny_data, tiny_llm, tmp_path, stages=stages)
        assert stage_at(stages, 0.49)["name"] == "text" and stage_at(stages, 0.5)["name"] == "map"
        weights = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
        moved = {}

        def watch(trainer):
            step, before = trainer._step, {}

            def watched(group):
                before.update({name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad})
                found = step(group)
                stage = "text" if trainer.position.step <= trainer.schedule.total / 2 else "map"
                for name, weight in model.named_parameters():
                    if weight.requires_grad and not torch.equal(weight, before[name]):
                        moved.setdefault(stage, set()).add("projector" if "projector" in name else "adapter")
                return found

            trainer._step = watched
            return trainer

        watch(LLMTrainer(config, model)).fit(data[1], data[2], show_progress=False)
        assert moved == {"text": {"adapter"}, "map": {"projector"}} and weights
