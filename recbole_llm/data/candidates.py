"""The candidates of every row of one phase, fixed before any model is built (`data.candidate_draw`), and their .npz file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_llm.data.candidate_draw import KEY_VERSION, check_unseen, encode, sample_candidates
from recbole_llm.runtime.files import whole_file


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """The candidates of every row of one phase; immutable.

    Attributes:
        phase: the phase that the rows were drawn for.
        seed: the seed that they were drawn with.
        user_ids: external tokens of the rows' users. str [n]
        item_ids: external tokens of the rows' targets. str [n]
        catalogue: sorted external tokens of the items that occur. str [M]
        candidates: indices into `catalogue`, as shown. int32 [n, C]
        target_position: column of the target. int16 [n]
    """

    phase: str
    seed: int
    user_ids: np.ndarray
    item_ids: np.ndarray
    catalogue: np.ndarray
    candidates: np.ndarray
    target_position: np.ndarray

    def __post_init__(self):
        n = len(self.user_ids)
        if self.candidates.ndim != 2 or not n == len(self.item_ids) == len(self.candidates) == len(
            self.target_position
        ):
            raise ValueError(f"candidate set {self.phase}: users, targets, candidates and positions differ in length")
        at_target = self.candidates[np.arange(n), self.target_position]
        if n and not np.array_equal(self.catalogue[at_target], self.item_ids):
            raise ValueError(f"candidate set {self.phase}: a row's target is not at its target_position")
        for array in (self.user_ids, self.item_ids, self.catalogue, self.candidates, self.target_position):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def n_candidates(self) -> int:
        return self.candidates.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Digest of the phase, C and every row's user, target and candidate tokens in order."""
        digest = hashlib.sha256(KEY_VERSION + encode((self.phase, str(len(self)), str(self.n_candidates))))
        for user, target, row in zip(self.user_ids, self.item_ids, self.candidates, strict=True):
            digest.update(encode([str(user), str(target), *self.catalogue[row].tolist()]))
        return digest.hexdigest()

    FIELDS = ("phase", "seed", "user_ids", "item_ids", "catalogue", "candidates", "target_position", "sha256")

    def subset(self, rows: np.ndarray) -> "CandidateSet":
        """The set of the rows with these numbers, in their order."""
        columns = (getattr(self, name)[rows] for name in ("user_ids", "item_ids"))
        return CandidateSet(
            self.phase, self.seed, *columns, self.catalogue, self.candidates[rows], self.target_position[rows]
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds: plain arrays by the names in `FIELDS`, no object among them."""
        return {name: np.asarray(getattr(self, name)) for name in self.FIELDS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "CandidateSet":
        """Rebuild a set and check its digest.

        Raises:
            KeyError, ValueError: `arrays` are not those of a set.
        """
        columns = {name: arrays[name] for name in cls.FIELDS[2:-1]}
        loaded = cls(phase=str(arrays["phase"]), seed=int(arrays["seed"]), **columns)
        if loaded.sha256 != str(arrays["sha256"]):
            raise ValueError("its sha256 does not match its content")
        return loaded


def build_candidate_set(
    rows: tuple[Sequence[str], Sequence[str]],
    histories: Mapping[str, np.ndarray],
    catalogue: np.ndarray,
    n_candidates: int,
    seed: int,
    phase: str,
    epoch: int | None = None,
) -> CandidateSet:
    """Draw the candidates of many rows.

    Args:
        rows: (users, targets), external tokens, n of each.
        histories: external user -> sorted distinct catalogue indices of the whole history.
        catalogue: sorted distinct external item tokens. str [M]
        n_candidates: C, the target included.
        seed: `candidate_seed`, in training the run's `seed`.
        phase: "train", "valid" or "test".
        epoch: of training rows, None else.

    Raises:
        ValueError: a user has fewer than C-1 unseen items (all such users are named), or a target is not in the
            catalogue or not in its user's history.
    """
    users, targets = (np.asarray(column, dtype=str) for column in rows)
    check_unseen(users.tolist(), histories, len(catalogue), n_candidates)
    index = np.searchsorted(catalogue, targets) if len(targets) else np.empty(0, dtype=np.int64)  # [n]
    candidates = np.empty((len(users), n_candidates), dtype=np.int32)
    positions = np.empty(len(users), dtype=np.int16)
    pairs = zip(users.tolist(), targets.tolist(), index.tolist(), strict=True)
    for i, (user, target, at) in enumerate(pairs):
        seen = histories[user]
        place = int(np.searchsorted(seen, at))
        if place == len(seen) or seen[place] != at or catalogue[at] != target:
            raise ValueError(f"row {i}: target {target!r} is not in the history of user {user!r}")
        candidates[i], positions[i] = sample_candidates(
            user, target, at, seen, len(catalogue), n_candidates, seed, phase, epoch
        )
    return CandidateSet(phase, int(seed), users, targets, catalogue, candidates, positions)


def write_npz(path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an .npz file through a temporary file in the same folder: whole or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full; names the file and the remedy. Nothing is left behind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as aside, open(aside, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {path} ({error.strerror}); free space or set checkpoint_dir to another folder"
        ) from error


def read_npz(path, build):
    """Return `build(arrays)` of an .npz file without unpickling.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or `build` refuses what it holds; names the file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return build({name: stored[name] for name in stored.files})
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for a damaged file
        raise ValueError(
            f"{path} is damaged or not a candidate file ({error}); delete it, it will be rebuilt"
        ) from error
