"""One optimizer step: what Accelerate wraps, how micro-batches add up, when a step must not count.

A step's loss is -sum(log-likelihood) / (weights of all its rows, in all processes), by default every answer token weighs the
same, however rows are dealt out over micro-batches and processes.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, GradientAccumulationPlugin

from recbole_llm.config.stages import stage_at
from recbole_llm.evaluation.generation_metrics import is_generated
from recbole_llm.runtime import distributed, memory
from recbole_llm.training.position import step_seed
from recbole_llm.training.step_batches import WEIGHT_FIELD, to_device

MIN_SCALE = 2.0**-14  # of float16 losses: 30 halvings below where the scaler starts


def precision(setting: str, device) -> str:
    """``no``, ``bf16`` or ``fp16`` for ``mixed_precision``: auto is bf16 on GPUs that have it, fp16 on older ones."""
    if setting != "auto":
        return setting
    if torch.device(device).type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(kind: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass in a precision of :func:`precision`."""
    return torch.autocast(device.type, torch.float16 if kind == "fp16" else torch.bfloat16, enabled=kind != "no")


def adamw(model, learning_rate: float) -> torch.optim.AdamW:
    """AdamW over a model's parameter groups, each at ``learning_rate * lr_scale``."""
    groups = model.parameter_groups()
    for group in groups:
        group["lr"] = group["peak_lr"] = learning_rate * group.pop("lr_scale")
    return torch.optim.AdamW(groups)


