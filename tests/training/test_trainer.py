"""The training loop: how micro-batches add up, what stops a run, what it reports, what it tries by itself."""

import copy
import math
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recbole_llm.runtime import distributed, memory
from recbole_llm.training import optimizer_step, throughput
from recbole_llm.training.optimizer_step import precision
from recbole_llm.training.schedule import share_of_peak
from recbole_llm.training.step_batches import Prefetch, step_loader
from recbole_llm.training.trainer import LLMTrainer
from tests import tiny, workers


@pytest.fixture(scope="module")
def built(tiny_data, tiny_llm, tmp_path_factory):
    out = tmp_path_factory.mktemp("trainer")
    settings = tiny.settings(
        tiny_data, tiny_llm, out, train_sample_size=16, train_batch_size=4, accumulation_steps=2, valid_sample_size=8,
        eval_batch_size=40, lora_dropout=0.0, lora_target_modules=["q_proj", "v_proj"], curriculum="none",
        learning_rate=0.01, epochs=2,
    )  # fmt: skip
    return workers.build("iLoRA", settings)


@pytest.fixture
def fresh(built, tmp_path):
    """(config, data, model) to change at will."""
    config, data, model = built
    before = dict(config.final_config_dict)
    config["checkpoint_dir"] = str(tmp_path / "saved")
    yield config, data, copy.deepcopy(model)
    config.final_config_dict.clear()
    config.final_config_dict.update(before)


def trainer_of(config, data, model):
    model.config = config
    found = LLMTrainer(config, model)
    found.tensorboard = workers.NoWriter()
    found._start_schedule(len(data[1]))
    return found


def steps(data, accumulation, micro_batch=None):
    data[1].set_epoch(0)
    return next(iter(step_loader(data[1], accumulation, micro_batch=micro_batch)))


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_two_runs_of_one_second_have_folders_of_their_own(fresh, monkeypatch):
    monkeypatch.setattr("recbole_llm.training.trainer.get_local_time", lambda: "Jan-01-2026_00-00-00")
    trainers = [trainer_of(*fresh) for _ in range(2)]
    for trainer in trainers:
        trainer.fit(fresh[1][1], fresh[1][2])
    first, second = (Path(trainer.saved_model_file) for trainer in trainers)
    assert first.parent != second.parent and (first / "adapter_model.safetensors").exists() and (second / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_accumulated_gradients_equal_one_big_batch(fresh, micro_batch):
    """By answer tokens: unequal micro-batches, and answers of unequal length, weigh as in one batch."""
    config, data, model = fresh
    config["clip_grad_norm"] = None
    rows = {}
    for size in (8, micro_batch):
        each = copy.deepcopy(model)
        group = steps(data, 2, size)
        assert sum(map(len, group)) == 8 and len(group) == math.ceil(8 / size)
        rows[size] = trainer_of(config, data, each)._step(group), gradients(each)
    assert rows[micro_batch][0] == pytest.approx(rows[8][0], rel=1e-6)
    lengths = steps(data, 2, 8)[0]["answer_mask"].sum(1)
    assert lengths.min() < lengths.max()
    for name, gradient in rows[8][1].items():
        torch.testing.assert_close(rows[micro_batch][1][name], gradient, rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_changes_no_gradient(fresh):
    config, data, model = fresh
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    found = []
    for on in (False, True):
        config["gradient_checkpointing"] = on
        each = copy.deepcopy(model).train()
        trainer = trainer_of(config, data, each)
        trainer._step(steps(data, 2))
        found.append(gradients(each))
        layers = [m for m in each.modules() if getattr(m, "gradient_checkpointing", False)]
        assert bool(layers) == on
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_torch_compile_trains_to_the_same_loss(fresh):
    config, data, model = fresh
    losses = []
    for backend in (False, "aot_eager"):
        config["torch_compile"] = backend
        each = copy.deepcopy(model).train()
        trainer = trainer_of(config, data, each)
        losses.append([trainer._step(steps(data, 1))[0] for _ in range(2)])
    torch._dynamo.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_frozen_dropout_is_off_in_training_mode(fresh, tiny_data, tmp_path):
    assert fresh[2].train().llm.training and not fresh[2].crm.training
    gpt = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 512, "resid_pdrop": 0.3, "attn_pdrop": 0.3}
    for name, settings in {"llama": {"attention_dropout": 0.3}, "gpt2": gpt}.items():
        llm = tiny.write_llm(tmp_path / name, name, layers=1, **settings)
        config, data, model = workers.build("LLaRA", tiny.settings(tiny_data, llm, tmp_path, lora_dropout=0.0))
        data[1].set_epoch(0)
        batch = next(iter(data[1]))
        assert torch.equal(model.train()(batch)[0], model.train()(batch)[0])


def test_biases_and_norms_have_no_weight_decay_and_groups_their_rates(fresh):
    config, data, model = fresh
    config["weight_decay"], config["router_lr_scale"], config["projector_lr_scale"] = 0.1, 0.3, 0.5
    trainer = trainer_of(config, data, model)
    assert sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(model.trainable_state())
    for group in trainer.optimizer.param_groups:
        assert all((w.ndim >= 2) == (group["weight_decay"] == 0.1) for w in group["params"])
        assert group["peak_lr"] == pytest.approx(0.01 * {"adapter": 1, "projector": 0.5, "router": 0.3}[group["name"]])
    trainer._step(steps(data, 2))
    rates = {group["name"]: group["lr"] / group["peak_lr"] for group in trainer.optimizer.param_groups}
    assert len(rates) == 3 and len(set(rates.values())) == 1


def test_warm_up_then_cosine():
    shares = [share_of_peak(step, 100, 0.1, 0.01) for step in range(101)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)]) and shares[10] == 1
    assert shares[55] == pytest.approx(0.505) and shares[100] == pytest.approx(0.01)
    assert all(a > b for a, b in zip(shares[10:], shares[11:], strict=False))


