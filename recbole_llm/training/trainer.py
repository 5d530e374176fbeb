"""The trainer hook: RecBole's Trainer with an LLM's training loop and candidate-set evaluation.

``fit`` goes over (epoch, optimizer step); early stopping, log lines, TensorBoard and wandb objects are RecBole's own.
Everything random is a function of (seed, step), dropout's masks of the process too: a run that was killed and resumed ends
where an uninterrupted one does, and several processes only share the rows of a step. Steps are made by
:class:`~recbole_llm.training.optimizer_step.OptimizerSteps`, checkpoints by :class:`~recbole_llm.training.saver.Saver`.
"""

from __future__ import annotations

import itertools
import math
import os
import time

from recbole.utils import early_stopping, get_local_time, set_color

from recbole_llm.config.stages import check_parts, in_last_stage
from recbole_llm.evaluation.rerank import attach_retriever
from recbole_llm.runtime import distributed
from recbole_llm.training.evaluation_loop import EvaluatingTrainer
from recbole_llm.training.log import TrainingLog
from recbole_llm.training.micro_batch import choose_micro_batch
from recbole_llm.training.position import Position
from recbole_llm.training.saver import Saver
from recbole_llm.training.schedule import Schedule
from recbole_llm.training.step_batches import Prefetch, step_loader
from recbole_llm.training.throughput import Meter, closing_line

_NUMBERS = itertools.count(1)  # of this process's trainers: two runs of one second have folders of their own


