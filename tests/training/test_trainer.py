"""The training loop: when it ends, what it selects by, what stops it."""

import copy
from pathlib import Path

import pytest
import torch

from recbole_llm.runtime import memory
from recbole_llm.training.trainer import LLMTrainer
from tests import workers
from tests.training.making import steps, trainer_of


def test_two_runs_of_one_second_have_folders_of_their_own(fresh, monkeypatch):
    monkeypatch.setattr("recbole_llm.training.trainer.get_local_time", lambda: "Jan-01-2026_00-00-00")
    trainers = [trainer_of(*fresh) for _ in range(2)]
    for trainer in trainers:
        trainer.fit(fresh[1][1], fresh[1][2])
    first, second = (Path(trainer.saved_model_file) for trainer in trainers)
    assert first.parent != second.parent and (first / "adapter_model.safetensors").exists() and (second / "adapter_model.safetensors").exists()


def test_weights_are_selected_by_generated_answers(fresh, monkeypatch):
    """The score is HR@1 over valid answers times ValidRatio; a test without generation says nothing of answers."""
    config, data, model = fresh
    config["selection"], config["epochs"] = "generation", 2
    trainer = trainer_of(config, data, model)
    asked = []

    def answers(batch):
        """The target's title for every other row, nothing for the rest; in the second epoch nothing at all."""
        named = model.tokens.named
        targets = batch["candidates"].gather(1, batch["target_position"][:, None]).flatten().tolist()
        found = [f" {named(t)}\nand so on" if len(asked) == 0 and i % 2 == 0 else "?" for i, t in enumerate(targets)]
        asked.append(found)
        return found

    monkeypatch.setattr(model, "generate", answers)
    score, best = trainer.fit(data[1], data[2])
    assert len(asked) == 2 and score == best["hit@1_all"] == 0.5 and best["valid_ratio"] == 0.5
    first, second = trainer.position.history
    assert (first["epoch"], first["step"], first["hit@1_all"]) == (1, 2, 0.5) and second["valid_ratio"] == 0.0
    assert first["hit@1_valid"] * first["valid_ratio"] == score and "hit@1_valid" not in second and "hit@1" in second
    assert trainer.position.best == "best-00000002"
    trainer.evaluate(data[3])
    assert len(asked) == 2 and trainer.generation is None


@pytest.mark.parametrize("max_steps", [1, 3])
def test_max_steps_ends_training_with_a_validation(fresh, max_steps):
    config, data, model = fresh
    config["max_steps"] = max_steps
    fitted = workers.train((config, data, model), config["checkpoint_dir"])
    assert fitted.position.step == max_steps and fitted.best_valid_result
    assert fitted.saved_model_file.endswith(("best-00000001", "best-00000002", "best-00000003"))
    data[1].batches.epoch = max_steps // 2
    assert data[1].batches.progress(2 * (max_steps % 2)) == 1.0  # the curriculum ends with the last step


def test_early_stopping_on_the_validation_metric(fresh, monkeypatch):
    config, data, model = fresh
    config["epochs"], config["stopping_step"] = 6, 1
    scores = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(LLMTrainer, "_valid_epoch", lambda self, *_, **__: ((s := next(scores)), {"ndcg@10": s}))
    fitted = trainer_of(config, data, model)
    fitted.epochs = 6
    assert fitted.fit(data[1], data[2]) == (0.5, {"ndcg@10": 0.5})
    assert fitted.position.epoch == 3 and fitted.saved_model_file.endswith("best-00000002")


def test_a_validation_score_that_is_not_finite_stops_with_its_name(fresh, monkeypatch):
    config, data, model = fresh
    monkeypatch.setattr(LLMTrainer, "_valid_epoch", lambda self, *_, **__: (float("nan"), {"ndcg@10": float("nan")}))
    with pytest.raises(FloatingPointError, match=r"NDCG@10 of the validation rows is nan after step 2, .*valid_metric"):
        trainer_of(config, data, model).fit(data[1], data[2])


def test_one_seed_gives_one_run_and_another_a_different_one(fresh):
    config, data, model = fresh
    ends = []
    for module in model.llm.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.1)
    for seed in (1, 1, 2):
        config["seed"], config["max_steps"] = seed, 2
        each = copy.deepcopy(model)
        workers.train((config, data, each), f"{config['checkpoint_dir']}{len(ends)}")
        ends.append(workers.weights_of(each))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    assert not all(torch.equal(ends[0][n], ends[2][n]) for n in ends[0])


def test_out_of_memory_names_the_batch_and_what_helps(fresh, monkeypatch):
    config, data, model = fresh
    group = steps(data, 2)
    rows, prompt = group[0]["prompt_ids"].shape

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(memory.OutOfMemory) as raised:
        trainer_of(config, data, model)._step(group)
    for part in (f"{rows} prompts of {prompt} + ", "gradient_checkpointing", "train_batch_size", "history_max_len"):
        assert part in str(raised.value)
    monkeypatch.setattr(type(model), "score_candidates", full)
    with pytest.raises(memory.OutOfMemory, match="in evaluation at 6 prompts of 9 tokens"):  # one for each candidate
        with memory.explained({"prompt_ids": torch.zeros(2, 3, 9)}, training=False):
            raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(memory.OutOfMemory, match="in evaluation at 40 prompts of .* eval_batch_size"):
        trainer_of(config, data, model).evaluate(data[3], load_best_model=False)