def test_linear_decay_is_a_straight_line_to_the_floor():
    shares = [share_of_peak(step, 100, 0.1, 0.01, "linear") for step in range(101)]
    assert shares[:11] == [share_of_peak(step, 100, 0.1, 0.01) for step in range(11)]
    assert shares[10:] == pytest.approx([1 - 0.99 * i / 90 for i in range(91)])


@pytest.mark.parametrize("total", [2, 7, 100])
def test_the_way_down_is_transformers_own(total):
    """Its schedules at the same step, after a warm-up that begins above zero here."""
    from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

    optimizer, warmup = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), max(1, round(0.1 * total))
    cosine = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=0.01).lr_lambdas[0]
    linear = get_linear_schedule_with_warmup(optimizer, warmup, total).lr_lambdas[0]
    for step in range(warmup, total):
        assert share_of_peak(step, total, 0.1, 0.01) == pytest.approx(cosine(step), abs=1e-15)
        assert share_of_peak(step, total, 0.1, 0.0, "linear") == pytest.approx(linear(step), abs=1e-15)


def test_a_schedule_may_be_longer_than_the_training(fresh):
    """RecLoRA's released script: five epochs' linear schedule, ended after the first, at four fifths of the peak."""
    config, data, model = fresh
    config["epochs"], config["lr_epochs"], config["lr_schedule"], config["warmup_ratio"], config["min_lr_ratio"] = 1, 5, "linear", 0.1, 0.0
    trainer = trainer_of(config, data, model)
    assert (trainer.schedule.total, trainer.schedule.until_floor) == (2, 10)
    trainer.fit(data[1], data[2])
    group = trainer.optimizer.param_groups[0]
    assert trainer.position.step == 2 and group["lr"] / group["peak_lr"] == pytest.approx(1.0)  # step 1 of 10, after one of warm-up
    assert share_of_peak(20, 100, 0.0, 0.0, "linear") == pytest.approx(0.8, abs=0.01)


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


def test_clipping_bounds_the_update_and_reports_the_norm_before(fresh):
    config, data, model = fresh
    config["clip_grad_norm"] = {"max_norm": 1e-3}
    trainer = trainer_of(config, data, model)
    trainer._step(steps(data, 2))
    total = math.sqrt(sum(float(g.square().sum()) for g in gradients(model).values()))
    assert trainer.steps.grad_norm > 1e-2 and total == pytest.approx(1e-3, rel=1e-3)