class OptimizerSteps:
    """Makes the optimizer steps of one model.

    Args:
        config: the run's configuration.
        model: an :class:`~recbole_llm.model.base.LLMRecommender`, on ``device``.
        optimizer: over its parameter groups (:func:`adamw`).
        device: of the model.

    Attributes:
        accelerator: Accelerate's object; None until the first step or :meth:`prepare`.
        wrapped: the model as Accelerate wraps it; ``model`` stays the bare one.
        grad_norm: of the last step, before clipping.
    """

    def __init__(self, config, model, optimizer, device):
        self.config, self.model, self.optimizer, self.device = config, model, optimizer, device
        self.precision = precision(config["mixed_precision"] or "auto", device)
        self.accelerator = self.wrapped = self.grad_norm = None

    def autocast(self):
        """The context of a forward pass in the run's precision."""
        return autocast(self.precision, self.device)

    def prepare(self) -> None:
        """Hand model and optimizer to Accelerate."""
        torch.autograd.set_detect_anomaly(False)  # importing RecBole's SINE turns it on, for every model: 3x slower
        AcceleratorState._reset_state(reset_partial_state=True)  # one process may train several models in turn
        GradientState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision=self.precision,
            cpu=self.device.type == "cpu",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the weighting is ours
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
        if self.config["gradient_checkpointing"]:
            self.model.enable_gradient_checkpointing()
        if compiler := self.config["torch_compile"]:
            self.model.llm.compile(dynamic=True, **({"backend": compiler} if isinstance(compiler, str) else {}))
        if self.accelerator.distributed_type == DistributedType.FSDP:
            _keep_scores_whole(self.accelerator.state.fsdp_plugin)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if self.accelerator.distributed_type == DistributedType.FSDP:
            self._prepare_sharded()

    def _prepare_sharded(self) -> None:
        """Under FSDP every process must run every forward pass, and scoring must gather weights as forward does."""
        from torch.distributed.fsdp import register_fsdp_forward_method

        if is_generated(self.config):
            raise ValueError(
                "llm_eval: generate and selection: generation need the whole model in each process; set likelihood and "
                "valid_metric, or test the run's checkpoint on one GPU"
            )
        if self.config["auto_batch_size"]:
            raise ValueError(
                "auto_batch_size tries sizes in each process alone, which shards of a model cannot do; set "
                "train_batch_size and accumulation_steps by hand"
            )
        self.config["latency_rows"] = self.config["permutations"] = 0  # measured by one process alone
        register_fsdp_forward_method(self.wrapped, "evaluation_scores")

    def reshard(self) -> None:
        """Under FSDP, drop the whole weights that a forward pass left: reading or writing weights means the shards."""
        if self.accelerator is not None and self.accelerator.distributed_type == DistributedType.FSDP:
            for module in self.wrapped.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    def step(self, group: list, number: int, schedule) -> tuple[float, float]:
        """One optimizer step over this process's micro-batches.

        Args:
            group: the micro-batches, one Interaction each.
            number: of the step, from 0.
            schedule: the run's :class:`~recbole_llm.training.schedule.Schedule`.

        Returns:
            (summed loss, answer tokens) of the step, over all processes.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the weights are as before.
            OutOfMemory: a micro-batch does not fit.
        """
        if self.accelerator is None:
            self.prepare()
        tokens = sum(float((self.model.weight(batch) * _weight(batch)).sum()) for batch in group)
        (n_tokens,) = distributed.total(tokens)
        torch.manual_seed(step_seed(self.config["seed"], number, distributed.rank()))
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._accumulate(batch, n_tokens, i + 1 == len(group)) for i, batch in enumerate(group)]  # [B] each
        self._rest_outside_stage(number / max(1, schedule.total))
        loss = self._clip_or_stop(group, losses)
        share = schedule.share(number)
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = param_group["peak_lr"] * share
        self.optimizer.step()
        self._check_scale(number)
        return loss, n_tokens

    def _clip_or_stop(self, group, losses) -> float:
        """Clip the gradients; the step's loss over all processes, which all stop where one of them has no finite number."""
        weights = [w for g in self.optimizer.param_groups for w in g["params"]]
        norm = self.accelerator.clip_grad_norm_(weights, **(self.config["clip_grad_norm"] or {"max_norm": math.inf}))
        summed = torch.stack([loss.sum() for loss in losses]).double().sum()
        self.grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        finite = bool(torch.isfinite(summed)) and (math.isfinite(self.grad_norm) or self.precision == "fp16")
        loss, bad = distributed.total(summed.item(), not finite)
        if bad:
            self._stop_at_non_finite(group, losses)
        return loss

    def _rest_outside_stage(self, done: float) -> None:
        """Leave the weights alone that the stage at share ``done`` does not train: without a gradient AdamW passes them over."""
        if not self.config["stages"]:
            return
        stage = stage_at(self.config["stages"], done)
        for group in self.optimizer.param_groups:
            if group["name"] not in stage["trains"]:
                for weight in group["params"]:
                    weight.grad = None

    def _accumulate(self, batch, n_tokens: float, last: bool) -> torch.Tensor:
        """Forward and backward of one micro-batch; each row's loss ``[B]``, on the device."""
        alone = nullcontext() if last else self.accelerator.no_sync(self.wrapped)
        with memory.explained(batch, training=True), alone:
            batch = to_device(batch, self.device)
            with self.autocast():
                log_likelihood, _ = self.wrapped(batch)
            losses = -log_likelihood * _weight(batch).to(log_likelihood)
            if distributed.world_size() == 1 and not torch.isfinite(losses).all():
                self._stop_at_non_finite([batch], [losses])  # of several processes, all stop at the end of the step
            # The wrapper averages gradients over processes; the step's loss is a sum over them.
            self.accelerator.backward(losses.sum() * (distributed.world_size() / n_tokens))
        return losses.detach()

    def _stop_at_non_finite(self, group, losses) -> None:
        """Raise, naming the rows in external tokens."""
        fields, names = (self.config["USER_ID_FIELD"], self.config["ITEM_ID_FIELD"]), self.model.by_hand.dataset
        rows = [
            (bool(torch.isfinite(value)), tuple(str(names.id2token(field, int(batch[field][i]))) for field in fields))
            for batch, loss in zip(group, losses, strict=True)
            for i, value in enumerate(loss)
        ]
        rows = [row for share in distributed.gather(rows) for row in share]  # every process says the same
        bad = [pair for finite, pair in rows if not finite]
        what = "the training loss is not finite at" if bad else "a gradient is not finite in the step of"
        pairs = bad or [pair for _, pair in rows]
        raise FloatingPointError(
            f"{what} (user, item) rows {pairs[:8]}{' ...' if len(pairs) > 8 else ''}; nothing of this step was kept. "
            "Lower learning_rate, set clip_grad_norm, or use llm_dtype float32 or bfloat16"
        )

    def _check_scale(self, number: int) -> None:
        """In float16 a step whose gradients overflow is skipped at half the scale; without end, nothing is learnt."""
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() < MIN_SCALE:
            raise FloatingPointError(
                f"mixed_precision: fp16 skipped step after step, since gradients are not finite even at a loss scale of "
                f"{scaler.get_scale():.0e} (step {number}). Use bf16 or no, or lower learning_rate"
            )



def _keep_scores_whole(plugin) -> None:
    """FSDP2 casts what a forward pass returns, and adds up gradients, in bfloat16: too coarse to rank candidates by."""
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=torch.float32
        )


def _weight(batch) -> torch.Tensor:
    """Weights of a batch's rows ``[B]``: 0 for the stand-in of a process without a row."""
    if WEIGHT_FIELD in batch:
        return batch[WEIGHT_FIELD]
    return torch.ones(len(batch), device=batch["prompt_mask"].device)
