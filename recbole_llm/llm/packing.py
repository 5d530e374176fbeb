"""Prompts that begin alike, in one sequence: the forward pass of what they share is paid once.

Rows of a *group* rank one candidate list (`users_per_list`), so that their prompts are the same up to the history or the
user token. A group becomes one sequence: the shared tokens, then each row's own tokens (the rest of its prompt and its
answer) as a branch that sees the shared ones and itself, at the positions that it would have alone. Per row this gives the
logits of separate sequences, to rounding, where no gate differs between a group's rows (:meth:`Packing.gate`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recbole_llm.adapter import Gate

LIST_FIELD, SHARED_FIELD = "list_number", "n_shared"


@dataclass(frozen=True)
class Packing:
    """Where the tokens of B left-padded rows of width W go in G sequences of length S.

    Attributes:
        source: ``[G, S]`` the token b * W + w of the rows that stands there; 0 in the padding.
        positions: ``[G, S]`` its place in its own row.
        owner: ``[G, S]`` its row, -1 where the group shares it, -2 in the padding.
        place: ``[B, W]`` where a row's token stands in its sequence.
        group: ``[B]`` the sequence of each row.
    """

    source: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor
    place: torch.Tensor
    group: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor, group: torch.Tensor, shared: torch.Tensor) -> Packing:
        """From ``mask [B, W]`` True at tokens, the rows' groups ``[B]`` and numbers of shared tokens ``[B]``, equal in a group."""
        mask, group = mask.bool(), group.unique(return_inverse=True)[1]
        width, step = mask.shape[1], mask.long().cumsum(1) - 1  # [B, W]: place in the row
        own = mask.sum(1) - shared  # [B]
        same = group[:, None] == group  # [B, B]
        earlier = same & torch.ones_like(same).tril(-1)  # rows of the group that stand before
        start = shared + (earlier * own).sum(1)  # [B]: where a row's own tokens begin
        common = step < shared[:, None]
        place = torch.where(common, step, start[:, None] + step - shared[:, None]).clamp_min(0)
        written = mask & (~common | ~earlier.any(1, keepdim=True))  # shared tokens are those of the group's first row
        row, column = written.nonzero(as_tuple=True)
        size = int(group.max()) + 1, int((start + own).max())
        at = group[row] * size[1] + place[row, column]
        empty = torch.zeros(size[0] * size[1], dtype=torch.long, device=mask.device)
        source = empty.index_put((at,), row * width + column).view(size)
        positions = empty.index_put((at,), step[row, column]).view(size)
        owner = (empty - 2).index_put((at,), torch.where(common[row, column], -1, row)).view(size)
        return cls(source, positions, owner, place, group)

    def embeddings(self, rows: torch.Tensor) -> torch.Tensor:
        """``[G, S, d]`` of the rows' embeddings ``[B, W, d]``."""
        return rows.flatten(0, 1)[self.source.flatten()].view(*self.source.shape, -1)

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """``[G, 1, S, S]`` additive: a token sees shared and its own row's tokens that do not come later; padding sees itself."""
        owner, step = self.owner, self.positions
        seen = (owner[:, None, :] == -1) | (owner[:, None, :] == owner[:, :, None])  # [G, query, key]
        seen &= (step[:, None, :] <= step[:, :, None]) & (owner[:, :, None] > -2)
        seen |= torch.eye(owner.shape[1], dtype=torch.bool, device=owner.device)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]

    def gate(self, weights: torch.Tensor) -> Gate:
        """A gate for each token of ``weights [B, K]``: its row's, and for shared tokens the mean of the group's rows."""
        members = torch.nn.functional.one_hot(self.group).to(weights).T  # [G, B]
        mean = members @ weights / members.sum(1, keepdim=True)  # [G, K]
        own = weights[self.owner.clamp_min(0)]  # [G, S, K]
        return Gate.per_token(torch.where((self.owner >= 0).unsqueeze(-1), own, mean.unsqueeze(1)))

    def gather(self, packed: torch.Tensor, columns: slice) -> torch.Tensor:
        """``[B, n, ...]`` of ``packed [G, S, ...]`` at these columns of the rows."""
        return packed[self.group[:, None], self.place[:, columns]]


def shared_tokens(rows: list[tuple[list[int], list[int]]]) -> int:
    """How many tokens (ids, slots' items) of a group's prompts are the same from the beginning; a user's slot is its own."""
    first, others = rows[0], rows[1:]
    for i, pair in enumerate(zip(*first, strict=True)):
        if pair[1] < 0 or any(i >= len(ids) or (ids[i], items[i]) != pair for ids, items in others):
            return i
    return len(first[0])


def fed_lengths(rows: torch.Tensor, group: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """``[G]`` tokens of each group's sequence, from the rows' lengths, groups and numbers of shared tokens, ``[B]`` each."""
    group = group.unique(return_inverse=True)[1]
    common = shared.new_zeros(int(group.max()) + 1).scatter(0, group, shared)
    return common.index_add(0, group, rows - shared)