def test_non_finite_loss_names_external_tokens_and_keeps_the_weights(fresh, monkeypatch):
    config, data, model = fresh
    trainer = trainer_of(config, data, model)
    group = steps(data, 2)
    row = 2
    forward = type(model).forward

    def broken(self, batch):
        log_likelihood, n = forward(self, batch)
        bad = torch.zeros(len(batch))
        bad[row] = math.inf
        return log_likelihood - bad, n

    monkeypatch.setattr(type(model), "forward", broken)
    before = {n: w.clone() for n, w in model.named_parameters()}
    user = data[1]._dataset.id2token("user_id", int(group[0]["user_id"][row]))
    item = data[1]._dataset.id2token("item_id", int(group[0]["item_id"][row]))
    with pytest.raises(FloatingPointError) as raised:
        trainer._step(group)
    assert f"not finite at (user, item) rows [('{user}', '{item}')]" in str(raised.value)
    assert all(torch.equal(w, before[n]) for n, w in model.named_parameters()) and trainer.position.step == 0


def test_non_finite_gradient_stops_before_the_weights_change(fresh):
    config, data, model = fresh
    trainer = trainer_of(config, data, model)
    before = {n: w.clone() for n, w in model.named_parameters()}
    next(w for w in model.parameters() if w.requires_grad).register_hook(lambda g: g * math.nan)
    with pytest.raises(FloatingPointError, match="a gradient is not finite in the step of"):
        trainer._step(steps(data, 2))
    assert all(torch.equal(w, before[n]) for n, w in model.named_parameters())


def test_the_rows_of_all_processes_are_named_alike(fresh, monkeypatch):
    config, data, model = fresh
    trainer = trainer_of(config, data, model)
    monkeypatch.setattr(distributed, "gather", lambda rows: [rows, [(False, ("u9", "i8"))]])
    group = steps(data, 2)
    with pytest.raises(FloatingPointError, match=r"loss is not finite at \(user, item\) rows \[\('u9', 'i8'\)\];"):
        trainer.steps._stop_at_non_finite(group, [torch.zeros(len(batch)) for batch in group])


def test_float16_that_skips_without_end_stops(fresh):
    config, data, model = fresh
    trainer = trainer_of(config, data, model)
    trainer.steps.prepare()
    for scale, stops in ((2.0, False), (2.0**-15, True)):
        trainer.steps.accelerator.scaler = SimpleNamespace(get_scale=lambda scale=scale: scale, scale=lambda loss: loss)
        with pytest.raises(FloatingPointError, match="fp16 skipped step after step") if stops else nullcontext():
            trainer._step(steps(data, 2))


def test_shards_keep_scores_and_gradients_in_float32():
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.output_dtype == torch.bfloat16  # what Accelerate would do
    optimizer_step._keep_scores_whole(plugin)
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, torch.float32)


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
        ends.append({n: w.clone() for n, w in each.trainable_state().items()})
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


@pytest.mark.parametrize("room", [1, 3, 5, 100])
def test_auto_batch_size_finds_what_fits_and_keeps_the_effective_batch(fresh, monkeypatch, room):
    config, data, model = fresh
    config["auto_batch_size"], config["max_steps"] = True, 2
    forward, sizes, longest = type(model).forward, [], []

    def limited(self, batch):
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        longest.append(int((batch["prompt_mask"].sum(1) + batch["answer_mask"].sum(1)).max()))
        return forward(self, batch)

    monkeypatch.setattr(type(model), "forward", limited)
    fitted = workers.train((config, data, model), config["checkpoint_dir"])
    assert fitted.position.micro_batch == min(room, 8)
    passes = 2 * math.ceil(8 / min(room, 8))
    assert sum(sizes[-passes:]) == 16 and max(sizes[-passes:]) <= room
    assert max(longest[:-passes]) >= max(longest[-passes:])  # what was tried was the worst case


def test_auto_batch_size_with_nothing_to_train_asks_for_nothing(fresh, monkeypatch):
    config, data, model = fresh
    config["auto_batch_size"], config["epochs"] = True, 0
    monkeypatch.setattr(data[1].batches, "epochs", 0)
    found = trainer_of(config, data, model)
    found._prepare(None, data[1])
    assert found.position.micro_batch is None


def test_auto_batch_size_where_nothing_fits(fresh, monkeypatch):
    config, data, model = fresh
    config["auto_batch_size"] = True

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(memory.OutOfMemory, match="at 1 prompts of"):
        workers.train((config, data, model), config["checkpoint_dir"])


def test_largest_that_fits_is_exact():
    for most in (1, 2, 7, 16):
        for limit in range(most + 2):
            assert memory.largest_that_fits(most, lambda n, limit=limit: n <= limit) == min(limit, most)


