"""What the collectors of `candidates`, `full` and `ctr` share: every row of an evaluation is kept until it ends."""

from recbole.evaluator import Collector

_COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")


class RowCollector(Collector):
    """RecBole's collector over batches of rows that come in any order; `get_data_struct` closes an evaluation."""

    def __init__(self, config):
        super().__init__(config)
        self._finished = None
        self.reset()

    def reset(self) -> None:
        """Forget the rows of an evaluation that was not finished."""
        self._phase: str | None = None
        self._batches: list[tuple] = []
        for key in _COLLECTED:
            if key in self.data_struct:
                del self.data_struct[key]

    def rows(self):
        """The rows of the last finished evaluation, in row order.

        Raises:
            RuntimeError: there was none.
        """
        if self._finished is None:
            raise RuntimeError("no evaluation has finished: call trainer.evaluate first")
        return self._finished

    def _begin(self, phase: str) -> None:
        """Go on with the rows of a phase; those of another one are forgotten."""
        if phase != self._phase:
            self.reset()
            self._phase = phase
