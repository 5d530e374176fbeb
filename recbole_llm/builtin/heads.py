"""One layer's attention projections, written head by head: what :mod:`recbole_llm.builtin.circuits` builds with.

Of a head's dimensions the first rotary pairs turn fast and carry position (``position``), those after ``FAST`` of them stand
almost still over a prompt and carry content (``match``), and the last two are for yes/no signals (``switch``, ``rest``).
"""

from __future__ import annotations

import math

import torch

FAST = 0.29  # share of a head's rotary pairs whose angle moves noticeably within a prompt, at rope_theta 1e10


class Heads:
    """One layer's attention projections, written head by head."""

    def __init__(self, layer, head_dim: int, theta: float):
        self.attention, self.head_dim, self.theta = layer.self_attn, head_dim, theta
        self.unit = self.attention.q_proj.in_features ** -0.5  # a unit vector leaves the norm with length 1 / unit
        self.half = head_dim // 2
        self.switches = self.half - 2  # a still rotary pair for yes/no signals (is a slot, is flagged)
        pairs = torch.arange(round(FAST * self.half), self.switches)
        self.content = torch.cat([pairs, pairs + self.half])

    def _rows(self, head: int) -> slice:
        return slice(head * self.head_dim, (head + 1) * self.head_dim)

    def quiet(self, head: int, factor: float = 0.02) -> None:
        """Shrink the random query and key weights."""
        for projection in (self.attention.q_proj, self.attention.k_proj):
            projection.weight[self._rows(head)] *= factor

    def position(self, head: int, offset: float, strength: float, pairs: range) -> None:
        """Prefer the position ``offset`` back, whatever the content; ``strength`` is the score there."""
        half, first = self.half, self._rows(head).start
        for pair in pairs:
            angle = offset * self.theta ** (-pair / half)
            amplitude = math.sqrt(strength * math.sqrt(self.head_dim) / len(pairs))
            self.attention.k_proj.bias[first + pair] = amplitude
            self.attention.q_proj.bias[first + pair] = amplitude * math.cos(angle)
            self.attention.q_proj.bias[first + pair + half] = -amplitude * math.sin(angle)

    def switch(self, head: int, direction: torch.Tensor, strength: float) -> None:
        """Add ``strength`` to the score of keys whose normed input has a unit component along ``direction``."""
        row = self._rows(head).start + self.switches
        self.attention.q_proj.bias[row] = math.sqrt(self.head_dim)
        self.attention.k_proj.weight[row] += strength * direction

    def rest(
        self, head: int, direction: torch.Tensor, unless: torch.Tensor, strength: float, always: bool = True
    ) -> None:
        """Look at keys along ``direction``, ``always`` or not, less so the more the query lies along ``unless``."""
        row = self._rows(head).start + self.switches + 1
        self.attention.q_proj.bias[row] = math.sqrt(self.head_dim) * always
        self.attention.q_proj.weight[row] -= 4 * math.sqrt(self.head_dim) * self.unit * unless
        self.attention.k_proj.weight[row] += strength * direction

    def match(self, head: int, query: torch.Tensor, key: torch.Tensor, strength: float) -> None:
        """Attend where ``key x_j`` is like ``query x_i``; both are ``[content, hidden]`` maps of the normed input."""
        rows, scale = self.content + self._rows(head).start, math.sqrt(strength)
        self.attention.q_proj.weight[rows] += scale * query
        self.attention.k_proj.weight[rows] += scale * key

    def copy(self, head: int, read: torch.Tensor, write: torch.Tensor, strength: float) -> None:
        """Move ``write read x_j``: ``read`` is ``[head_dim, hidden]``, ``write`` ``[hidden, head_dim]``."""
        rows = self._rows(head)
        self.attention.v_proj.weight[rows] = read
        self.attention.o_proj.weight[:, rows] = write * strength / math.sqrt(read.shape[1] / 3)
