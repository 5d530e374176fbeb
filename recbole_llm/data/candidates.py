"""Candidate sets: what every model ranks, fixed before any model is built.

Stock RecBole draws the negatives of sampled evaluation from the global numpy state, so two models, or two epochs of
one model, are measured on different candidates (RecBole issue #2077). Here a row's candidates are a pure function
of (seed, phase, external user, external target), for training prompts also of the epoch. They do not depend on
other rows, on row order, on RecBole's internal ids, nor on the random state or version of numpy: the random words
are SHAKE-128 of the key, and the draw is a sparse Fisher-Yates shuffle over the items the user has never seen.

A row holds C distinct items: the target, and C-1 items outside the user's whole history (all splits), each subset
equally likely. The target's position is uniform on 0..C-1, so neither a listwise model nor a tie can profit from
it.

This module imports nothing of the package but how files are written.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_llm.runtime.files import whole_file

PHASES = ("train", "valid", "test")
_KEY_VERSION = b"recbole_llm.candidates.1"
_MANY = 20  # users named in an error message


def _encode(parts: Sequence[str]) -> bytes:
    """Concatenate strings injectively: each is preceded by its length in bytes."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in encoded)


def row_key(seed: int, phase: str, user: str, target: str, epoch: int | None = None) -> bytes:
    """Return the key of one row's random words; the epoch belongs to training rows and to them only.

    Raises
    ------
    ValueError
        For an unknown phase, a training row without an epoch, or an evaluation row with one.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    if (epoch is None) == (phase == "train"):
        rule = "training candidates need an epoch" if epoch is None else "only training candidates take an epoch"
        raise ValueError(f"{rule}, got phase={phase!r} epoch={epoch!r}")
    tail = "" if epoch is None else str(int(epoch))
    return _KEY_VERSION + _encode((str(int(seed)), phase, str(user), str(target), tail))


def _draw(key: bytes, n_unseen: int, n_candidates: int) -> tuple[list[int], int]:
    """Draw C-1 distinct numbers below `n_unseen`, in random order, and the target's position below C.

    A 64-bit word w becomes a number below n as floor(w n / 2^64): its bias is below n / 2^64.
    """
    words = struct.unpack(f"<{n_candidates}Q", hashlib.shake_128(key).digest(8 * n_candidates))
    position = (words[0] * n_candidates) >> 64
    moved: dict[int, int] = {}  # a Fisher-Yates shuffle that stores only the moved entries
    drawn = []
    for i, word in enumerate(words[1:]):
        j = i + ((word * (n_unseen - i)) >> 64)
        drawn.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return drawn, position


def sample_candidates(
    user: str,
    target: str,
    target_index: int,
    seen: np.ndarray,
    n_items: int,
    n_candidates: int,
    seed: int,
    phase: str,
    epoch: int | None = None,
) -> tuple[np.ndarray, int]:
    """Draw the candidates of one row.

    Parameters
    ----------
    user, target : external tokens; together with `seed`, `phase` and `epoch` they determine the draw.
    target_index : index of the target in the sorted catalogue.
    seen : sorted distinct catalogue indices of the user's whole history, the target among them. Shape [h].
    n_items : size M of the catalogue.
    n_candidates : C, the target included.

    Returns
    -------
    candidates : int32 [C], indices into the catalogue, in the order in which they are shown.
    position : where the target stands, `candidates[position] == target_index`.

    Raises
    ------
    ValueError
        If fewer than C-1 items are unseen.
    """
    n_unseen = n_items - len(seen)
    if n_unseen < n_candidates - 1:
        raise ValueError(_too_few({user: n_unseen}, n_items, n_candidates))
    drawn, position = _draw(row_key(seed, phase, user, target, epoch), n_unseen, n_candidates)
    ranks = np.asarray(drawn, dtype=np.int64)
    # The item of rank r among the unseen ones: each seen item at or before it shifts it by one.
    negatives = ranks + np.searchsorted(seen - np.arange(len(seen)), ranks, side="right")  # [C-1]
    candidates = np.empty(n_candidates, dtype=np.int32)
    candidates[:position] = negatives[:position]
    candidates[position] = target_index
    candidates[position + 1 :] = negatives[position:]
    return candidates, position


def _too_few(unseen: Mapping[str, int], n_items: int, n_candidates: int) -> str:
    named = ", ".join(f"{user} ({count})" for user, count in list(unseen.items())[:_MANY])
    more = "" if len(unseen) <= _MANY else f" and {len(unseen) - _MANY} more"
    return (
        f"n_candidates: {n_candidates} needs {n_candidates - 1} items that a user has never interacted with, out of "
        f"{n_items} in the catalogue; {len(unseen)} user(s) have fewer unseen items: {named}{more}. "
        f"Lower n_candidates, or filter these users with user_inter_num_interval"
    )


def check_unseen(users, histories: Mapping[str, np.ndarray], n_items: int, n_candidates: int) -> None:
    """Raise one ValueError naming every user with fewer than C-1 unseen items."""
    if n_candidates < 2:
        raise ValueError(f"n_candidates must be at least 2 (a target and a negative), not {n_candidates}")
    unseen = {str(user): n_items - len(histories[user]) for user in dict.fromkeys(users)}
    short = {user: count for user, count in unseen.items() if count < n_candidates - 1}
    if short:
        raise ValueError(_too_few(short, n_items, n_candidates))


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """The candidates of every row of one phase; immutable.

    Attributes
    ----------
    phase, seed : what the rows were drawn for and with.
    user_ids, item_ids : external tokens of each row's user and target. str [n]
    catalogue : sorted external tokens of the items that occur. str [M]
    candidates : indices into `catalogue`, as shown. int32 [n, C]
    target_position : column of the target. int16 [n]
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
        digest = hashlib.sha256(_KEY_VERSION + _encode((self.phase, str(len(self)), str(self.n_candidates))))
        for user, target, row in zip(self.user_ids, self.item_ids, self.candidates, strict=True):
            digest.update(_encode([str(user), str(target), *self.catalogue[row].tolist()]))
        return digest.hexdigest()

    FIELDS = ("phase", "seed", "user_ids", "item_ids", "catalogue", "candidates", "target_position", "sha256")

    def subset(self, rows: np.ndarray) -> "CandidateSet":
        """The set of the rows with these numbers, in their order."""
        columns = (getattr(self, name)[rows] for name in ("user_ids", "item_ids"))
        return CandidateSet(
            self.phase, self.seed, *columns, self.catalogue, self.candidates[rows], self.target_position[rows]
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What `save` writes: plain arrays by the names in `FIELDS`, no object among them."""
        return {name: np.asarray(getattr(self, name)) for name in self.FIELDS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "CandidateSet":
        """Rebuild a set and check its digest; KeyError or ValueError if `arrays` is not such a set."""
        columns = {name: arrays[name] for name in cls.FIELDS[2:-1]}
        loaded = cls(phase=str(arrays["phase"]), seed=int(arrays["seed"]), **columns)
        if loaded.sha256 != str(arrays["sha256"]):
            raise ValueError("its sha256 does not match its content")
        return loaded

    def save(self, path) -> None:
        """Write an .npz file, whole or not at all."""
        write_npz(path, self.arrays())

    @classmethod
    def load(cls, path) -> "CandidateSet":
        """Read what `save` wrote; ValueError naming the file if it is damaged."""
        return read_npz(path, cls.from_arrays)


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

    Parameters
    ----------
    rows : (users, targets), external tokens, n of each.
    histories : external user -> sorted distinct catalogue indices of the whole history.
    catalogue : sorted distinct external item tokens. str [M]

    Raises
    ------
    ValueError
        If a user has fewer than C-1 unseen items (all such users are named), or a target is not in the catalogue or
        not in its user's history.
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

    Raises
    ------
    OSError
        Naming the file and the remedy, if the folder cannot be written or the disk is full. Nothing is left behind.
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
    """Return `build(arrays)` of an .npz file without unpickling; ValueError naming the file if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return build({name: stored[name] for name in stored.files})
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for a damaged file
        raise ValueError(
            f"{path} is damaged or not a candidate file ({error}); delete it, it will be rebuilt"
        ) from error