class LLMTrainer(EvaluatingTrainer):
    """Trains and evaluates an :class:`~recbole_llm.model.base.LLMRecommender`.

    Attributes:
        position: how far training has come (:class:`~recbole_llm.training.position.Position`).
        schedule: the run's steps and rates, once ``fit`` knows the loader.
        speed: after ``fit``, what :meth:`recbole_llm.training.throughput.Meter.report` gives.
        saved_model_file: the run's folder; after ``fit`` that of its best weights.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        check_parts(config, {group["name"] for group in self.optimizer.param_groups})
        name = f"{config['model']}-{config['dataset']}-{get_local_time()}-{os.getpid()}-{next(_NUMBERS)}"
        name = distributed.broadcast(name)
        self.saved_model_file = os.path.join(self.checkpoint_dir, name)
        self.position = Position()
        self.schedule = self.saver = self.speed = None

    # ---- training ------------------------------------------------------------------------------------------------

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Train to the end, from the start or from where ``resume`` says; returns (best score, best result).

        Raises:
            FloatingPointError: a loss or gradient is not finite, nothing of that step is kept; or a validation score.
            OutOfMemory: a batch does not fit; the message names its size and the settings that help.
            OSError: a checkpoint cannot be written; earlier ones are untouched.
            ValueError: ``resume`` names a run of other settings, or one that cannot be read.
        """
        self.eval_collector.data_collect(train_data)
        attach_retriever(self, valid_data)
        self.verbose, self.show_progress = verbose, show_progress
        self.saver = Saver(self.config, self.model, self.saved_model_file) if saved else None
        self.began, self.earlier_seconds = time.perf_counter(), 0.0
        try:
            found = self._open_run() if saved else None
            self._start_schedule(len(train_data))
            if not self.position.finished:
                self._prepare(found, train_data)
                self._loop(train_data, valid_data, callback_fn)
        finally:
            if saved:
                self.saver.close()
        if saved:
            self.saved_model_file = os.path.join(self.saved_model_file, self.position.best)
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _start_schedule(self, n_batches: int) -> None:
        """Count the steps: what warm-up, decay and the end of training go by."""
        self.schedule = Schedule.of(self.config, n_batches)

    def _prepare(self, found, train_data) -> None:
        """What is left to do before the first step; ``found`` is the step folder of a resumed run."""
        self.steps.prepare()
        self.optimizer = self.steps.optimizer
        if found is not None:
            self.saver.restore(found, self.position, self.optimizer, self.steps.accelerator.scaler)
        if self.config["auto_batch_size"] and not self.position.micro_batch and self.schedule.total:
            rows = self.config["train_batch_size"] * self.config["accumulation_steps"]
            self.position.micro_batch = choose_micro_batch(self.steps, train_data, rows)

    def _loop(self, train_data, valid_data, callback_fn) -> None:
        """Epochs until the last step, or until early stopping."""
        position = self.position
        self.meter = Meter(self.model, self.device, self.config["peak_tflops"])
        self.log = TrainingLog(
            self.tensorboard, self.wandblogger, self.meter, self.schedule.total, position.step, self.show_progress
        )
        with self.log:
            while not position.finished:
                epoch, start = position.epoch, time.perf_counter()
                if position.step < self.schedule.total:
                    loss = self.train_loss_dict[epoch] = self._train_epoch(train_data, epoch)
                    if self.verbose:
                        self.logger.info(self._generate_train_loss_output(epoch, start, time.perf_counter(), loss))
                    self._add_train_loss_to_tensorboard(epoch, loss)
                with self.meter.pause():
                    self._end_epoch(epoch, valid_data, callback_fn)
        self.speed = self.meter.report()
        if self.verbose:
            self.logger.info(set_color(closing_line(self.speed), "green"))

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """The steps that are left of an epoch; returns the epoch's mean loss per answer token."""
        position, every, accumulation = self.position, self.config["save_steps"], self.config["accumulation_steps"]
        self.model.train()
        train_data.set_epoch(epoch_idx, position.epoch_step * accumulation)
        steps = step_loader(
            train_data, accumulation, distributed.rank(), distributed.world_size(), position.micro_batch, self.config["history_batch_size"]
        )
        with Prefetch(steps, self.config["prefetch_steps"] or 0, pin=self.device.type == "cuda") as ahead:
            for group in ahead:
                loss, n_tokens = self._step(group)
                position.epoch_step += 1
                position.loss_sum, position.token_sum = position.loss_sum + loss, position.token_sum + n_tokens
                self.meter.count(group)
                rate = self.optimizer.param_groups[0]["lr"]
                self.log.step(position.step, epoch_idx, loss / n_tokens, rate, self.steps.grad_norm)
                if position.step == self.schedule.total:
                    break
                if every and position.step % every == 0 and position.epoch_step < self.schedule.per_epoch:
                    with self.meter.pause():
                        self._save_step()
        self.meter.waited += ahead.waited
        return position.loss_sum / position.token_sum

    def _step(self, group) -> tuple[float, float]:
        """One optimizer step over this process's micro-batches: its summed loss and answer tokens."""
        found = self.steps.step(group, self.position.step, self.schedule)
        self.position.step += 1
        return found

    def _end_epoch(self, epoch, valid_data, callback_fn) -> None:
        """Validate where it is due, move on to the next epoch, and save where training stands."""
        position = self.position
        last = position.step >= self.schedule.total
        position.next_epoch()
        stop = False
        if not (valid_data and self.eval_step > 0 and self.schedule.total):
            self._save_checkpoint(epoch, self.verbose)
        elif last or (epoch + 1) % self.eval_step == 0:
            stop = self._validate(epoch, valid_data, callback_fn)
        position.finished = last or stop
        self._save_step()

    def _validate(self, epoch, valid_data, callback_fn) -> bool:
        """One validation, with RecBole's early stopping and log lines; whether training stops."""
        start = time.perf_counter()
        score, result = self._valid_epoch(valid_data, show_progress=self.show_progress)
        if not math.isfinite(score):
            raise FloatingPointError(
                f"{self.config['valid_metric']} of the validation rows is {score} after step {self.position.step}, so no "
                "weights can be called the best: lower learning_rate, set mixed_precision=no, or choose a valid_metric "
                "that these rows define; checkpoints of earlier steps stay"
            )
        stop = better = False
        last = self.position.step >= self.schedule.total  # of a run so short that the last stage has no step, too
        if last or in_last_stage(self.config["stages"], (self.position.step - 1) / self.schedule.total):
            self.best_valid_score, self.cur_step, stop, better = early_stopping(
                score, self.best_valid_score, self.cur_step, max_step=self.stopping_step, bigger=self.valid_metric_bigger
            )
        seconds = time.perf_counter() - start
        self.log.validation(self.logger if self.verbose else None, epoch, seconds, score, result, self.position.valid_step)
        self.position.valid_step += 1
        metrics = {name.lower(): float(value) for name, value in result.items()}
        self.position.history.append({"epoch": epoch + 1, "step": self.position.step, **metrics})
        if better:
            self.best_valid_result = result
            self._save_checkpoint(epoch, self.verbose)
        if callback_fn:
            callback_fn(epoch, score)
        if stop and self.verbose:
            best = epoch - self.cur_step * self.eval_step
            self.logger.info(f"Finished training, best eval result in epoch {best}")
        return stop

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _open_run(self):
        """Begin the run's folder, or go on with one; the step folder to go on from, or None."""
        found, self.position = self.saver.open()
        self.saved_model_file = self.saver.folder
        if found is None:
            return None
        position = self.position
        self.earlier_seconds = position.seconds
        self.cur_step, self.best_valid_result = position.cur_step, position.best_valid_result
        if position.best_valid_score is not None:
            self.best_valid_score = position.best_valid_score
        end = ", which had finished" if position.finished else ""
        self.logger.info(set_color("Resuming", "blue") + f" at step {position.step} from {found}{end}")
        return found

    def _noted(self) -> Position:
        """The position with what RecBole's early stopping knows, as plain values."""
        position, best = self.position, float(self.best_valid_score)
        position.cur_step = self.cur_step
        position.seconds = round(self.earlier_seconds + time.perf_counter() - self.began, 3)
        position.best_valid_score = best if math.isfinite(best) else None
        position.best_valid_result = self.best_valid_result and {k: float(v) for k, v in self.best_valid_result.items()}
        scaler = getattr(self.steps.accelerator, "scaler", None)
        position.scaler = scaler.state_dict() if scaler is not None else None
        return position

    def _save_step(self) -> None:
        """Save where training stands."""
        if self.saver is not None:
            self.saver.save_step(self._noted(), self.optimizer)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Save the weights as the best so far."""
        if self.saver is None:
            return
        folder = self.saver.save_best(self._noted())
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {folder}")
