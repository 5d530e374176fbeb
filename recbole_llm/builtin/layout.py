"""Who writes where in the residual stream of the structured start, and the tokens that it knows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from recbole_llm.builtin.heads import FAST

SLOT = 5.0  # length of a slot's constant part, in tokens' lengths
BOTH = 0.625  # share of a head's dimensions that compare vectors, where it compares pieces as well


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """A random ``[rows, columns]`` matrix with orthonormal rows (``rows <= columns``)."""
    square = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q
    return square[:rows].contiguous()


@dataclass(frozen=True)
class Words:
    """Token ids that the start knows."""

    openers: list[int]  # of a candidate list
    marks: list[int]  # punctuation, and what stands in its place
    stop: int  # the full stop
    colon: int
    yes_no: tuple[int, int]
    digits: list[int]


class Layout:
    """Who writes where in the residual stream; all follows from ``seed``.

    Orthogonal spaces of ``width`` directions: ``token`` (embeddings; at a slot: what it gathered of its title), ``second``
    (a slot's second piece, in a space of its own: in ``token`` it would blur every first piece), ``previous`` (the token
    before; turned, ``before``: the one before that), ``vector`` (a slot's vector; elsewhere: the taste). Single directions: ``slot_axis`` (a slot stands
    here; ``slot`` reads it as length 1), ``flag`` (a candidate list has begun), ``candidate`` (a slot of it), ``word``
    (this token begins one), ``start`` (the first token), ``user`` (the one after it: a slot there is the user's), ``text``
    (any token but the first), ``opening`` and ``following`` (first and second piece of a title), ``mark`` (punctuation),
    ``index`` (how many slots there were so far), ``end`` (a title's end token). ``answer``, a direction of ``token``: what tells
    yes from no.
    """

    def __init__(self, hidden: int, head_dim: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        axes = _orthonormal(hidden, hidden, generator)
        self.slot_axis, self.flag, self.word, self.start, self.opening = axes[:5]
        self.mark, self.candidate, self.following, self.text, self.user = axes[5:10]
        self.slot = self.slot_axis / SLOT
        content = 2 * (head_dim // 2 - 2 - round(FAST * (head_dim // 2)))
        self.index, self.end = axes[-2:].flip(0)
        vector = min(content, 64, (hidden - 12) // 3)  # 64: RecBole's usual width, kept whole where a head can compare it
        token = min(head_dim - 2, (hidden - 12 - vector) * 2 // 5)
        narrow = hidden - 12 - vector - 2 * token  # for second pieces: what is left
        spaces = list(axes[10:-2].split([vector, token, token, narrow]))
        self.answer = spaces[1][0]
        before = _orthonormal(token, token, generator) @ spaces[2]
        inside = functional.pad(_orthonormal(narrow, token - 1, generator).T, (0, 0, 1, 0))  # [token, narrow], not of `answer`
        spaces[3:] = [before, inside @ spaces[3]]
        self.vector, self.token, self.previous, self.before, self.second = (
            functional.pad(space, (0, 0, 0, head_dim - len(space))) for space in spaces
        )  # each [head_dim, hidden]

        def inner(width: int, rows: int = content, skip: int = 0) -> torch.Tensor:
            """``[content, head_dim]``: what a match compares of ``width`` directions, ``skip`` rows left free above."""
            rows = min(rows, width)
            pads = (0, head_dim - width, skip, content - skip - rows)
            return functional.pad(_orthonormal(rows, width, generator), pads)

        self.words_inner, self.context_inner = inner(token), inner(token)
        rows = min(round(BOTH * content), vector)
        turned = math.sqrt(vector / rows) * _orthonormal(vector, vector, generator)
        self.shares = [  # every direction of `vector` is seen by one of the two, those in the middle by both
            functional.pad(part, (0, head_dim - vector, 0, content - rows)) for part in (turned[:rows], turned[-rows:])
        ]
        self.piece = inner(token, content - rows, rows)
        self.alike, self.liked = inner(vector), inner(vector)


def layout(config, seed: int) -> Layout:
    """The layout of a model with this config: pretraining gives the projectors its spaces."""
    return Layout(config.hidden_size, config.head_dim, seed)
