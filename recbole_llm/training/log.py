"""What a user sees of a training run: the progress bar, TensorBoard and Weights & Biases, step by step."""

from recbole.utils import dict2str, get_tensorboard, set_color
from tqdm import tqdm

from recbole_llm.runtime import distributed


class NoWriter:
    """Takes the place of TensorBoard's writer in every process but the main one, so that a run has one set of files."""

    def add_scalar(self, *args, **kwargs):
        """Write nothing."""

    add_hparams = add_scalar


def tensorboard_writer(logger):
    """RecBole's writer in the main process, one that writes nothing in the others."""
    return get_tensorboard(logger) if distributed.is_main() else NoWriter()


class TrainingLog:
    """One bar over all steps of a run, and a point per step in TensorBoard and wandb. Use as a context manager.

    Args:
        tensorboard: RecBole's writer.
        wandb: RecBole's logger.
        meter: the run's :class:`~recbole_llm.training.throughput.Meter`.
        total: optimizer steps of the run.
        done: those done before it was resumed.
        show: whether the bar is shown.
    """

    def __init__(self, tensorboard, wandb, meter, total, done, show):
        self.tensorboard, self.wandb, self.meter = tensorboard, wandb, meter
        show = show and distributed.is_main()
        self.bar = tqdm(total=total, initial=done, desc=set_color("Train", "pink"), unit="step", disable=not show)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def step(self, number, epoch, loss, rate, grad_norm):
        """After optimizer step ``number`` (from 1): its loss per answer token, learning rate and gradient norm."""
        speed = self.meter.rate()
        self.bar.update()
        if not self.bar.disable:
            text = f"epoch {epoch}, loss {loss:.3f}, lr {rate:.2e}, {speed:,.0f} tok/s, {self.meter.memory():.1f} GB"
            self.bar.set_postfix_str(text, refresh=False)
        values = {"loss": loss, "learning_rate": rate, "grad_norm": grad_norm, "tokens_per_second": speed}
        for name, value in values.items():
            self.tensorboard.add_scalar(f"Train/{name}", value, number)
        if distributed.is_main():
            self.wandb.log_metrics({**values, "train_step": number}, head="train")

    def validation(self, logger, epoch, seconds, score, result, number):
        """After validation ``number`` (from 0) of the run; ``logger`` gets RecBole's lines, None: nobody."""
        if logger is not None:
            head = set_color(f"epoch {epoch} evaluating", "green") + f" [{set_color('time', 'blue')}: "
            logger.info(head + f"{seconds:.2f}s, {set_color('valid_score', 'blue')}: {score:f}]")
            logger.info(set_color("valid result", "blue") + ": \n" + dict2str(result))
        self.tensorboard.add_scalar("Vaild_score", score, epoch)  # RecBole's name for it
        self.wandb.log_metrics({**result, "valid_step": number}, head="valid")
