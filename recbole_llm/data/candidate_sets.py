"""A dataset's rows with their candidates, as functions of the config alone; the training candidates of each epoch.

`candidate_sets(config)` keeps them in memory and in `<checkpoint_dir>/candidates/`, under a hash of everything they depend on.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_llm.data.candidate_draw import check_unseen, sample_candidates
from recbole_llm.data.candidates import CandidateSet, build_candidate_set, read_npz, write_npz
from recbole_llm.data.fingerprint import fingerprint
from recbole_llm.data.rows import Histories, Rows, evaluation_rows
from recbole_llm.data.sample import sample_evaluation_rows

_memory: dict[tuple, "CandidateSets"] = {}  # by file, fingerprint and the file's stamp; of a sample also by its size


@dataclass(frozen=True)
class CandidateSets:
    """The rows of a dataset with their frozen candidates, and the source of training candidates.

    Attributes:
        rows: all rows of the split, on which no model may train.
        valid: the validation rows.
        test: the test rows that are measured, a sample of them with `test_sample_size`.
        train_seed: the run's `seed`, of which training candidates are drawn.
    """

    rows: Rows
    valid: CandidateSet
    test: CandidateSet
    train_seed: int

    @property
    def catalogue(self) -> np.ndarray:
        return self.rows.catalogue

    @property
    def histories(self) -> Histories:
        return self.rows.histories

    @cached_property
    def _place(self) -> dict[str, int]:
        return {item: i for i, item in enumerate(self.catalogue.tolist())}

    def internal_items(self, dataset) -> np.ndarray:
        """Return a dataset's internal ids of the catalogue. int64 [M]

        Raises:
            ValueError: the dataset lacks an item; names the filters that may have dropped it.
        """
        known = dataset.field2token_id[dataset.iid_field]
        missing = [item for item in self.catalogue.tolist() if item not in known]
        if missing:
            raise ValueError(
                f"{len(missing)} items of the catalogue are not in the model's dataset, first {missing[0]!r}; "
                f"a filter drops them (filter_inter_by_user_or_item with an incomplete .item file, or val_interval)"
            )
        return np.array([known[item] for item in self.catalogue.tolist()], dtype=np.int64)

    def training_candidates(
        self, users: Sequence[str], targets: Sequence[str], epoch: int, recent: Sequence[Sequence[str]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the candidates of training rows for one epoch, from the run's `seed`.

        Args:
            users: external tokens. str [n]
            targets: external tokens. str [n]
            epoch: from 0.
            recent: each row's latest items; where given, only they and the target are left out of its negatives, as
                in LLaRA's released code, and an item that the user saw earlier or later may be one.

        Returns:
            The candidates, int32 [n, C], indices into `catalogue`; and the targets' positions among them, int16 [n].

        Raises:
            ValueError: users have fewer than C-1 unseen items; all of them are named.
        """
        users, targets = ([str(token) for token in column] for column in (users, targets))
        n_items, width = len(self.catalogue), self.test.n_candidates
        check_unseen(users, self.histories, n_items, width)
        candidates = np.empty((len(users), width), dtype=np.int32)
        positions = np.empty(len(users), dtype=np.int16)
        for i, (user, target) in enumerate(zip(users, targets, strict=True)):
            seen, at = self.histories[user], self._place[target]
            if recent is not None:
                seen = np.unique([at, *(self._place[item] for item in recent[i])])
            candidates[i], positions[i] = sample_candidates(
                user, target, at, seen, n_items, width, self.train_seed, "train", epoch
            )
        return candidates, positions


    def shared_training_list(
        self, users: Sequence[str], targets: Sequence[str], epoch: int, number: int, recent: Sequence[Sequence[str]] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw one candidate list for several training rows: their targets and, uniformly, other items of the catalogue.

        Args:
            users: external tokens, fewer than C. str [n]
            targets: external tokens. str [n]
            epoch: from 0.
            number: of the list in the epoch; with the run's `seed` and `epoch` it determines the draw.
            recent: as in `training_candidates`.

        Returns:
            The candidates, int32 [C], indices into `catalogue`, each once; the position of each row's target, int64 [n]; and
            bool [n, C], False where a candidate is in the row's history, and so no negative of it, True at its target.
        """
        at = np.array([self._place[str(target)] for target in targets])
        wanted = np.unique(at)
        rng = np.random.default_rng([self.train_seed, 7, epoch, number])
        others = rng.choice(len(self.catalogue) - len(wanted), self.test.n_candidates - len(wanted), replace=False)
        others += np.searchsorted(wanted - np.arange(len(wanted)), others, side="right")  # ranks -> items not wanted
        candidates = rng.permutation(np.concatenate([wanted, others])).astype(np.int32)
        if recent is None:
            seen = [self.histories[str(user)] for user in users]
        else:
            seen = [[self._place[item] for item in items] for items in recent]
        unseen = np.stack([~np.isin(candidates, items) for items in seen]) | (candidates == at[:, None])
        return candidates, (candidates == at[:, None]).argmax(1), unseen


def _pack(sets: CandidateSets) -> dict[str, np.ndarray]:
    histories = sets.histories
    arrays = {"users": histories.users, "indptr": histories.indptr, "items": histories.items}
    for phase in ("valid", "test"):
        arrays |= {f"{phase}.{name}": array for name, array in getattr(sets, phase).arrays().items()}
    return arrays


def _unpack(arrays: Mapping[str, np.ndarray], train_seed: int) -> CandidateSets:
    fields = CandidateSet.FIELDS
    valid, test = (
        CandidateSet.from_arrays({name: arrays[f"{phase}.{name}"] for name in fields}) for phase in ("valid", "test")
    )
    histories = Histories(arrays["users"], arrays["indptr"], arrays["items"])
    rows = Rows(test.catalogue, histories, (valid.user_ids, valid.item_ids), (test.user_ids, test.item_ids))
    return CandidateSets(rows, valid, test, train_seed)


def build_candidate_sets(config) -> CandidateSets:
    """Read the rows and draw their candidates, without any cache."""
    rows, width, seed = evaluation_rows(config), int(config["n_candidates"]), int(config["candidate_seed"])
    users = [*rows.valid[0].tolist(), *rows.test[0].tolist()]
    check_unseen(users, rows.histories, len(rows.catalogue), width)
    valid, test = (
        build_candidate_set(getattr(rows, phase), rows.histories, rows.catalogue, width, seed, phase)
        for phase in ("valid", "test")
    )
    return CandidateSets(rows, valid, test, int(config["seed"]))


def candidate_sets(config) -> CandidateSets:
    """Return a dataset's frozen candidate sets, from memory, from disk, or built and stored.

    They depend on the dataset's files, filters and split, on `candidate_seed` and on `n_candidates`: not on the
    model, nor on `seed`, which only the training candidates take. `test_sample_size` test rows are kept; the stored file
    has them all.

    Raises:
        FileNotFoundError, ValueError: as `evaluation_rows` and `build_candidate_set`.
        OSError: the cache file cannot be written; nothing is left half-written.
    """
    key, train_seed = fingerprint(config), int(config["seed"])
    path = Path(config["checkpoint_dir"]).absolute() / "candidates" / f"{config['dataset']}-{key[:16]}.npz"
    if (path, key, _stamp(path)) not in _memory:  # new, or its file is gone or another
        found = _stored(path, train_seed) or _build_and_store(config, path)
        _memory[path, key, _stamp(path)] = found
    size = config["test_sample_size"]
    if (place := (path, key, _stamp(path), size)) not in _memory:
        found = _memory[path, key, _stamp(path)]
        kept = sample_evaluation_rows(len(found.test), size, int(config["candidate_seed"]), "test")
        _memory[place] = found if len(kept) == len(found.test) else replace(found, test=found.test.subset(kept))
    return replace(_memory[place], train_seed=train_seed)


def _stamp(path: Path) -> tuple | None:
    """Time, size and inode of a file, which change when it does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _stored(path: Path, train_seed: int) -> CandidateSets | None:
    if not os.path.exists(path):
        return None
    try:
        return read_npz(path, lambda arrays: _unpack(arrays, train_seed))
    except ValueError as error:
        logging.getLogger().warning(f"{error} now")
        return None


def _build_and_store(config, path: Path) -> CandidateSets:
    sets = build_candidate_sets(config)
    write_npz(path, _pack(sets))
    logging.getLogger().info(
        f"candidate sets of {config['dataset']}: {len(sets.valid)} valid rows (sha256 {sets.valid.sha256[:12]}), "
        f"{len(sets.test)} test rows (sha256 {sets.test.sha256[:12]}), stored in {path}"
    )
    return sets
