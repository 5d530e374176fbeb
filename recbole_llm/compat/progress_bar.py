"""RecBole's training bar with what it lacks: the loss and the interactions trained per second, beside the time left.

RecBole's own bar counts batches. Its trainer takes a loader and a loss function for each epoch: both are wrapped here,
and its loop stays as it is.
"""

import time

from recbole.trainer import Trainer
from recbole.utils import set_color
from tqdm import tqdm


class _Loader:
    """A loader that draws the bar while it is read; everything else is the loader's own."""

    def __init__(self, loader, epoch: int):
        self._loader, self._epoch = loader, epoch
        self.rows, self.loss, self._start = 0, None, time.perf_counter()

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def __len__(self):
        return len(self._loader)

    def __iter__(self):
        with tqdm(self._loader, desc=set_color(f"Train {self._epoch:>5}", "pink"), unit="batch") as bar:
            for batch in bar:
                yield batch
                self.rows += len(batch)
                speed = self.rows / (time.perf_counter() - self._start)
                loss = "" if self.loss is None else f"loss {float(self.loss):.4f}, "
                bar.set_postfix_str(f"{loss}{speed:,.0f} interactions/s", refresh=False)

    def watching(self, loss_function):
        """`loss_function` whose last value (a sum, where it gives several) the bar shows."""

        def watched(interaction):
            losses = loss_function(interaction)
            self.loss = (sum(losses) if isinstance(losses, tuple) else losses).detach()
            return losses

        return watched


def show_loss_and_speed(trainer) -> None:
    """Draw this bar in the trainer's epochs; trainers with an epoch of their own (KGAT, S3Rec ...) keep RecBole's."""
    if type(trainer)._train_epoch is not Trainer._train_epoch:
        return
    epoch = trainer._train_epoch

    def with_bar(train_data, epoch_idx, loss_func=None, show_progress=False):
        if not show_progress:
            return epoch(train_data, epoch_idx, loss_func=loss_func)
        loader = _Loader(train_data, epoch_idx)
        watched = loader.watching(loss_func or trainer.model.calculate_loss)
        return epoch(loader, epoch_idx, loss_func=watched)

    trainer._train_epoch = with_bar
