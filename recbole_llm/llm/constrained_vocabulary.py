"""What a candidate's next token competes with when decoding is constrained to the candidate set.

Take the candidates of a row as a tree of tokens: after the first t tokens of a candidate, its *rivals* are the tokens
with which some candidate that begins alike goes on, its own included. A likelihood over rivals, instead of the whole
vocabulary, is that of decoding which can only name candidates: it sums to one over the set, and tokens that leave no
choice cost nothing, those after a candidate's last choice need not even be fed (`until_last_choice`). Titles that are the
same, token by token, share every node and so have the same score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Among(NamedTuple):
    """Labels and their rivals as places in ``tokens``, the few whose logits are needed.

    Attributes:
        labels: [..., n].
        ids, mask: [..., n, C].
        tokens: [U] ids of the vocabulary, each once.
    """

    labels: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, labels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> Among:
        """From ids of the vocabulary: labels [..., n], rivals [..., n, C]."""
        tokens, places = torch.cat([labels.flatten(), ids.flatten()]).unique(return_inverse=True)
        return cls(places[: labels.numel()].view(labels.shape), places[labels.numel() :].view(ids.shape), mask, tokens)

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Among:
        """The same change of labels, ids and mask: a selection along their common dimensions."""
        return Among(change(self.labels), change(self.ids), change(self.mask), self.tokens)

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """:func:`log_probs` of the labels under logits [..., n, U] (or [..., 1, U])."""
        return log_probs(logits, self.labels, self.ids, self.mask)


def rivals(branch_ids: torch.Tensor, branch_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rivals of every token of every candidate.

    Args:
        branch_ids: [B, C, T] candidate tokens with the end token, right-padded.
        branch_mask: [B, C, T] True at real tokens.

    Returns:
        ``(ids [B, C, T, C], mask [B, C, T, C])``: where ``mask[b, i, t, j]``, token ``t`` of candidate ``j`` may follow
        the first ``t`` tokens of candidate ``i``. Each token is counted once, at the first candidate that has it.
    """
    mask = branch_mask.bool()
    same = (branch_ids[:, :, None] == branch_ids[:, None]) & mask[:, :, None] & mask[:, None]  # [B, i, j, T]
    alike = same.cumprod(-1, dtype=torch.uint8).bool()  # the first t + 1 tokens are the same
    before = torch.cat([torch.ones_like(alike[..., :1]), alike[..., :-1]], dim=-1)  # the first t are
    n = branch_ids.shape[1]
    earlier = torch.ones(n, n, dtype=torch.bool, device=mask.device).tril(-1)  # [j, j'] with j' before j
    repeated = (alike & earlier[None, :, :, None]).any(2)  # [B, j, T]: an earlier candidate has j's first t + 1 tokens
    counted = before & (mask & ~repeated)[:, None]  # [B, i, j, T]
    ids = branch_ids.masked_fill(~mask, 0).transpose(1, 2)[:, None].expand(-1, n, -1, -1)  # [B, i, T, j]
    return ids, counted.transpose(2, 3) & mask[..., None]


def until_last_choice(rival_mask: torch.Tensor) -> torch.Tensor:
    """[..., T] True up to a candidate's last token with two or more rivals, ``rival_mask`` [..., T, C]; at least at the first.

    The other tokens have log-probability 0, so that scores are the same without them.
    """
    choices = rival_mask.sum(-1) > 1
    kept = choices.flip(-1).cummax(-1).values.flip(-1)
    kept[..., 0] = True
    return kept


def log_probs(logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 log-probabilities [..., n] of ``labels`` [..., n] among their rivals ``ids, mask`` [..., n, C].

    ``logits`` [..., n, V] may be [..., 1, V] where all labels follow the same tokens. A label without rivals (padding)
    has log-probability 0.
    """
    if logits.shape[-2] == 1:
        logits = logits.expand(*labels.shape, -1)
    among = logits.gather(-1, ids).float().masked_fill(~mask, torch.finfo(torch.float32).min)
    found = logits.gather(-1, labels[..., None])[..., 0].float() - among.logsumexp(-1)
    return found.masked_fill(~mask.any(-1), 0.0)
