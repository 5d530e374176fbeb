"""Skill validation: the share of generated, held-out questions that are answered exactly.

An answer counts when every token of the title and the end token is the model's first choice given the ones before:
of the whole vocabulary (``trained``, ``fresh``), or of what leads to a listed title (``chosen``). Held-out means other
titles, worlds, users and (``which=copies``) projectors that were never trained.
"""

from __future__ import annotations

import numpy as np
import torch

from recbole_llm.builtin.sequences import SKILLS, Batch
from recbole_llm.builtin.slots import Projectors, embed
from recbole_llm.builtin.tasks import Generator, Plan


def forward(model, projectors: Projectors, batch: Batch, which: int, device: torch.device):
    """Logits of the answers' tokens ``[n, vocab]``, their targets ``[n]``, rivals ``[n, R]`` and answer numbers ``[n]``."""
    ids = torch.as_tensor(batch.ids, device=device)
    slots, answers = torch.as_tensor(batch.slots, device=device), torch.as_tensor(batch.answers, device=device)
    projected = projectors(torch.as_tensor(batch.vectors, device=device), which)
    hidden = model.model(inputs_embeds=embed(model, ids, slots, projected), use_cache=False).last_hidden_state
    where = answers[:, 1:] > 0  # position t predicts token t + 1
    rivals = torch.as_tensor(batch.rivals, device=device)[:, 1:][where]
    return model.lm_head(hidden[:, :-1][where]), ids[:, 1:][where], rivals, answers[:, 1:][where] - 1


def chosen_right(logits, targets, rivals, numbers) -> torch.Tensor:
    """One 0/1 per answer: every token is the best of its rivals. Arguments as :func:`forward` returns them."""
    among = logits.gather(1, rivals.clamp_min(0)).masked_fill(rivals < 0, -torch.inf)
    best = rivals.gather(1, among.argmax(1, keepdim=True))[:, 0]
    return _all_right(best == targets, numbers)


def _all_right(right, numbers) -> torch.Tensor:
    answers = torch.ones(int(numbers.max()) + 1, device=numbers.device)
    return answers.scatter_reduce_(0, numbers, right.float(), reduce="amin")


@torch.no_grad()
def accuracy(model, projectors: Projectors, batch: Batch, which: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Two 0/1 per answer of the batch: right of the whole vocabulary, right of the listed titles."""
    logits, targets, rivals, numbers = forward(model, projectors, batch, which, device)
    exact = _all_right(logits.argmax(-1) == targets, numbers)
    return exact.cpu().numpy(), chosen_right(logits, targets, rivals, numbers).cpu().numpy()


HARD = Plan(items=(20, 20), history=(10, 10), questions=6, title_tokens=12, noise=0.5, margin=0.5, weights={})


def held_out(tokenizer, seed: int = 999) -> Generator:
    """A generator that draws other worlds than pretraining, and titles of its own: one in twenty, mostly of one word, is in both."""
    return Generator(tokenizer, seed=seed, titles_seed=seed)


def _asked(model, projectors, generator: Generator, plan: Plan, which: int, tokens: int, batches: int) -> tuple[float, float]:
    """Shares of right answers: of the whole vocabulary, of the listed titles."""
    device = next(model.parameters()).device
    drawn = [generator.batch(plan, tokens) for _ in range(batches)]
    right = zip(*(accuracy(model, projectors, batch, which, device) for batch in drawn), strict=True)
    exact, chosen = (round(float(np.concatenate(each).mean()), 4) for each in right)
    return exact, chosen


def validate(model, projectors: Projectors, tokenizer, plan: Plan = HARD, tokens: int = 6000, batches: int = 2,
             seed: int = 998) -> dict[str, float]:
    """Share of answers right among the listed titles, by skill: a small :func:`probe` for a run that goes on.

    It asks other questions than the probe, so that what is watched is not what is reported.
    """
    generator = held_out(tokenizer, seed)
    return {skill: _asked(model, projectors, generator, plan.only(skill), 0, tokens, batches)[1] for skill in SKILLS}


def probe(model, projectors: Projectors, tokenizer, plan: Plan = HARD, skills=SKILLS, tokens: int = 6000,
          batches: int = 8, seed: int = 999) -> dict[str, dict[str, float]]:
    """Accuracy by skill, with a trained projector (``trained``, ``chosen``) and with fresh random ones (``fresh``)."""
    generator = held_out(tokenizer, seed)
    table: dict[str, dict[str, float]] = {}
    with torch.random.fork_rng():  # a run that is probed half way draws the same projectors afterwards
        torch.manual_seed(seed)
        for skill in skills:
            trained, chosen = _asked(model, projectors, generator, plan.only(skill), 0, tokens, batches)
            fresh, _ = _asked(model, projectors, generator, plan.only(skill), projectors.copies, tokens, batches)
            table[skill] = {"trained": trained, "chosen": chosen, "fresh": fresh}
    return table