def test_only_a_lack_of_memory_counts_as_not_fitting():
    def fits(n):
        if n > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return True

    assert memory.largest_that_fits(5, fits) == 2
    with pytest.raises(RuntimeError, match="other"):
        memory.largest_that_fits(2, lambda n: (_ for _ in ()).throw(RuntimeError("other")))


def test_prefetch_hides_tokenisation_behind_the_step():
    def slow():
        for i in range(6):
            time.sleep(0.02)
            yield i

    waits = {}
    for depth in (0, 3):
        with Prefetch(slow(), depth) as ahead:
            found = []
            for item in ahead:
                time.sleep(0.05)  # the device's work
                found.append(item)
        assert found == list(range(6))
        waits[depth] = ahead.waited
    assert waits[0] > 0.1 and waits[3] < 0.6 * waits[0]


def test_prefetch_hands_errors_on_and_ends_its_thread():
    def broken():
        yield 1
        raise ValueError("row 7 is bad")

    with pytest.raises(ValueError, match="row 7"), Prefetch(broken(), 2) as ahead:
        list(ahead)
    with Prefetch(iter(range(100)), 1) as ahead:
        for item in ahead:
            if item == 3:
                break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokenise")]


def test_loaders_leave_the_global_generator_alone(fresh):
    config, data, _ = fresh
    torch.manual_seed(3)
    before = torch.get_rng_state()
    steps(data, 2)
    next(iter(data[1])), next(iter(data[2]))
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_are_logged_and_the_run_is_summed_up(fresh, caplog):
    config, data, model = fresh
    points = []

    class Writer(workers.NoWriter):
        def add_scalar(self, name, value, step):
            points.append((name, step, value))

    caplog.set_level("INFO")
    trainer = trainer_of(config, data, model)
    trainer.tensorboard = Writer()
    logged = []
    trainer.wandblogger.log_metrics = lambda values, head: logged.append((head, values))
    trainer.fit(data[1], data[2])
    assert [step for name, step, _ in points if name == "Train/loss"] == [1, 2, 3, 4]
    assert {"Train/learning_rate", "Train/grad_norm", "Train/tokens_per_second"} <= {name for name, *_ in points}
    assert [values["train_step"] for head, values in logged if head == "train"] == [1, 2, 3, 4]
    assert trainer.speed["tokens_per_second"] > 0 and trainer.speed["mfu"] is None
    assert "model FLOPs utilisation -, peak memory" in caplog.text and "waiting for data" in caplog.text


def test_the_bar_shows_speed_loss_rate_and_memory(fresh, capsys):
    config, data, model = fresh
    config["max_steps"] = 1
    trainer_of(config, data, model).fit(data[1], data[2], saved=False, show_progress=True)
    shown = capsys.readouterr().err
    assert "loss " in shown and "lr " in shown and "tok/s" in shown and " GB" in shown and "1/1" in shown


def test_flops_are_those_of_the_layers(built):
    """Against a count of every matrix product, forward pass only: 2 of the 4 operations that a frozen weight costs."""
    from torch.utils.flop_counter import FlopCounterMode

    _, data, model = built
    model = copy.deepcopy(model).eval()
    batch = steps(data, 2)[0]
    rows = (batch["prompt_mask"].shape[1] + batch["answer_mask"].shape[1] - 1,) * len(batch)  # padding is computed too
    counted = throughput.ModelFlops(model.llm)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    answers = batch["answer_mask"].numel()
    ours = 2 * (counted.body + counted.trained) * sum(rows) + 2 * counted.output * answers
    matrix = sum(v for name, v in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    assert matrix == pytest.approx(ours, rel=0.06)  # the rest: projector, router, CRM


def test_precision_follows_the_device():
    assert precision("auto", "cpu") == "no" and precision("bf16", "cpu") == "bf16"


def test_bf16_on_the_cpu_trains(fresh):
    config, data, model = fresh
    config["mixed_precision"], config["max_steps"] = "bf16", 2
    fitted = workers.train((config, data, model), config["checkpoint_dir"])
    assert math.isfinite(fitted.train_loss_dict[0])
    assert all(w.dtype == torch.float32 for w in model.trainable_state().values())


def test_training_leaves_anomaly_detection_off(fresh):
    """RecBole's SINE turns it on when it is imported, which makes every step 2-3 times slower."""
    config, data, model = fresh
    torch.autograd.set_detect_anomaly(True)
    trainer_of(config, data, model)._step(steps(data, 2))
    assert not torch.is_anomaly_enabled()
