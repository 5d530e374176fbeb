"""The trainer hook: RecBole's Trainer with an LLM's training step and candidate-set evaluation.

RecBole's ``fit`` (epochs, validation, early stopping, logging) stays as it is. What changes is the step: parameter
groups with their own rates, warm-up and cosine, accumulation weighted by answer tokens, clipping, mixed precision, and
a loss that must be finite. Validation and test score whole candidate sets.
"""

from __future__ import annotations

import math
import os
import time
from itertools import islice

import torch
from recbole.trainer import Trainer
from recbole.utils import get_local_time, set_color
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_llm import metrics
from recbole_llm.data.collector import ROW_FIELD, CandidateCollector
from recbole_llm.model.saving import load_checkpoint_into, save_checkpoint

__all__ = ["LLMTrainer", "load_checkpoint_into"]


def warmup_cosine(step: int, total: int, warmup_ratio: float, floor: float) -> float:
    """Share of the peak rate at ``step``: linear rise over ``warmup_ratio * total`` steps, then a cosine to ``floor``."""
    warmup = max(1, round(warmup_ratio * total))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class LLMTrainer(Trainer):
    """Trains and evaluates an :class:`~recbole_llm.model.base.LLMRecommender`.

    Attributes:
        generation: after a test with ``llm_eval: generate``, the report of :func:`recbole_llm.metrics.generation_report`.
        seconds: wall time of training and of the last evaluation.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = CandidateCollector(config)
        name = f"{config['model']}-{config['dataset']}-{get_local_time()}-{os.getpid()}"
        self.saved_model_file = os.path.join(self.checkpoint_dir, name)
        self.accumulation_steps = config["accumulation_steps"]
        self.schedule = None
        self.generation = None

    # ---- training ------------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs):
        """AdamW over the model's parameter groups, each at ``learning_rate * lr_scale``."""
        groups = self.model.parameter_groups()
        for group in groups:
            group["lr"] = self.learning_rate * group.pop("lr_scale")
        return torch.optim.AdamW(groups)

    def _autocast(self):
        on = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def _start_schedule(self, train_data) -> None:
        steps = math.ceil(len(train_data) / self.accumulation_steps) * self.epochs
        ratio, floor = self.config["warmup_ratio"], self.config["min_lr_ratio"]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: warmup_cosine(step, steps, ratio, floor)
        )

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """One pass over the sample; returns the mean loss per answer token."""
        self.model.train()
        train_data.set_epoch(epoch_idx)
        if self.schedule is None:
            self._start_schedule(train_data)
        if self.config["gradient_checkpointing"]:
            self.model.enable_gradient_checkpointing()
        total_loss = total_tokens = 0.0
        batches = iter(train_data)
        bar = tqdm(total=len(train_data), desc=set_color(f"Train {epoch_idx:>5}", "pink"), disable=not show_progress)
        seen, start = 0, time.perf_counter()
        with bar:
            while group := list(islice(batches, self.accumulation_steps)):
                loss, n_tokens = self._step(group)
                total_loss, total_tokens = total_loss + loss, total_tokens + n_tokens
                seen += sum(int(b["prompt_mask"].sum()) for b in group)
                bar.update(len(group))
                bar.set_postfix_str(f"loss {loss / n_tokens:.3f}, {seen / (time.perf_counter() - start):,.0f} tok/s")
        return total_loss / total_tokens

    def _step(self, group: list) -> tuple[float, int]:
        """One optimizer step over ``group`` micro-batches; returns (summed loss, answer tokens)."""
        n_tokens = int(sum(batch["answer_mask"].sum() for batch in group))
        summed = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for batch in group:
            batch = batch.to(self.device)
            with self._autocast():
                log_likelihood, _ = self.model(batch)
            loss = -log_likelihood.sum()
            if not torch.isfinite(loss):
                self._stop_at_non_finite(log_likelihood, batch)
            (loss / n_tokens).backward()  # every answer token of the step weighs the same, however rows are dealt out
            summed += loss.item()
        if self.clip_grad_norm:
            weights = [w for g in self.optimizer.param_groups for w in g["params"]]
            clip_grad_norm_(weights, **self.clip_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        return summed, n_tokens

    def _stop_at_non_finite(self, log_likelihood, batch) -> None:
        rows = torch.nonzero(~torch.isfinite(log_likelihood)).flatten().tolist() or range(len(batch))
        users = batch[self.config["USER_ID_FIELD"]]
        items = batch[self.config["ITEM_ID_FIELD"]]
        pairs = [(int(users[i]), int(items[i])) for i in list(rows)[:8]]
        raise FloatingPointError(
            f"the training loss is not finite at (user, item) rows {pairs} (internal ids); lower learning_rate, set "
            "clip_grad_norm, or use llm_dtype float32 or bfloat16"
        )

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        folder = kwargs.pop("saved_model_file", self.saved_model_file)
        best = float(self.best_valid_score)
        state = {"epoch": epoch, "cur_step": self.cur_step, "best_valid_score": best if math.isfinite(best) else None}
        save_checkpoint(self.model, folder, state)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {folder}")

    # ---- evaluation ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Rank every row's candidates; RecBole's metrics come back, per-row ranks stay in ``eval_collector``."""
        if not eval_data:
            return None
        if load_best_model:
            folder = model_file or self.saved_model_file
            load_checkpoint_into(self.model, folder)
            self.logger.info(f"Loading adapter, projector and router from {folder}")
        self.model.eval()
        self.eval_collector.reset()
        generated = ([], [], []) if self.config["llm_eval"] == "generate" and eval_data.phase == "test" else None
        bar = tqdm(eval_data, desc=set_color("Evaluate   ", "pink"), disable=not show_progress)
        for batch in bar:
            batch = batch.to(self.device)
            with self._autocast():
                scores = self.model.score_candidates(batch)
                if generated is not None:
                    self._collect_answers(batch, *generated)
            self.eval_collector.collect_candidate_scores(scores, batch[ROW_FIELD], eval_data.phase, batch["candidates"])
        if generated is not None:
            self.generation = metrics.generation_report(*generated)
        self.eval_collector.model_collect(self.model)
        result = self.evaluator.evaluate(self.eval_collector.get_data_struct())
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def _collect_answers(self, batch, texts: list, candidates: list, targets: list) -> None:
        """Append each row's greedy answer, its candidates as (id, title), and its target's id."""
        titles = self.model.tokens.titles
        texts += self.model.generate(batch)
        candidates += [[(item, titles[item]) for item in row] for row in batch["candidates"].tolist()]
        targets += batch["candidates"].gather(1, batch["target_position"][:, None]).flatten().tolist()
