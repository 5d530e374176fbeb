"""Skill validation: the share of generated, held-out questions that are answered exactly.

An answer counts when every token of the title and the end token is the model's first choice given the ones before.
Held-out means other titles, worlds, users and (``which=copies``) projectors that were never trained.
"""

from __future__ import annotations

import numpy as np
import torch

from recbole_llm.builtin.sequences import SKILLS, Batch
from recbole_llm.builtin.slots import Projectors, embed
from recbole_llm.builtin.tasks import Generator, Plan


def forward(model, projectors: Projectors, batch: Batch, which: int, device: torch.device):
    """Logits of the answers' tokens ``[n, vocab]``, their targets ``[n]`` and answer numbers ``[n]``."""
    ids = torch.as_tensor(batch.ids, device=device)
    slots, answers = torch.as_tensor(batch.slots, device=device), torch.as_tensor(batch.answers, device=device)
    projected = projectors(torch.as_tensor(batch.vectors, device=device), which)
    hidden = model.model(inputs_embeds=embed(model, ids, slots, projected), use_cache=False).last_hidden_state
    where = answers[:, 1:] > 0  # position t predicts token t + 1
    return model.lm_head(hidden[:, :-1][where]), ids[:, 1:][where], answers[:, 1:][where] - 1


@torch.no_grad()
def accuracy(model, projectors: Projectors, batch: Batch, which: int, device: torch.device) -> np.ndarray:
    """One 0/1 per answer of the batch."""
    logits, targets, numbers = forward(model, projectors, batch, which, device)
    right = torch.ones(len(batch.skills), device=device)
    right.scatter_reduce_(0, numbers, (logits.argmax(-1) == targets).float(), reduce="amin")
    return right.cpu().numpy()


HARD = Plan(items=(20, 20), history=(10, 10), questions=6, title_tokens=12, noise=0.5, margin=0.5, weights={})


def held_out(tokenizer, seed: int = 999) -> Generator:
    """A generator whose titles and worlds pretraining does not draw."""
    return Generator(tokenizer, seed=seed, titles_seed=seed)


def probe(model, projectors: Projectors, tokenizer, plan: Plan = HARD, skills=SKILLS, tokens: int = 6000,
          batches: int = 2, seed: int = 999) -> dict[str, dict[str, float]]:
    """Accuracy by skill, with a trained projector (``trained``) and with fresh random ones (``fresh``)."""
    generator, device = held_out(tokenizer, seed), next(model.parameters()).device
    table: dict[str, dict[str, float]] = {}
    with torch.random.fork_rng():  # a run that is probed half way draws the same projectors afterwards
        torch.manual_seed(seed)
        for skill in skills:
            table[skill] = {}
            for name, which in (("trained", 0), ("fresh", projectors.copies)):
                drawn = [generator.batch(plan.only(skill), tokens) for _ in range(batches)]
                scores = np.concatenate([accuracy(model, projectors, batch, which, device) for batch in drawn])
                table[skill][name] = round(float(scores.mean()), 4)
    return table
