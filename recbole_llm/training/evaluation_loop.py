"""Evaluation of an LLM recommender: whole candidate sets are scored, and processes share the batches."""

from __future__ import annotations

import time
from itertools import chain

import torch
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score, set_color
from tqdm import tqdm

from recbole_llm import registry
from recbole_llm.data.rows import ROW_FIELD
from recbole_llm.evaluation.generation_metrics import generation_report, is_generated
from recbole_llm.evaluation.rerank import attach_retriever
from recbole_llm.runtime import distributed, memory
from recbole_llm.training.checkpoint import load_checkpoint_into
from recbole_llm.training.optimizer_step import OptimizerSteps, adamw
from recbole_llm.training.step_batches import Prefetch, evaluation_loader, to_device


class EvaluatingTrainer(Trainer):
    """RecBole's Trainer as far as evaluation goes; :class:`~recbole_llm.training.trainer.LLMTrainer` adds ``fit``.

    Attributes:
        steps: makes the optimizer steps; evaluation needs its precision and, under FSDP, its shards.
        generation: of the last evaluation, :func:`recbole_llm.evaluation.generation_metrics.generation_report`'s; None
            where nothing was generated.
    """

    def __init__(self, config, model):
        distributed.start(config["device"])
        super().__init__(config, model)
        registry.protocol(config["protocol"]).judge(self, config, model.by_hand.dataset)
        self.steps = OptimizerSteps(config, model, self.optimizer, self.device)
        self.generation = None
        if model.constrained and is_generated(config):
            self.logger.warning("likelihood_over: candidates teaches which candidate to choose and not its words, so that few "
                                "generated answers are titles; set likelihood_over: vocabulary to judge them")  # fmt: skip

    def _build_optimizer(self, **kwargs):
        """RecBole's hook, called when the trainer is made."""
        return adamw(self.model, self.learning_rate)

    def _valid_epoch(self, valid_data, show_progress=False):
        """(score, metrics) of the validation rows.

        With ``selection: generation`` the score is the share of rows whose generated answer names the target, which is the
        HR@1 (over valid answers) times ValidRatio that LLaRA's and iLoRA's released code selects by.
        """
        generates = self.config["selection"] == "generation"
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress, generates=generates)
        if not generates:
            return calculate_valid_score(result, self.valid_metric), result
        return self.generation["hit@1_all"], {**result, **{k: v for k, v in self.generation.items() if k != "n" and v is not None}}

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False, generates=None):
        """Rank every row's candidates; RecBole's metrics come back, per-row ranks stay in ``eval_collector``.

        Processes share the batches; each ends with all rows, every row once, and so with the same metrics.

        Args:
            generates: whether each row is answered in text besides, see ``generation``; None: test rows, with
                ``llm_eval: generate``. The others are RecBole's.
        """
        attach_retriever(self, eval_data)
        if not eval_data:
            return None
        if self.steps.accelerator is None and distributed.sharded():  # a finished run, tested again
            self.steps.prepare()
        self.steps.reshard()
        if load_best_model:
            folder = model_file or self.saved_model_file
            load_checkpoint_into(self.model, folder)
            self.logger.info(f"Loading adapter, projector and router from {folder}")
        self.model.eval()
        if generates is None:
            generates = self.config["llm_eval"] == "generate" and eval_data.phase == "test"
        batches = self._score_all(eval_data, generates, show_progress)
        self.eval_collector.reset()
        for scores, rows, items, *_ in batches:
            self.eval_collector.collect_candidate_scores(scores, rows, eval_data.phase, items)
        answers = [list(chain.from_iterable(batch[i] for batch in batches)) for i in (3, 4, 5)] if generates else None
        self.generation = generation_report(*answers) if generates else None
        self.eval_collector.model_collect(self.model)
        result = self.evaluator.evaluate(self.eval_collector.get_data_struct())
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def _score_all(self, loader, generates: bool, show_progress: bool) -> list[tuple]:
        """What :meth:`_score` gives for every batch, those of all processes in every process."""
        mine = len(range(distributed.rank(), len(loader), distributed.world_size()))
        with torch.compiler.set_stance("force_eager"):  # shapes differ from training's: compiling them would not pay
            collected = [self._score(batch, generates) for batch in self._batches(loader, show_progress)][:mine]
        self.steps.reshard()
        return [found for part in distributed.gather(collected) for found in part]

    def _batches(self, loader, show_progress):
        """This process's batches, rendered ahead of the device; as many in every process, the last may be another's."""
        loader = evaluation_loader(loader, distributed.rank(), distributed.world_size())
        with Prefetch(loader, self.config["prefetch_steps"] or 0, pin=self.device.type == "cuda") as ahead:
            bar = tqdm(ahead, total=len(loader), desc=set_color("Evaluate   ", "pink"), disable=not show_progress)
            tokens, start = 0, time.perf_counter()
            for batch in bar:
                yield batch
                tokens += sum(int(column.sum()) for name, column in batch.interaction.items() if name.endswith("_mask"))
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - start):,.0f} tokens/s", refresh=False)

    def _score(self, batch, generates: bool) -> tuple:
        """(scores, row numbers [B], candidate ids [B, C]) on the CPU; then, asked to generate, answers."""
        with memory.explained(batch, training=False), self.steps.autocast():
            batch = to_device(batch, self.device)
            scores = self.model.evaluation_scores(batch).float().cpu()
            answers = self._answers(batch) if generates else ()
        return scores, batch[ROW_FIELD].cpu(), batch["candidates"].cpu(), *answers

    def _answers(self, batch) -> tuple[list, list, list]:
        """Each row's greedy answer, its candidates as (id, title), and its target's id."""
        named = self.model.tokens.named
        candidates = [[(item, named(item)) for item in row] for row in batch["candidates"].tolist()]
        targets = batch["candidates"].gather(1, batch["target_position"][:, None]).flatten().tolist()
        return self.model.generate(batch), candidates, targets
