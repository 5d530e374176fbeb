"""One row's candidates: a pure function of (seed, phase, external user, external target), for training prompts also of the epoch.

Stock RecBole draws the negatives of sampled evaluation from the global numpy state, so two models, or two epochs of
one model, are measured on different candidates (RecBole issue #2077). Here they do not depend on other rows, on row
order, on RecBole's internal ids, nor on the random state or version of numpy: the random words are SHAKE-128 of the key,
and the draw is a sparse Fisher-Yates shuffle over the items the user has never seen.

A row holds C distinct items: the target, and C-1 items outside the user's whole history (all splits), each subset
equally likely. The target's position is uniform on 0..C-1, so neither a listwise model nor a tie can profit from
it.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence

import numpy as np

PHASES = ("train", "valid", "test")
KEY_VERSION = b"recbole_llm.candidates.1"
_MANY = 20  # users named in an error message


def encode(parts: Sequence[str]) -> bytes:
    """Concatenate strings injectively: each is preceded by its length in bytes."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "little") + part for part in encoded)


def row_key(seed: int, phase: str, user: str, target: str, epoch: int | None = None) -> bytes:
    """Return the key of one row's random words; the epoch belongs to training rows and to them only.

    Raises:
        ValueError: the phase is unknown, a training row has no epoch, or an evaluation row has one.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    if (epoch is None) == (phase == "train"):
        rule = "training candidates need an epoch" if epoch is None else "only training candidates take an epoch"
        raise ValueError(f"{rule}, got phase={phase!r} epoch={epoch!r}")
    tail = "" if epoch is None else str(int(epoch))
    return KEY_VERSION + encode((str(int(seed)), phase, str(user), str(target), tail))


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

    Args:
        user: external token; with `target`, `seed`, `phase` and `epoch` it determines the draw.
        target: external token.
        target_index: index of the target in the sorted catalogue.
        seen: sorted distinct catalogue indices of the user's whole history, the target among them. Shape [h].
        n_items: size M of the catalogue.
        n_candidates: C, the target included.
        seed: `candidate_seed`, in training the run's `seed`.
        phase: "train", "valid" or "test".
        epoch: of training rows, None else.

    Returns:
        The candidates, int32 [C], indices into the catalogue in the order in which they are shown; and the position of the
        target among them.

    Raises:
        ValueError: fewer than C-1 items are unseen.
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
    """Refuse candidate sets that users with fewer than C-1 unseen items cannot have.

    Raises:
        ValueError: names all of these users.
    """
    if n_candidates < 2:
        raise ValueError(f"n_candidates must be at least 2 (a target and a negative), not {n_candidates}")
    unseen = {str(user): n_items - len(histories[user]) for user in dict.fromkeys(users)}
    short = {user: count for user, count in unseen.items() if count < n_candidates - 1}
    if short:
        raise ValueError(_too_few(short, n_items, n_candidates))
