"""Projector alignment (ours, not in the papers): teaches projectors which vectors go together, before the LLM is fine-tuned.

The built-in LLM chooses by inner products of projected vectors, whatever is behind them: items against a *taste*, the decayed
mean of the history's items with a share of the user's vector. What it compares is a bilinear form, and a bilinear form
learns from every training row in seconds where the LLM sees a thousand prompts in minutes:

    s(row, c) = <A' t + U' u, A' v_c>,    t ~ sum_k .6^k v_k (the latest item: k = 0),    |t| = |u| = 1

with v the centred item vectors and u the user's vector (with a user token). One A serves histories and candidates, as one
projector does. A and U are then multiplied into the first layers of the projectors; `projector_lr_scale: 0` leaves them so.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger

import torch
from recbole.utils import set_color
from torch.nn import functional

from recbole_llm.data.dataloader import PromptRows
from recbole_llm.data.rows import candidate_sets
from recbole_llm.data.sample import latest_rows

DECAY = 0.6  # of an item, by the next one's weight, and
USER_SHARE = 0.65  # of the user's vector: as the built-in LLM mixes them
# The start is this many times as sharp as explains the rows best. A softer one grows first along what all vectors have most
# of, which lowers the loss and worsens ranks (builtin/LOG.md, below cause 21).
SHARPER = 2.0
BATCH_SIZE, LEARNING_RATE = 8, 5e-4  # Adam's, for an entry of the identity


@dataclass(frozen=True)
class Choices:
    """Training rows as the bilinear form sees them.

    Attributes:
        tastes: ``[n, d]``, of length 1.
        users: ``[n, d]``, of length 1, or None without a user token.
        candidates: ``[n, C]`` rows of the item table. targets: ``[n]`` places in them.
    """

    tastes: torch.Tensor
    users: torch.Tensor | None
    candidates: torch.Tensor
    targets: torch.Tensor

    def loss(self, vectors: torch.Tensor, maps: list[torch.Tensor], rows=slice(None)) -> torch.Tensor:
        """Mean cross entropy of ``rows``, for the table ``vectors`` [item_num, d] and ``maps``: A and, with users, U."""
        taste = self.tastes[rows] @ maps[0]
        if self.users is not None:
            taste = taste + self.users[rows] @ maps[1]
        scores = torch.einsum("nd,ncd->nc", taste, vectors[self.candidates[rows]] @ maps[0])
        return functional.cross_entropy(scores, self.targets[rows])


def alignment_maps(config, dataset, crm) -> list[torch.Tensor]:
    """A ``[d, d]``, to multiply item vectors with from the right, and, with `user_token`, U for user vectors.

    Learnt from each user's `projector_alignment` latest training rows, once through, with the candidates of fine-tuning's
    first epoch: a function of configuration and CRM. What they map keeps its mean square.

    Raises:
        ValueError: with `user_token`, the CRM's user vectors are not as wide as its item vectors.
    """
    began = time.perf_counter()
    vectors = crm.item_vectors.cpu()
    vectors = vectors - vectors[1:].mean(0)
    choices = gather(config, dataset, crm, vectors)
    with _one_thread():
        maps = fit(choices, vectors, config["seed"])
    took = f"{len(choices.targets)} training rows in {time.perf_counter() - began:.1f} s"
    getLogger().info(set_color("Projector", "pink") + f": aligned with {took}")
    mapped = [vectors[1:]] if choices.users is None else [vectors[1:], choices.users]
    return [matrix * (v.norm() / (v @ matrix).norm()) for matrix, v in zip(maps, mapped, strict=True)]


@contextmanager
def _one_thread():
    """Batches of a few rows are too small to share: two threads on two busy cores take ten times as long as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gather(config, dataset, crm, vectors: torch.Tensor) -> Choices:
    """The rows to learn from; ``vectors`` [item_num, d] are centred."""
    rows = PromptRows(config, dataset)
    owners = dataset.inter_feat[dataset.uid_field].numpy()
    latest = latest_rows(owners, rows.times, config["projector_alignment"])
    candidates, positions = rows.training_candidates(latest, candidate_sets(config), epoch=0)
    tastes = torch.stack([_taste(vectors[rows.history(row)]) for row in latest.tolist()])
    users = None
    if config["user_token"]:
        parts = torch.from_numpy(latest).split(512)
        users = functional.normalize(torch.cat([crm.user_vectors(dataset.inter_feat[part]).cpu() for part in parts]))
        _check_width(users, vectors, crm.name)
    return Choices(functional.normalize(tastes), users, torch.from_numpy(candidates), torch.from_numpy(positions).long())


def _taste(shown: torch.Tensor) -> torch.Tensor:
    """Decayed sum ``[d]`` of a history's vectors ``[k, d]``, oldest first."""
    return DECAY ** torch.arange(len(shown) - 1, -1, -1, dtype=torch.float32) @ shown


def _check_width(users: torch.Tensor, vectors: torch.Tensor, name: str) -> None:
    if users.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"projector_alignment: with user_token the CRM's user vectors must be as wide as its item vectors, but {name} has "
            f"{users.shape[1]} and {vectors.shape[1]} numbers; set projector_alignment to null or choose another crm_model"
        )


def fit(choices: Choices, vectors: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """The maps that cross entropy finds in one pass, from multiples of the identity."""
    maps = [matrix * sharpness(choices, vectors) ** 0.5 for matrix in _identities(choices, vectors)]
    size = maps[0][0, 0].item()
    optimizer = torch.optim.Adam([matrix.requires_grad_() for matrix in maps], lr=LEARNING_RATE * size)
    order = torch.randperm(len(choices.targets), generator=torch.Generator().manual_seed(seed))
    batches = order.split(BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for rows in batches:
        optimizer.zero_grad()
        choices.loss(vectors, maps, rows).backward()
        optimizer.step()
        schedule.step()
    return [matrix.detach() for matrix in maps]


def sharpness(choices: Choices, vectors: torch.Tensor) -> float:
    """What multiplies scores at the start: `SHARPER` times what explains up to 4,096 rows best, on a grid of factor 1.4."""
    identities, rows = _identities(choices, vectors), slice(4096)
    unit = 1 / vectors[1:].norm(dim=1).mean().item()  # with it scores are at most about 1
    grid = [unit * 2 ** (k / 2) for k in range(-4, 21)]
    return SHARPER * min(grid, key=lambda sharp: choices.loss(vectors, [m * sharp**0.5 for m in identities], rows).item())


def _identities(choices: Choices, vectors: torch.Tensor) -> list[torch.Tensor]:
    identity = torch.eye(vectors.shape[1])
    return [identity] if choices.users is None else [identity, USER_SHARE * identity]
