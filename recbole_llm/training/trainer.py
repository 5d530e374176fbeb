"""The trainer hook: RecBole's Trainer with an LLM's training loop and candidate-set evaluation.

`fit` goes over (epoch, optimizer step); early stopping, log lines, TensorBoard and wandb objects are RecBole's own.
Everything random is a function of (seed, step), dropout's masks of the process too: a run that was killed and resumed ends
where an uninterrupted one does, and several processes only share the rows of a step. training_step.py makes the steps, evaluate.py ranks the candidates,
training_state.py keeps where a run stands, resume.py finds it again.
"""

from __future__ import annotations

import itertools
import math
import os
import time

from recbole.trainer import Trainer
from recbole.utils import dict2str, early_stopping, get_local_time, set_color

from recbole_llm import registry
from recbole_llm.evaluation.rerank import attach_retriever
from recbole_llm.runtime import distributed
from recbole_llm.training.checkpoint import OPTIMIZER, RNG, load_checkpoint_into, read_tensors, save_checkpoint
from recbole_llm.training.evaluation_loop import CandidateEvaluation
from recbole_llm.training.log import TrainingLog
from recbole_llm.training.optimizer_state import load_optimizer, optimizer_tensors, restore_rng, rng_tensors
from recbole_llm.training.optimizer_step import OptimizerSteps, precision
from recbole_llm.training.resume import open_run
from recbole_llm.training.run_folder import Position
from recbole_llm.training.step_batches import Prefetch, step_loader
from recbole_llm.training.throughput import Meter, closing_line

__all__ = ["LLMTrainer", "load_checkpoint_into"]

_NUMBERS = itertools.count(1)  # of this process's trainers: two runs of one second have folders of their own


