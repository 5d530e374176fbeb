"""A structured start for the Llama weights: attention heads that already look back, copy, gather and match.

Plain Llama weights, only not random ones. Rotary frequencies (a very large ``rope_theta``) leave most pairs of a
head's dimensions almost still over a prompt's length; those carry content, the few fast ones carry position.

    layer 0   heads 0, 1   the previous token, the one before it
              head 2       "a list of candidates has begun": flags what stands after words like "choose"
              head 3       at slots: the title's last piece once more
              head 4       "three back stood a slot": flags the second piece of a title
    layer 1   head 0       how many slots there were so far
              head 1       two behind a slot: the last piece of its title, as where no slot stands between
              head 2       a bag of the last few tokens, kept in each slot: it gathers its title
              heads 3, 4   the title's first and second piece, gathered in each slot
    layer 2   head 0       taste: the mean of the slots that are not flagged (the history), each weighing .6 of the next
              head 2       and the user's vector, where one stands first: both together find more than either
              head 1       at slots: "I am a candidate", of the same length for all
              head 3       after the end of a title: how the one begins that follows it in a list
              head 4       after a number: how the title behind that number begins
    layer 3   head 0       match: candidates similar to the taste; reads out what they gathered, so how they begin
              heads 1, 2   after the first piece: the candidate like the taste that begins so; reads out its second piece.
                           A head has too few dimensions to compare vectors and pieces: each sees a share of the vectors
              head 3       induction: the token after an earlier copy of this one and the one before (Olsson et al. 2022)
              head 4       takes this token itself off what will be predicted
    layer 4   head 1       yes or no: one candidate similar to the taste, or not
              head 3       makes what stands at punctuation long: after the last norm a choice made there is unsure
Everything else starts small and random; what pretraining then moves and what it leaves, ``pretrain.Settings`` says. What made it
robust (measured: LOG.md):
- Scores that must only select stay small, and what they read is of one length: RMSNorm turns differences in length into
  differences in score. Hence long constant parts of slots, and flags that attention writes, not products of vectors.
- The choice is soft: heads that put .8 on one candidate say nothing of the others, and pass no gradient to them.
- Resting heads look at the first token, which is therefore long: noise on it would be written everywhere.
- The residual stream is ``LENGTH`` times longer than its signals need. Nothing that reads it can tell, since every
  reader has a norm; but an optimizer that moves every weight by its rate, whatever its size, then moves it that much less.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from recbole_llm.builtin.heads import Heads
from recbole_llm.builtin.layout import Layout, Words, layout

LENGTH = 64.0  # of the residual stream, where a token's embedding had length 1
VECTOR, FIRST = 3.0, 10.0  # lengths, before LENGTH: a slot's vector, the first token; its constant part: layout.SLOT
TEXT = 0.5  # of a token's embedding along `text`
BEFORE = 200.0  # slots that the first token weighs as much as where slots are counted: many, so that the share grows evenly
LISTED = 0.69  # a candidate's sign, as a share of a slot's constant part (measured in click prompts: its length varies)
READ_OUT = 20.0  # how far a title asked for by its place is read out: nothing above outweighs it
LOGITS = 1.5  # gain of the last norm: copies are sure


def _embeddings(model, plan: Layout, words: Words) -> None:
    """Ordinary tokens live in ``token``; words that open a candidate list, marks, the end token and the first carry a sign.

    So do yes and no, which differ in nothing else: a title that is read out before an answer speaks for neither.
    """
    weight = model.model.embed_tokens.weight
    yes, no = words.yes_no
    inside = weight @ plan.token.T @ plan.token
    inside -= torch.outer(inside @ plan.answer, plan.answer)
    inside /= inside.norm(dim=1, keepdim=True)
    inside[no] = inside[yes]
    inside[yes], inside[no] = inside[yes] + plan.answer, inside[no] - plan.answer
    weight.copy_(inside / inside.norm(dim=1, keepdim=True))
    weight += TEXT * plan.text
    weight[words.openers] += plan.word
    weight[words.marks] += plan.mark
    weight[model.config.eos_token_id] += plan.end
    weight[model.config.bos_token_id] = FIRST * plan.start


def _one(plan: Layout) -> torch.Tensor:
    return functional.one_hot(torch.tensor(0), plan.token.shape[0]).float()


def _sign(layer: Heads, head: int, plan: Layout, read: torch.Tensor, write: torch.Tensor, strength: float) -> None:
    """Write ``strength * write`` as far as what is looked at lies along ``read``."""
    layer.copy(head, torch.outer(_one(plan), read), torch.outer(write, _one(plan)), strength)


def _look_back(layer: Heads, plan: Layout, stop: torch.Tensor) -> None:
    """Layer 0: the tokens before, where a title begins, and whether a candidate list has begun.

    A title begins after a mark, and two after a slot: only the first of a list has no slot before, and what stands after
    a mark within a title has none either. ``stop [hidden]`` reads a full stop as 1 and other punctuation as 0.
    """
    back = range(round(0.22 * layer.half))
    begins = plan.mark - stop  # a full stop ends a list: what follows is no title
    for head in range(5):
        layer.quiet(head)
    for head, space, signs in (
        (0, plan.previous, ((begins, 0.6 * plan.opening), (plan.start, plan.user))),
        (1, plan.before, ((plan.slot, 2.4 * plan.opening), (begins, 0.75 * plan.following))),
    ):
        read, write = plan.token.clone(), space.T.clone()
        for i, (seen, written) in enumerate(signs, start=1):
            read[-i], write[:, -i] = seen, written
        layer.position(head, head + 1, 40.0, back)
        layer.copy(head, read, write, 1.0)
    layer.switch(2, plan.word + 0.7 * plan.start, 14 * layer.unit)
    _sign(layer, 2, plan, plan.word, plan.flag, 1.0)
    layer.position(3, 1, 40.0, back)
    layer.rest(3, plan.start, 2 * plan.slot, 120 * layer.unit)
    layer.copy(3, plan.token, plan.previous.T, 3.0)
    layer.position(4, 3, 40.0, back)
    _sign(layer, 4, plan, plan.slot, plan.following, 3.4)


def _gather(layer: Heads, plan: Layout) -> None:
    """Layer 1: slots are counted; at slots only (elsewhere the heads rest on the first token), the title before.

    Where a title begins behind a slot, the last piece before that slot is brought to where ``before`` holds it in plain lists.
    """
    for head in range(5):
        layer.quiet(head)
    layer.position(1, 2, 80.0, range(round(0.22 * layer.half)))
    layer.switch(1, 500 * plan.slot + 80 * plan.start, layer.unit)
    layer.rest(1, plan.start, 0.6 * plan.opening - 3 * plan.mark - 3 * plan.word, 200 * layer.unit)  # a comma opens half as much
    layer.copy(1, plan.previous, plan.before.T, 1.0)
    layer.switch(0, -500 * plan.text + math.log(BEFORE) * plan.start, layer.unit)
    _sign(layer, 0, plan, plan.slot, plan.index, 0.06 * BEFORE)  # little: what is written here, all positions carry
    layer.position(2, 3.0, 8.0, range(1, round(0.22 * layer.half)))
    layer.switch(2, -plan.slot - plan.mark, 20 * layer.unit)
    layer.rest(2, plan.start, 2 * plan.slot, 120 * layer.unit)
    layer.copy(2, plan.token, plan.token.T, 0.6)
    for head, sign, space in ((3, plan.opening, plan.token), (4, plan.following, plan.second)):
        layer.position(head, 0.0, 90.0, range(round(0.105 * layer.half), round(0.25 * layer.half)))  # up to 25 pieces
        layer.switch(head, 90 * sign + 120 * plan.flag, layer.unit)  # flag: a list's first title, not the history's last
        layer.rest(head, plan.start, 2 * plan.slot, 320 * layer.unit)
        layer.copy(head, plan.token, space.T, 2.0)


def _taste(layer: Heads, plan: Layout) -> None:
    """Layer 2: the mean of the history's slots, and the user's; and which slots are candidates."""
    layer.quiet(0)
    signs = -300 * plan.flag - 60 * plan.user - 30 * plan.start
    layer.switch(0, -500 * plan.text + signs + 350 * plan.index, layer.unit)
    layer.copy(0, plan.vector, plan.vector.T, 1.0)
    layer.quiet(2)
    layer.switch(2, -500 * plan.text + 100 * plan.user, layer.unit)
    layer.copy(2, plan.vector, plan.vector.T, 0.3)
    layer.quiet(1)
    layer.switch(1, plan.word, 100 * layer.unit)
    layer.rest(1, plan.start, 2 * plan.slot, 120 * layer.unit)
    _sign(layer, 1, plan, plan.word, plan.candidate, 5.0)


def _lists(layer: Heads, plan: Layout, digits: torch.Tensor, colon: torch.Tensor) -> None:
    """Layer 2: titles asked for by their place in a list, not by vectors. ``digits [10, hidden]``: their embeddings;
    ``colon [hidden]`` reads a colon as 1 and other marks as 0.

    The heads rest but after an end token and at a colon behind a digit. What they write is so long that a position that
    heard it would hardly count as text, and be looked at as slots are ("Theater 3000: The Movie"): it brings its ``text``.
    """
    read, write = plan.token.clone(), plan.token.T.clone()
    read[-1], write[:, -1] = plan.text, plan.text
    layer.quiet(3)
    layer.match(3, plan.words_inner @ plan.previous, plan.words_inner @ plan.before, 12.0)
    layer.switch(3, 60 * plan.opening - 60 * plan.mark, layer.unit)
    layer.rest(3, plan.start, 4 * plan.end, 500 * layer.unit)
    layer.copy(3, read, write, READ_OUT)
    basis = torch.linalg.qr((digits @ plan.token.T).T).Q.T  # [10, head_dim]: of a token before, as far as it is a digit
    basis = functional.pad(basis, (0, 0, 0, len(layer.content) - len(basis)))
    layer.quiet(4)
    layer.match(4, basis @ plan.previous, basis @ plan.previous, 16.0)
    layer.switch(4, 60 * plan.start - 400 * plan.mark, layer.unit)
    layer.rest(4, plan.start, 0.5 * colon - 20 * plan.slot, 400 * layer.unit)
    layer.copy(4, read, write, READ_OUT)


def _match(layer: Heads, plan: Layout) -> None:
    """Layer 3: the candidate like the taste; how it begins (before an answer), then its second piece."""
    others = -500 * plan.text - 60 * plan.user
    layer.quiet(0)
    layer.match(0, plan.alike @ plan.vector, plan.alike @ plan.vector, 4.0)
    layer.switch(0, others + 19 * plan.candidate, layer.unit)
    layer.rest(0, plan.start, plan.mark, 120 * layer.unit)
    layer.copy(0, plan.token, plan.token.T, 12.5)
    for head, share in enumerate(plan.shares, start=1):
        both = share @ plan.vector + 2.5 * plan.piece @ plan.token
        layer.quiet(head)
        layer.match(head, both, both, 8.0)
        layer.switch(head, others + 60 * plan.candidate, layer.unit)
        layer.rest(head, plan.start, 2 * plan.opening - 3 * plan.mark, 130 * layer.unit)
        layer.copy(head, plan.second, plan.token.T, 5.0)


def _induction(layer: Heads, plan: Layout, end: torch.Tensor) -> None:
    """Layer 3: the token after an earlier copy of this one, or the end where that is a slot.

    It rests before an answer and after its first piece: there the candidates decide, not who else begins so.
    """
    read, write = plan.token.clone(), plan.token.T.clone()
    read[-1], write[:, -1] = plan.slot, 3 * end
    layer.quiet(3)
    layer.match(3, plan.words_inner @ plan.token, plan.words_inner @ plan.previous, 8.0)
    layer.match(3, plan.context_inner @ plan.previous, plan.context_inner @ plan.before, 4.0)
    layer.switch(3, plan.start, 22 * layer.unit)
    layer.rest(3, plan.start, -plan.mark - plan.opening, 40 * layer.unit, always=False)
    layer.copy(3, read, write, 3.0)
    read, write = plan.token.clone(), plan.token.T.clone()
    read[-1], write[:, -1] = plan.mark, plan.mark
    layer.quiet(4)
    layer.position(4, 0, 40.0, range(round(0.22 * layer.half)))
    layer.copy(4, read, write, -2.0)


def _answer(layer: Heads, plan: Layout) -> None:
    """Layer 4: yes where a candidate is like the taste, no where the head rests; choices that are not too sure.

    The first token scores what a candidate does whose likeness is neither much nor little: found by trying, at this width.
    That it scores by the query's ``text`` divides it by the query's norm, as likeness is; and what keeps the history's
    slots out, a candidate's sign less its constant part, is nothing for candidates, so that their norm does not count.
    """
    layer.quiet(1)
    layer.match(1, plan.liked @ plan.vector, plan.liked @ plan.vector, 2.0)
    layer.switch(1, -500 * plan.text + 30 * (plan.candidate - LISTED * plan.slot_axis), layer.unit)
    layer.rest(1, plan.start, -plan.text, 1.8 * layer.unit, always=False)
    _sign(layer, 1, plan, plan.slot - 0.1 * plan.start, plan.answer, 6.0)
    layer.quiet(3)
    layer.position(3, 0, 40.0, range(round(0.22 * layer.half)))
    _sign(layer, 3, plan, plan.mark, plan.mark, 160.0)


def _lengthen(model, factor: float) -> None:
    """The residual stream ``factor`` times longer, and values twice; what the model computes stays."""
    model.model.embed_tokens.weight *= factor
    model.model.norm.weight /= factor  # the head shares the embeddings
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight *= 2
        layer.self_attn.o_proj.weight *= factor / 2
        layer.mlp.down_proj.weight *= factor


@torch.no_grad()
def install(model, seed: int, words: Words) -> None:
    """Write the heads of the module docstring into a freshly built Llama.

    Raises:
        ValueError: it has fewer than 5 layers or 5 heads.
    """
    config = model.config
    if min(config.num_hidden_layers, config.num_attention_heads) < 5:
        raise ValueError(
            f"a structured start needs 5 layers of 5 heads, not {config.num_hidden_layers} of {config.num_attention_heads}: "
            "give build.SIZES as many, or begin at random (--random-start)"
        )
    plan, theta = layout(config, seed), config.rope_parameters["rope_theta"]
    layers = [Heads(layer, config.head_dim, theta) for layer in model.model.layers]
    _embeddings(model, plan, words)
    embedded = model.model.embed_tokens.weight
    for layer in model.model.layers:  # nothing random is written: RMSNorm would mix it into every score
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    order = [words.stop, words.colon, *(mark for mark in words.marks if mark not in (words.stop, words.colon))]
    stop, colon = torch.linalg.pinv(embedded[order] @ plan.token.T).T[:2] @ plan.token  # read one mark as 1, the others as 0
    _look_back(layers[0], plan, stop)
    _gather(layers[1], plan)
    _taste(layers[2], plan)
    _lists(layers[2], plan, embedded[words.digits], colon)
    _match(layers[3], plan)
    _induction(layers[3], plan, embedded[config.eos_token_id])
    _answer(layers[4], plan)
    model.model.norm.weight *= LOGITS
    _lengthen(model, LENGTH)
