"""A structured start for the Llama weights: attention heads that already look back, copy, gather and match.

Plain Llama weights, only not random ones. Rotary frequencies (a very large ``rope_theta``) leave most pairs of a
head's dimensions almost still over a prompt's length; those carry content, the few fast ones carry position.

    layer 0   heads 0, 1   the previous token, the one before it
              head 2       "a list of candidates has begun": flags what stands after words like "choose"
    layer 1   head 0       induction: the token after an earlier copy of this one and the one before (Olsson et al. 2022)
              head 1       takes this token itself off what will be predicted
              head 2       a bag of the last few tokens, kept in each position: a slot gathers its title
              head 3       the first token after the last slot but one: a slot gathers how its title starts
    layer 2   head 0       taste: the mean of the slots that are not flagged (the history)
    layer 3   heads 0, 1   match: flagged slots similar to the taste; reads out what they gathered
    layer 4   head 0       match once more
              head 1       yes or no: one flagged slot similar to the taste, or not
Scores that must only select (is a slot, is flagged) stay small: the norm of a position varies by a tenth, and a large
score turns that into noise. Everything else starts small and random, and everything is trained afterwards. Measured: LOG.md.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

FAST = 0.29  # share of a head's rotary pairs whose angle moves noticeably within a prompt, at rope_theta 1e10


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """A random ``[rows, columns]`` matrix with orthonormal rows (``rows <= columns``)."""
    square = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q
    return square[:rows].contiguous()


class _Heads:
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

    def quiet(self, head: int, factor: float = 0.1) -> None:
        """Shrink the random query and key weights."""
        for projection in (self.attention.q_proj, self.attention.k_proj):
            projection.weight[self._rows(head)] *= factor

    def position(self, head: int, offset: float, strength: float, pairs: range) -> None:
        """Prefer the position ``offset`` back, whatever the content; ``strength`` is the score there."""
        half, first = self.head_dim // 2, self._rows(head).start
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


class Layout:
    """Who writes where in the residual stream; all follows from ``seed``.

    Orthogonal spaces of ``width`` directions: ``token`` (embeddings; at a slot: what it gathered of its title),
    ``previous`` and ``before`` (the tokens one and two back), ``vector`` (a slot's vector; elsewhere: the taste).
    Single directions: ``slot`` (a slot stands here), ``flag`` (a candidate list has begun), ``word`` (this token begins
    one), ``start`` (the first token), ``after`` (two back stood a slot: a title starts here), ``mark``
    (this is punctuation).
    """

    def __init__(self, hidden: int, head_dim: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        axes = _orthonormal(hidden, hidden, generator)
        self.slot, self.flag, self.word, self.start, self.after, self.mark = axes[:6]
        content = 2 * (head_dim // 2 - 2 - round(FAST * (head_dim // 2)))
        vector = min(content, 64, (hidden - 6) // 3)  # 64: RecBole's usual width, kept whole where a head can compare it
        token = min(head_dim - 1, (hidden - 6 - vector) // 2)
        parts = list(axes[6 : 6 + vector + 2 * token].split([vector, token, token]))
        parts.append(_orthonormal(token, token, generator) @ parts[2])  # "two back" shares a space with "one back", turned
        self.vector, self.token, self.previous, self.before = (
            functional.pad(part, (0, 0, 0, head_dim - len(part))) for part in parts
        )  # each [head_dim, hidden]

        def inner(width: int) -> torch.Tensor:
            rows = min(content, width)
            return functional.pad(_orthonormal(rows, width, generator), (0, head_dim - width, 0, content - rows))

        self.words_inner, self.context_inner = inner(token), inner(token)
        self.inner = [inner(vector) for _ in range(4)]  # each [content, head_dim]: what a match compares


def layout(config, seed: int) -> Layout:
    """The layout of a model with this config: pretraining gives the projectors its ``slot`` direction."""
    return Layout(config.hidden_size, config.head_dim, seed)


def _embeddings(model, plan: Layout, flag_tokens: list[int], marks: list[int]) -> None:
    """Ordinary tokens live in ``token``; words that open a candidate list, and the first token, carry a sign."""
    weight = model.model.embed_tokens.weight
    inside = weight @ plan.token.T @ plan.token
    weight.copy_(inside / inside.norm(dim=1, keepdim=True))
    weight[flag_tokens] += plan.word
    weight[marks] += plan.mark
    weight[model.config.bos_token_id] = plan.start


def _look_back(layer: _Heads, plan: Layout) -> None:
    """Layer 0: the two tokens before, and whether a candidate list has begun."""
    for head, write in ((0, plan.previous), (1, plan.before)):
        read, target = plan.token.clone(), write.T.clone()
        read[-1], target[:, -1] = (plan.slot, plan.after) if head else (plan.mark, 0.6 * plan.after)
        layer.quiet(head)
        layer.position(head, head + 1, 40.0, range(round(0.22 * layer.half)))
        layer.copy(head, read, target, 1.0)
    layer.quiet(2)
    layer.switch(2, plan.word + 0.7 * plan.start, 14 * layer.unit)
    layer.copy(2, torch.outer(_first(plan), plan.word), torch.outer(plan.flag, _first(plan)), 1.0)


def _first(plan: Layout) -> torch.Tensor:
    return functional.one_hot(torch.tensor(0), plan.token.shape[0]).float()


def _induction(layer: _Heads, plan: Layout, end: torch.Tensor) -> None:
    """Layer 1, head 0: the token after an earlier copy of this one, or the end where that is a slot; else it rests.

    Head 1 takes this token itself off what will be predicted.
    """
    read, write = plan.token.clone(), plan.token.T.clone()
    read[-1], write[:, -1] = plan.slot, end
    layer.quiet(0)
    layer.match(0, plan.words_inner @ plan.token, plan.words_inner @ plan.previous, 6.0)
    layer.match(0, plan.context_inner @ plan.previous, plan.context_inner @ plan.before, 2.0)
    layer.switch(0, plan.start, 14 * layer.unit)
    layer.rest(0, plan.start, -plan.mark, 20 * layer.unit, always=False)  # before an answer: nothing to go on with yet
    layer.copy(0, read, write, 4.0)
    layer.quiet(1)
    layer.position(1, 0, 40.0, range(round(0.22 * layer.half)))
    layer.copy(1, plan.token, plan.token.T, -1.6)


def _gather(layer: _Heads, plan: Layout) -> None:
    """Layer 1, heads 2 and 3, at slots only (elsewhere they rest on the first token): the title before the slot."""
    for head in (2, 3):
        layer.quiet(head)
        layer.copy(head, plan.token, plan.token.T, 1.2 if head == 2 else 2.0)
        layer.rest(head, plan.start, plan.slot, 120 * layer.unit)
    layer.position(2, 3.0, 8.0, range(1, round(0.22 * layer.half)))
    layer.switch(2, -plan.slot - plan.mark, 20 * layer.unit)
    layer.position(3, 0.0, 60.0, range(round(0.08 * layer.half), round(0.25 * layer.half)))
    layer.switch(3, plan.after, 40 * layer.unit)


@torch.no_grad()
def install(model, seed: int, flag_tokens: list[int], marks: list[int], yes_no: tuple[int, int]) -> None:
    """Write the heads of the module docstring into a freshly built Llama of at least 5 layers and 4 heads."""
    config = model.config
    plan, theta = layout(config, seed), config.rope_parameters["rope_theta"]
    layers = [_Heads(layer, config.head_dim, theta) for layer in model.model.layers]
    _embeddings(model, plan, flag_tokens, marks)
    answers = model.model.embed_tokens.weight[yes_no[0]] - model.model.embed_tokens.weight[yes_no[1]]
    for layer in model.model.layers:  # what is still random stays in the background
        layer.self_attn.o_proj.weight *= 0.3
        layer.mlp.down_proj.weight *= 0.3
    _look_back(layers[0], plan)
    _induction(layers[1], plan, model.model.embed_tokens.weight[config.eos_token_id])
    _gather(layers[1], plan)
    layers[2].quiet(0)
    layers[2].switch(0, plan.slot - 2 * plan.flag, 18 * layers[2].unit)
    layers[2].copy(0, plan.vector, plan.vector.T, 1.5)
    for layer, head, inner in ((3, 0, plan.inner[0]), (3, 1, plan.inner[1]), (4, 0, plan.inner[2])):
        layers[layer].quiet(head)
        layers[layer].match(head, inner @ plan.vector, inner @ plan.vector, 7.0)
        layers[layer].switch(head, plan.slot + 1.5 * plan.flag, 20 * layers[layer].unit)
        layers[layer].copy(head, plan.token, plan.token.T, 1.6)
    _yes_no(layers[4], plan, answers)
    model.model.norm.weight *= 1.5


def _yes_no(layer: _Heads, plan: Layout, answers: torch.Tensor) -> None:
    """Layer 4, head 1: looks at a flagged slot like the taste (yes), or rests on the first token (no)."""
    layer.quiet(1)
    layer.match(1, plan.inner[3] @ plan.vector, plan.inner[3] @ plan.vector, 7.0)
    layer.switch(1, plan.slot + 1.5 * plan.flag + 0.7 * plan.start, 20 * layer.unit)
    layer.copy(1, torch.outer(_first(plan), plan.slot - 0.25 * plan.start), torch.outer(answers, _first(plan)), 0.5)
