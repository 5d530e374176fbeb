"""What every protocol says. Nothing else in the package compares a protocol's name with a string."""

from __future__ import annotations

from recbole_llm.evaluation.preparation import prepare


class Protocol:
    """RecBole's own evaluation, and what protocols have in common; a subclass overrides what differs.

    Attributes:
        name: as in `protocol`.
        labelled: test rows carry labels, and scores are judged against them; else a row ranks its target among others.
        among_candidates: a row ranks a candidate set in a drawn order, which `permutations` may draw again.
        retrieves: a model that ranks by prompts ranks what its CRM retrieves.
        columns: of the rows file.
        metrics: that leaderboards show; main_metric: the one that orders them.
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
        """Lines for settings that contradict the protocol; read before `complete`."""
        return []

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
        """The loader of prompts for a model's ``head`` (:mod:`recbole_llm.data.heads`) where it is not the model's own; else None."""
        return None

    def judge(self, trainer, config, dataset) -> None:
        """Give a trainer the collector and the evaluator of this protocol."""

    def before_test(self, trainer, valid, config, load_best_model: bool) -> None:
        """What must be known before test rows are scored."""

    # ---- results -----------------------------------------------------------------------------------------------------

    def measured_on(self, config) -> dict:
        """``{"count", "sha256", "rows"}``: how many items a row ranks (null: none), the digest of the rows with all that they
        rank, and the version of the rules that make rows of files. Runs with another digest cannot stand in one table.
        """
        raise NotImplementedError

    def n_test_rows(self, config) -> int:
        """Test rows of the split, measured or left out by `test_sample_size`."""
        raise NotImplementedError

    def tested_rows(self, config, collector) -> list[tuple]:
        """Lines of the rows file, `columns`, in the order of the test rows."""
        raise NotImplementedError

    def phase_counts(self, config, dataset) -> dict[str, int]:
        """Rows of each phase."""
        return {phase: len(split) for phase, split in zip(("train", "valid", "test"), dataset.build(), strict=True)}

    def checks(self, config, rows: list[tuple]) -> dict | None:
        """Checks on the test rows that a score is not an artefact (:mod:`recbole_llm.evaluation.bias_checks`); None: there are none."""
        return None

    def ranks(self, count: int | None) -> str:
        """What a row ranks, in a table's words; count: as in `measured_on`."""
        return f"{count} candidates"