class LLMTrainer(OptimizerSteps, CandidateEvaluation, Trainer):
    """Trains and evaluates an :class:`~recbole_llm.model.base.LLMRecommender`.

    Attributes:
        position: how far training has come (:class:`~recbole_llm.training.run_folder.Position`).
        speed: after ``fit``, what :meth:`recbole_llm.training.throughput.Meter.report` gives.
        generation: of the last evaluation, :func:`recbole_llm.evaluation.generation_metrics.generation_report`'s; None where nothing was generated.
        saved_model_file: the run's folder; after ``fit`` that of its best weights.
    """

    def __init__(self, config, model):
        distributed.start(config["device"])
        super().__init__(config, model)
        registry.protocol(config["protocol"]).judge(self, config, model.by_hand.dataset)
        name = f"{config['model']}-{config['dataset']}-{get_local_time()}-{os.getpid()}-{next(_NUMBERS)}"
        name = distributed.broadcast(name)
        self.saved_model_file = os.path.join(self.checkpoint_dir, name)
        self.accumulation_steps = config["accumulation_steps"]
        self.precision = precision(config["mixed_precision"] or "auto", self.device)
        self.position, self.run, self.saving = Position(), None, False
        self.accelerator = self.wrapped = self.dataset = None
        self.generation = self.speed = None

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
        self.dataset, self.verbose, self.show_progress = train_data._dataset, verbose, show_progress
        self.saving = saved
        self.began, self.earlier_seconds = time.perf_counter(), 0.0
        try:
            found = self._open_run() if saved else None
            self._start_schedule(train_data)
            if not self.position.finished:
                self._prepare()
                self._restore(found)
                self._choose_micro_batch(train_data)
                self._loop(train_data, valid_data, callback_fn)
        finally:
            if self.run is not None:
                self.run.close()
        if saved:
            self.saved_model_file = os.path.join(self.saved_model_file, self.position.best)
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _loop(self, train_data, valid_data, callback_fn) -> None:
        """Epochs until the last step, or until early stopping."""
        position = self.position
        self.meter = Meter(self.model, self.device, self.config["peak_tflops"])
        self.log = TrainingLog(
            self.tensorboard, self.wandblogger, self.meter, self.total_steps, position.step, self.show_progress
        )
        with self.log:
            while not position.finished:
                epoch, start = position.epoch, time.perf_counter()
                if position.step < self.total_steps:
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
        position, every = self.position, self.config["save_steps"]
        self.model.train()
        train_data.set_epoch(epoch_idx, position.epoch_step * self.accumulation_steps)
        steps = step_loader(
            train_data, self.accumulation_steps, distributed.rank(), distributed.world_size(), position.micro_batch
        )
        with Prefetch(steps, self.config["prefetch_steps"] or 0, pin=self.device.type == "cuda") as ahead:
            for group in ahead:
                loss, n_tokens = self._step(group)
                position.epoch_step += 1
                position.loss_sum, position.token_sum = position.loss_sum + loss, position.token_sum + n_tokens
                self.meter.count(group)
                rate = self.optimizer.param_groups[0]["lr"]
                self.log.step(position.step, epoch_idx, loss / n_tokens, rate, self.grad_norm)
                if position.step == self.total_steps:
                    break
                if every and position.step % every == 0 and position.epoch_step < self.steps_per_epoch:
                    with self.meter.pause():
                        self._save_step()
        self.meter.waited += ahead.waited
        return position.loss_sum / position.token_sum

    def _end_epoch(self, epoch, valid_data, callback_fn) -> None:
        """Validate where it is due, move on to the next epoch, and save where training stands."""
        position = self.position
        last = position.step >= self.total_steps
        position.epoch, position.epoch_step, position.loss_sum, position.token_sum = epoch + 1, 0, 0.0, 0.0
        stop = False
        if not (valid_data and self.eval_step > 0 and self.total_steps):
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
        self.best_valid_score, self.cur_step, stop, better = early_stopping(
            score, self.best_valid_score, self.cur_step, max_step=self.stopping_step, bigger=self.valid_metric_bigger
        )
        if self.verbose:
            head = set_color(f"epoch {epoch} evaluating", "green") + f" [{set_color('time', 'blue')}: "
            seconds = f"{time.perf_counter() - start:.2f}s, {set_color('valid_score', 'blue')}: {score:f}]"
            self.logger.info(head + seconds)
            self.logger.info(set_color("valid result", "blue") + ": \n" + dict2str(result))
        self.tensorboard.add_scalar("Vaild_score", score, epoch)  # RecBole's name for it
        self.wandblogger.log_metrics({**result, "valid_step": self.position.valid_step}, head="valid")
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
        self.run, folder, found, best_there = open_run(self.config, self.saved_model_file, self.model)
        self.saved_model_file = str(folder)
        if found is None:
            return None
        self.position = position = Position.of(load_checkpoint_into(self.model, found))
        if not best_there:
            position.best = position.best_valid_score = position.best_valid_result = None
            position.cur_step = 0
        self.earlier_seconds = position.seconds
        self.cur_step, self.best_valid_result = position.cur_step, position.best_valid_result
        if position.best_valid_score is not None:
            self.best_valid_score = position.best_valid_score
        end = ", which had finished" if position.finished else ""
        self.logger.info(set_color("Resuming", "blue") + f" at step {position.step} from {found}{end}")
        return found

    def _restore(self, found) -> None:
        """The optimizer's state, the float16 scaler's and the generators' of step folder ``found``, if any."""
        if found is None:
            return
        load_optimizer(self._names(), self.optimizer, read_tensors(found / OPTIMIZER))
        restore_rng(read_tensors(found / RNG))
        if self.position.scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.position.scaler)

    def _names(self) -> dict:
        return {weight: name for name, weight in self.model.named_parameters()}

    def _record(self) -> dict:
        """The position with what RecBole's early stopping knows, as plain values."""
        position, best = self.position, float(self.best_valid_score)
        position.cur_step = self.cur_step
        position.seconds = round(self.earlier_seconds + time.perf_counter() - self.began, 3)
        position.best_valid_score = best if math.isfinite(best) else None
        position.best_valid_result = self.best_valid_result and {k: float(v) for k, v in self.best_valid_result.items()}
        scaler = getattr(self.accelerator, "scaler", None)
        position.scaler = scaler.state_dict() if scaler is not None else None
        return position.record()

    def _save_step(self) -> None:
        """Save where training stands, then drop what ``save_total_limit`` does not keep."""
        if not self.saving:
            return
        tensors = {OPTIMIZER: optimizer_tensors(self._names(), self.optimizer), RNG: rng_tensors()}
        folder = os.path.join(self.saved_model_file, f"step-{self.position.step:08d}")
        save_checkpoint(self.model, folder, self._record(), tensors)
        if self.run is not None:
            self.run.prune(self.config["save_total_limit"], self.position.best)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Save the weights as the best so far."""
        if not self.saving:
            return
        self.position.best = f"best-{self.position.step:08d}"
        folder = os.path.join(self.saved_model_file, self.position.best)
        save_checkpoint(self.model, folder, self._record())
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {folder}")
