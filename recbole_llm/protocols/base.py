"""The base class of protocols: what a run asks of one. Nothing else in the package compares a protocol's name with a string."""

from __future__ import annotations

from recbole_llm.data.columns import column_problems
from recbole_llm.evaluation.preparation import prepare


class Protocol:
    """RecBole's own evaluation, and what protocols have in common; a subclass overrides what differs.

    Attributes:
        name: as in `protocol`.
        labelled: test rows carry labels, and scores are judged against them; else a row ranks its target among others.
        among_candidates: a row ranks a candidate set in a drawn order, which `permutations` may draw again.
        retrieves: a model that ranks by prompts ranks what its CRM retrieves.
        columns: names of the rows file's columns.
        metrics: those that leaderboards show.
        main_metric: the one that orders them.
    """

    name: str | None = None
    labelled = False
    among_candidates = False
    retrieves = False
    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    main_metric = ""

    # ---- configuration -----------------------------------------------------------------------------------------------

    def complete(self, final: dict, given: dict, model_class: type, chosen=()) -> None:
        """Set in ``final`` what the protocol fixes for every model, so that rows of a table differ in nothing but the model.

        Args:
            final: the merged configuration, changed in place.
            given: what the plugin's properties and the user set, which is kept.
            chosen: what the user set.
        """

    def problems(self, final: dict, given: dict, model_class: type | None = None) -> list[str]:
        """Find settings that contradict the protocol; called before `complete`.

        Args:
            final: the merged configuration.
            given: what the plugin's properties and the user set.
            model_class: the model's class.

        Returns:
            A line for each problem: key, rule, remedy.
        """
        return []

    def column_problems(self, final: dict, dataset: str) -> list[str]:
        """Find columns that settings name and the dataset's files, where they are here, do not give; called after `complete`."""
        return column_problems(final, dataset)

    # ---- a run -------------------------------------------------------------------------------------------------------

    def before_run(self, config) -> None:
        """Make, in one process, what all processes then read."""

    def prepare(self, config) -> tuple:
        """RecBole's ``(dataset, train, valid, test)``."""
        return prepare(config)

    def evaluation_loader(self, config) -> type | None:
        """The loader class of a RecBole model's validation and test rows; None: RecBole's."""
        return None

    def prompt_loader(self, phase: str, head):
        """The loader of prompts, where it is not the model's own.

        Args:
            phase: "train", "valid" or "test".
            head: the model's (:mod:`recbole_llm.data.heads`).

        Returns:
            A dataloader class, or None for the model's own.
        """
        return None

    def judge(self, trainer, config, dataset) -> None:
        """Give a trainer the collector and the evaluator of this protocol."""

    def before_test(self, trainer, valid, config, load_best_model: bool) -> None:
        """Make what scoring the test rows needs, from the validation rows.

        Args:
            trainer: the fitted trainer.
            valid: the validation loader.
            config: the run's configuration.
            load_best_model: score with the best weights rather than the last.
        """

    # ---- results -----------------------------------------------------------------------------------------------------

    def measured_on(self, config) -> dict:
        """Identify the test rows; runs with another digest cannot stand in one table.

        Returns:
            ``{"count", "sha256", "rows"}``: how many items a row ranks (None where it ranks none), the digest of the rows
            with all that they rank, and the version of the rules that make rows of files (`data.fingerprint.ROWS`).
        """
        raise NotImplementedError

    def n_test_rows(self, config) -> int:
        """Number of test rows of the split, measured or left out by `test_sample_size`."""
        raise NotImplementedError

    def tested_rows(self, config, collector) -> list[tuple]:
        """The lines of the rows file, with the values of `columns`, in the order of the test rows."""
        raise NotImplementedError

    def phase_counts(self, config, dataset) -> dict[str, int]:
        """Number of rows of each phase."""
        return {phase: len(split) for phase, split in zip(("train", "valid", "test"), dataset.build(), strict=True)}

    def checks(self, config, rows: list[tuple]) -> dict | None:
        """Checks on the test rows that a score is not an artefact (:mod:`recbole_llm.evaluation.bias_checks`); None: there are none."""
        return None

    def ranks(self, count: int | None) -> str:
        """What a row ranks, in the words of a table's heading, of the ``count`` of `measured_on`."""
        return f"{count} candidates"
