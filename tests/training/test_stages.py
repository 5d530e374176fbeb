"""A model that trains in named stages: what each one trains."""

from pathlib import Path

import pytest
import torch
from recbole.utils import get_model

from recbole_llm import ConfigError, LLMConfig
from recbole_llm.config.stages import stage_at
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.training.trainer import LLMTrainer
from tests import tiny, workers

STAGES = [{"name": "text", "until": 0.5, "trains": ["adapter"], "prompts": "text"}, {"name": "map", "until": 1.0, "trains": ["projector"]}]


class Watching(LLMTrainer):
    """Takes down which parts of the model the steps of a stage have changed."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.moved = {}

    def _step(self, group):
        before = workers.weights_of(self.model)
        found = super()._step(group)
        stage = "text" if self.position.step <= self.schedule.total / 2 else "map"
        for name, weight in workers.weights_of(self.model).items():
            if not torch.equal(weight, before[name]):
                self.moved.setdefault(stage, set()).add("projector" if "projector" in name else "adapter")
        return found


def test_weights_are_selected_among_those_of_the_last_stage(tiny_data, tiny_llm, tmp_path, monkeypatch):
    own = {"text_history_len": 4, "stages": STAGES, "crm_config": {"train_batch_size": 64, "embedding_size": 8}, "epochs": 4, "stopping_step": 1}
    config = LLMConfig("CoLLM", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **own))
    _, train, valid, _ = prepare_data(config)
    trainer = LLMTrainer(config, get_model("CoLLM")(config, train._dataset))
    falling = iter([0.9, 0.8, 0.7, 0.6])  # the first stage's would win, and end training in the second epoch
    monkeypatch.setattr(trainer, "_valid_epoch", lambda *_, **__: (next(falling), {"hit@1": 0.0}))
    trainer.fit(train, valid, show_progress=False)
    assert trainer.best_valid_score == 0.7 and len(trainer.position.history) == 4


def test_a_run_too_short_for_the_last_stage_keeps_its_weights(tiny_data, tiny_llm, tmp_path):
    own = {"text_history_len": 4, "stages": STAGES, "crm_config": {"train_batch_size": 64, "embedding_size": 8}, "max_steps": 1}
    config = LLMConfig("CoLLM", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **own))
    _, train, valid, _ = prepare_data(config)
    trainer = LLMTrainer(config, get_model("CoLLM")(config, train._dataset))
    trainer.fit(train, valid, show_progress=False)
    assert (Path(trainer.saved_model_file) / "adapter_model.safetensors").is_file()


def test_a_stage_trains_its_own_parts_alone(tiny_data, tiny_llm, tmp_path):
    assert stage_at(STAGES, 0.49)["name"] == "text" and stage_at(STAGES, 0.5)["name"] == "map"
    crm = {"train_batch_size": 64, "embedding_size": 8}
    own = {"text_history_len": 4, "lora_dropout": 0.0, "stages": STAGES, "crm_config": crm}
    config = LLMConfig("CoLLM", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **own))
    _, train, valid, _ = prepare_data(config)
    trainer = Watching(config, get_model("CoLLM")(config, train._dataset))
    trainer.fit(train, valid, show_progress=False)
    assert trainer.moved == {"text": {"adapter"}, "map": {"projector"}}


def test_prompts_change_stages_with_the_weights(tiny_data, tiny_llm, tmp_path):
    """20 batches, 16 to a step: the first step trains the adapter on text alone, the second, of four batches, the map."""
    own = {"text_history_len": 4, "stages": STAGES, "crm_config": {"train_batch_size": 64, "embedding_size": 8}, "crm_epochs": 1}
    steps = {"train_sample_size": 20, "train_batch_size": 1, "accumulation_steps": 16}
    config = LLMConfig("CoLLM", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **own, **steps))
    batches = prepare_data(config)[1].batches
    assert [key.hybrid for batch in batches for key in batch] == [False] * 16 + [True] * 4
    assert batches.step_share(15) == 0.0 and batches.step_share(16) == 0.5
    config["max_steps"] = 1
    assert batches.step_share(0) == 0.0


def stage(*trains, until=1, **more):
    return {"name": f"to {until}", "until": until, "trains": [*trains], **more}


@pytest.mark.parametrize(
    "model, stages, settings, words",
    [
        ("LLaRA", [stage("projector", prompts="text")], {}, r"to 1 \(trains projector\): no weight would move.* or show slots"),
        ("LLaRA", [stage("projector", "router", prompts="text")], {}, r"to 1 \(trains projector, router\): no weight"),
        ("LLaRA", [stage("projector")], {"behaviour_tokens": "none"}, r"to 1 \(trains projector\): no weight"),
        ("LLaRA", [stage("adapter", until=0.4, prompts="text"), stage("adapter", prompts="text")], {"user_token": True, "history_from": 0.3}, "history_from: .* the stage to 0.4"),
        ("iLoRA", [stage("router", until=0.5), stage("adapter", "router")], {}, r"to 0.5 \(trains router\): no weight .*a router from an adapter that an earlier stage"),
        ("iLoRA", [stage("adapter", until=0.5), stage("router")], {"num_experts": 1}, r"to 1 \(trains router\): no weight"),
        ("TALLRec", [stage("projector")], {}, r"no weight would move.*; train the adapter there too$"),
        ("E4SRec", [stage("router", until=0.5), stage("adapter", "projector")], {}, r"to 0.5 \(trains router\): no weight"),
    ],
)
def test_stages_that_teach_nothing_are_told_with_the_configuration(model, stages, settings, words):
    given = {"stages": stages, "settings_of": "llama-2-7b", **settings}
    with pytest.raises(ConfigError, match=words) as caught:
        LLMConfig(model, "ml-100k", config_dict=given)
    assert len(caught.value.problems) == 1
    slots = [{**each, "prompts": "hybrid", "trains": ["adapter", "projector"]} for each in stages]
    assert LLMConfig(model, "ml-100k", config_dict={**given, "stages": slots})["stages"] == slots


@pytest.mark.parametrize(
    "stages",
    [
        [stage("adapter", until=0.5, prompts="text"), stage("router", prompts="text")],
        [stage("projector", "router", until=0.5), stage("adapter", "router")],
    ],
)
def test_stages_that_move_weights_are_taken_and_do(tiny_data, tiny_llm, tmp_path, stages):
    """What the configuration lets pass moves a weight in each stage, one step long."""
    own = {"stages": stages, "max_steps": 2, "weight_decay": 0.0, "warmup_ratio": 0.0, "history_from": 0.0, "valid_sample_size": 4, "test_sample_size": 4}
    config = LLMConfig("iLoRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **own))
    data = prepare_data(config)
    model = get_model("iLoRA")(config, data[1]._dataset)
    trainer, seen = LLMTrainer(config, model), []
    monitor = trainer.optimizer.step

    def step(*args, **kwargs):
        before = workers.weights_of(model)
        done = monitor(*args, **kwargs)
        seen.append({n.split(".")[0] for n, w in workers.weights_of(model).items() if not torch.equal(w, before[n])})
        return done

    trainer.optimizer.step = step
    trainer.fit(data[1], data[2], saved=False)
    assert len(seen) == 2 and all(seen)


def test_text_after_histories_are_shown_and_slots_of_users_alone_are_no_problem():
    late = [{"name": "slots", "until": 0.5, "trains": ["adapter"]}, {"name": "text", "until": 1, "trains": ["adapter"], "prompts": "text"}]
    given = {"settings_of": "llama-2-7b", "user_token": True, "history_from": 0.5, "stages": late}
    assert LLMConfig("LLaRA", "ml-100k", config_dict=given)["history_from"] == 0.5
    alone = {"behaviour_tokens": "none", "user_token": True, "stages": [{"name": "user", "until": 1, "trains": ["projector"]}]}
    assert LLMConfig("LLaRA", "ml-100k", config_dict={"settings_of": "llama-2-7b", **alone})["user_token"]


def test_a_stage_without_weights_of_the_model_is_refused_before_a_step(tiny_data, tiny_llm, tmp_path):
    stages = [stage("adapter", until=0.5), stage("router")]
    own = {"stages": stages, "crm_config": {"train_batch_size": 64, "embedding_size": 8}}
    config = LLMConfig("CoLLM", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, tmp_path, **own))
    model = get_model("CoLLM")(config, prepare_data(config)[1]._dataset)
    with pytest.raises(ConfigError, match=r"stages: to 1 \(trains router\): this model has weights of adapter, projector alone"):
        LLMTrainer(config, model)


def test_stages_decide_over_what_a_model_does_without_them():
    given = {"stages": STAGES, "recipe": "released", "curriculum": "linear", "epochs": 2}
    for name in ("RecLoRA", "LLaRA", "iLoRA", "CoLLM"):
        assert [get_model(name).hybrid_probability(given, progress) for progress in (0.2, 0.7)] == [0.0, 1.0]
    for curriculum, expected in (("none", 1.0), ("linear", 0.2)):
        assert get_model("RecLoRA").hybrid_probability({"stages": None, "curriculum": curriculum}, 0.2) == expected
    with pytest.raises(ConfigError, match="stages: E4SRec's prompts hold item vectors and no titles"):
        LLMConfig("E4SRec", "ml-100k", config_dict={"stages": STAGES})
