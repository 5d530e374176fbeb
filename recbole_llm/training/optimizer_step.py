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
from recbole_llm.runtime import distributed, memory
from recbole_llm.training.run_folder import step_seed
from recbole_llm.training.step_batches import WEIGHT_FIELD, to_device

MIN_SCALE = 2.0**-14  # of float16 losses: 30 halvings below where the scaler starts


def share_of_peak(step: int, total: int, warmup_ratio: float, floor: float, schedule: str = "cosine") -> float:
    """Share of the peak rate at ``step``: a linear rise over ``warmup_ratio * total`` steps, then down to ``floor``.

    A function of the step alone, as resuming needs it; what ``transformers.get_scheduler`` calls "cosine" and "linear", with
    a floor.
    """
    warmup = max(1, round(warmup_ratio * total))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def precision(setting: str, device) -> str:
    """``no``, ``bf16`` or ``fp16`` for ``mixed_precision``: auto is bf16 on GPUs that have it, fp16 on older ones."""
    if setting != "auto":
        return setting
    if torch.device(device).type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class OptimizerSteps:
    """The part of the trainer that makes optimizer steps.

    Attributes:
        wrapped: the model as Accelerate wraps it; ``model`` stays the bare one.
        grad_norm: of the last step, before clipping.
    """

    def _build_optimizer(self, **kwargs):
        """AdamW over the model's parameter groups, each at ``learning_rate * lr_scale``."""
        groups = self.model.parameter_groups()
        for group in groups:
            group["lr"] = group["peak_lr"] = self.learning_rate * group.pop("lr_scale")
        return torch.optim.AdamW(groups)

    def _start_schedule(self, train_data) -> None:
        """Count the steps: what warm-up, decay and the end of training go by."""
        self.steps_per_epoch = math.ceil(len(train_data) / self.accumulation_steps)
        self.total_steps = self.steps_per_epoch * self.epochs
        if self.config["max_steps"] is not None:
            self.total_steps = min(self.total_steps, self.config["max_steps"])
        later = self.config["lr_epochs"]
        self.schedule_steps = self.total_steps if later is None else max(self.total_steps, self.steps_per_epoch * later)

    def _autocast(self):
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "no")

    def _prepare(self) -> None:
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

        if self.config["llm_eval"] == "generate" or self.config["selection"] == "generation":
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
        register_fsdp_forward_method(self.wrapped, "score_candidates")

    def _reshard(self) -> None:
        """Under FSDP, drop the whole weights that a forward pass left: reading or writing weights means the shards."""
        if self.accelerator is not None and self.accelerator.distributed_type == DistributedType.FSDP:
            for module in self.wrapped.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    def _step(self, group: list) -> tuple[float, float]:
        """One optimizer step over this process's micro-batches.

        Returns:
            (summed loss, answer tokens) of the step, over all processes.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the weights are as before.
            OutOfMemory: a micro-batch does not fit.
        """
        if self.accelerator is None:
            self._prepare()
        tokens = sum(float((self.model.weight(batch) * _weight(batch)).sum()) for batch in group)
        (n_tokens,) = distributed.total(tokens)
        torch.manual_seed(step_seed(self.config["seed"], self.position.step, distributed.rank()))
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._accumulate(batch, n_tokens, i + 1 == len(group)) for i, batch in enumerate(group)]  # [B] each
        self._rest_outside_stage()
        weights = [w for g in self.optimizer.param_groups for w in g["params"]]
        norm = self.accelerator.clip_grad_norm_(weights, **(self.clip_grad_norm or {"max_norm": math.inf}))
        summed = torch.stack([loss.sum() for loss in losses]).double().sum()
        self.grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        finite = bool(torch.isfinite(summed)) and (math.isfinite(self.grad_norm) or self.precision == "fp16")
        loss, bad = distributed.total(summed.item(), not finite)
        if bad:
            self._stop_at_non_finite(group, losses)
        share = share_of_peak(
            self.position.step, self.schedule_steps, self.config["warmup_ratio"], self.config["min_lr_ratio"],
            self.config["lr_schedule"],
        )  # fmt: skip
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = param_group["peak_lr"] * share
        self.optimizer.step()
        self._check_scale()
        self.position.step += 1
        return loss, n_tokens

    def _rest_outside_stage(self) -> None:
        """Leave the weights alone that the present stage does not train: without a gradient AdamW passes them over."""
        if not self.config["stages"]:
            return
        stage = stage_at(self.config["stages"], self.position.step / max(1, self.total_steps))
        for group in self.optimizer.param_groups:
            if group["name"] not in stage["trains"]:
                for weight in group["params"]:
                    weight.grad = None

    def _accumulate(self, batch, n_tokens: float, last: bool) -> torch.Tensor:
        """Forward and backward of one micro-batch; each row's loss ``[B]``, on the device."""
        alone = nullcontext() if last else self.accelerator.no_sync(self.wrapped)
        with memory.explained(batch, training=True), alone:
            batch = to_device(batch, self.device)
            with self._autocast():
                log_likelihood, _ = self.wrapped(batch)
            losses = -log_likelihood * _weight(batch).to(log_likelihood)
            if distributed.world_size() == 1 and not torch.isfinite(losses).all():
                self._stop_at_non_finite([batch], [losses])  # of several processes, all stop at the end of the step
            # The wrapper averages gradients over processes; the step's loss is a sum over them.
            self.accelerator.backward(losses.sum() * (distributed.world_size() / n_tokens))
        return losses.detach()

    def _stop_at_non_finite(self, group, losses) -> None:
        """Raise, naming the rows in external tokens."""
        fields = self.config["USER_ID_FIELD"], self.config["ITEM_ID_FIELD"]
        rows = [
            (bool(torch.isfinite(value)), tuple(self._token(field, batch[field][i]) for field in fields))
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

    def _check_scale(self) -> None:
        """In float16 a step whose gradients overflow is skipped at half the scale; without end, nothing is learnt."""
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() < MIN_SCALE:
            raise FloatingPointError(
                f"mixed_precision: fp16 skipped step after step, since gradients are not finite even at a loss scale of "
                f"{scaler.get_scale():.0e} (step {self.position.step}). Use bf16 or no, or lower learning_rate"
            )

    def _token(self, field, value):
        return str(self.dataset.id2token(field, int(value))) if self.dataset is not None else int(value)

    # ---- auto_batch_size -----------------------------------------------------------------------------------------

    def _choose_micro_batch(self, train_data) -> None:
        """With ``auto_batch_size``, find the rows per forward pass; a resumed run keeps what it began with."""
        if not self.config["auto_batch_size"] or self.position.micro_batch or not self.total_steps:
            return
        rows = min(self.config["train_batch_size"] * self.accumulation_steps, train_data.n_rows)
        most = math.ceil(rows / distributed.world_size())
        longest = train_data.longest(most)
        self.model.train()
        fits = memory.largest_that_fits(most, lambda n: self._pass(train_data, longest[:n]))
        fits = min(distributed.gather(fits))
        self.optimizer.zero_grad(set_to_none=True)
        if not fits:
            with memory.explained(train_data.batch(longest[:1]), training=True):
                raise MemoryError("not even one prompt fits")
        self.position.micro_batch = fits
        self.logger.info(
            f"auto_batch_size: {fits} prompts per forward pass and process, {math.ceil(most / fits)} passes per step; "
            f"the effective batch stays {rows}"
        )

    def _pass(self, train_data, keys) -> bool:
        """A forward and backward pass over the rows of ``keys``, with room kept for AdamW's moments."""
        moments = [torch.empty_like(w) for w in self.model.parameters() if w.requires_grad for _ in range(2)]
        batch = to_device(train_data.batch(keys), self.device)
        with self._autocast():
            log_likelihood, _ = self.model(batch)
        log_likelihood.sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        return bool(moments)


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
