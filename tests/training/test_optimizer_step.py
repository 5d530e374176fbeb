"""How micro-batches add up, and what stops a step."""

import copy
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from recbole_llm.runtime import distributed
from recbole_llm.training import optimizer_step
from recbole_llm.training.optimizer_step import precision
from tests import tiny, workers
from tests.training.making import gradients, steps, trainer_of


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
    for backend in (False, "eager"):
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
    assert sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(workers.weights_of(model))
    for group in trainer.optimizer.param_groups:
        assert all((w.ndim >= 2) == (group["weight_decay"] == 0.1) for w in group["params"])
        assert group["peak_lr"] == pytest.approx(0.01 * {"adapter": 1, "projector": 0.5, "router": 0.3}[group["name"]])
    trainer._step(steps(data, 2))
    rates = {group["name"]: group["lr"] / group["peak_lr"] for group in trainer.optimizer.param_groups}
    assert len(rates) == 3 and len(set(rates.values())) == 1


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


def test_precision_follows_the_device():
    assert precision("auto", "cpu") == "no" and precision("bf16", "cpu") == "bf16"


def test_bf16_on_the_cpu_trains(fresh):
    config, data, model = fresh
    config["mixed_precision"], config["max_steps"] = "bf16", 2
    fitted = workers.train((config, data, model), config["checkpoint_dir"])
    assert math.isfinite(fitted.train_loss_dict[0])
    assert all(w.dtype == torch.float32 for w in workers.weights_of(model).values())


def test_training_leaves_anomaly_detection_off(fresh):
    """RecBole's SINE turns it on when it is imported, which makes every step 2-3 times slower."""
    config, data, model = fresh
    torch.autograd.set_detect_anomaly(True)
    trainer_of(config, data, model)._step(steps(data, 2))
    assert not torch.is_anomaly_enabled()
