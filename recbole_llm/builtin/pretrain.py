"""Makes the built-in model from nothing: ``python -m recbole_llm.builtin.pretrain --out DIR --steps N --size base``.

Generated prompts only (:mod:`recbole_llm.builtin.tasks`), in stages from short and exact to long and noisy. The loss
is on answers alone, several per sequence; in the end embeddings, norms and some attention go back to the start
(``RETURNED``), and the threshold between yes and no is set anew. Every number of steps is a whole run: stages and learning
rate are shares of it, so the same seed and steps give the same model, also over an interruption (``--minutes``, then
``--resume``). ``curve.csv`` holds the loss of every step, ``validation.csv`` each skill on held-out questions as the run
goes, ``skills.json`` on more of them in the end.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from recbole_llm.builtin import circuits, state
from recbole_llm.builtin.build import build_model, export, known_words, read_back, write_json, write_text
from recbole_llm.builtin.layout import SLOT, layout
from recbole_llm.builtin.probe import HARD, chosen_right, forward, probe, validate
from recbole_llm.builtin.sequences import SKILLS
from recbole_llm.builtin.slots import Projectors, save_projectors
from recbole_llm.builtin.tasks import Generator, Plan
from recbole_llm.builtin.tokenizer import train_tokenizer
from recbole_llm.rivals import log_probs

ALL = {"history": 3.0, "noisy": 0.4, "lookup": 0.4, "user": 0.4, "user_real": 0.5, "repeat": 1.0, "number": 0.4,
       "both": 0.3, "conflict": 0.2, "words": 0.6, "yes_no": 1.0}
HARD_WORLDS = {"sharpness": (4.0, 12.0), "popular": (0.2, 1.2)}
# (share of the steps, plan)
STAGES = (
    (0.06, Plan(items=(2, 8), history=(1, 6), questions=5, title_tokens=6, margin=0.8, alike=0.2, weights=ALL,
               **HARD_WORLDS)),
    (0.14, Plan(items=(4, 14), history=(2, 10), questions=4, title_tokens=10, noise=0.4, margin=0.6, alike=0.4,
               weights=ALL, **HARD_WORLDS)),
    (0.8, Plan(items=(4, 20), history=(2, 10), questions=3, title_tokens=20, noise=0.4, margin=0.4, alike=0.4,
               soft=0.5, weights=ALL, **HARD_WORLDS)),
)
# weights that go back to the start in the end: pretraining blurs there what real vectors need (LOG.md, causes 9, 10 and 16)
RETURNED = re.compile(r"embed_tokens|norm|layers\.(0\.self_attn\.o|3\.self_attn\.[vo])_proj\.")
SKILLS_FILE = "skills.json"
COPY = 0.1  # weight of a token's likelihood over the vocabulary, beside its likelihood among its rivals


@dataclass(frozen=True)
class Settings:
    """One pretraining run."""

    size: str = "base"
    steps: int = 500
    tokens: int = 4000  # per step
    learning_rate: float = 1e-4
    warmup: int = 30
    seed: int = 2020
    titles: int = 20_000  # made-up titles in the pool
    structured: bool = True
    look_scale: float = 0.02  # rate of queries and keys, as a share of the rate
    mlp_scale: float = 4.0  # rate of what MLPs write, which starts at nothing in a long residual stream
    settled: tuple[int, ...] = (1, 2)  # layers whose attention stays as it started: training blurs what they gather
    bf16: bool = False  # autocast: about twice as fast on a CPU with avx512_bf16, but another model


def stage_at(step: int, steps: int) -> int:
    """The number of the stage that ``step`` belongs to."""
    ends = np.cumsum([share for share, _ in STAGES]) * steps
    return min(int(np.searchsorted(ends - 1e-9, step, side="right")), len(STAGES) - 1)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, cosine to a fiftieth."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))


def _rate(name: str, settings: Settings) -> float:
    """The rate of a weight of the model, as a share of the rate; a gradient counts in the clipping also where that is 0."""
    if settings.structured and name.startswith(tuple(f"model.layers.{layer}.self_attn." for layer in settings.settled)):
        return 0.0
    look, write = ".q_proj." in name or ".k_proj." in name, ".down_proj." in name
    return settings.look_scale if look else settings.mlp_scale if write else 1.0


def answer_loss(logits: torch.Tensor, targets: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    """Mean loss of the choices, each among its rivals, and a little of every token's loss over the vocabulary.

    Args:
        logits: [n, V]; targets: [n]; rivals: [n, R] token ids, -1 where there are fewer.
    """
    among = log_probs(logits, targets, rivals.clamp_min(0), rivals >= 0)  # [n]; 0 where nothing is to choose
    choices = (rivals >= 0).sum(1) > 1
    whole = functional.cross_entropy(logits.float(), targets, reduction="sum")
    return (COPY * whole - among.sum()) / (COPY * len(targets) + choices.sum())


class Pretraining:
    """Model, projectors, optimizer and generator of one run; ``step`` counts what has been done."""

    def __init__(self, settings: Settings, device: torch.device | str = "cpu", tokenizer=None):
        self.settings, self.device = settings, torch.device(device)
        self.tokenizer = tokenizer or train_tokenizer(settings.seed)
        self.model = build_model(settings.size, self.tokenizer, settings.seed, settings.structured).to(self.device)
        if settings.bf16 and self.device.type == "cpu":  # where eager attention is faster than the fused one
            self.model.set_attn_implementation("eager")
        plan = layout(self.model.config, settings.seed)
        length = circuits.LENGTH * circuits.VECTOR if settings.structured else 1.0  # tokens have norm 1 at a random start
        self.projectors = Projectors(self.model.config.hidden_size, self._marker(), plan.vector, length).to(self.device)
        self.parts = {"model": self.model, "projectors": self.projectors}
        groups: dict[float, list] = {1.0: list(self.projectors.parameters())}
        for name, weight in self.model.named_parameters():
            groups.setdefault(_rate(name, settings), []).append(weight)
        self.optimizer = torch.optim.AdamW([{"params": weights, "scale": scale} for scale, weights in groups.items()],
                                           lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.generator = Generator(self.tokenizer, settings.seed, titles=settings.titles)
        self.step, self.seen, self.seconds, self.curve, self.validation = 0, 0, 0.0, [], []
        self.mark_item()

    def _marker(self) -> torch.Tensor:
        """``[hidden]``: what says "a slot stands here"."""
        plan = layout(self.model.config, self.settings.seed)
        return (circuits.LENGTH * SLOT if self.settings.structured else 1.0) * plan.slot_axis

    def train_step(self) -> dict:
        """One batch; returns step, skill, loss and the share of answers that are right."""
        number = stage_at(self.step, self.settings.steps)
        plan = STAGES[number][1]
        batch = self.generator.batch(plan, self.settings.tokens)
        which = int(self.generator.rng.integers(self.projectors.copies))
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(self.step, self.settings)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            logits, targets, rivals, numbers = forward(self.model, self.projectors, batch, which, self.device)
        loss = answer_loss(logits, targets, rivals)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}; lower --learning-rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        right = chosen_right(logits.detach(), targets, rivals, numbers)
        self.step += 1
        self.seen += batch.tokens
        row = {"step": self.step, "stage": number, "skill": SKILLS[batch.skills[0]],
               "loss": round(loss.item(), 4), "right": round(right.mean().item(), 4), "tokens": self.seen}
        self.curve.append(row)
        return row

    def validate(self) -> None:
        """Ask held-out questions of every skill; the answers stand in ``validation``."""
        self.validation.append({"step": self.step, **validate(self.model, self.projectors, self.tokenizer)})

    @torch.no_grad()
    def mark_item(self) -> None:
        """Make the constant part of a slot the embedding of ``<|item|>``."""
        row = self.tokenizer.convert_tokens_to_ids("<|item|>")
        self.model.get_input_embeddings().weight[row] = self._marker().to(self.device)

    @torch.no_grad()
    def go_back(self) -> None:
        """Put back what ``RETURNED`` names as the structured start has it; a state to resume from is saved before."""
        settings = self.settings
        start = build_model(settings.size, self.tokenizer, settings.seed).to(self.device).state_dict()
        for name, weight in self.model.named_parameters():
            if RETURNED.search(name):
                weight.copy_(start[name])
        self.mark_item()

    @torch.no_grad()
    def balance(self, batches: int = 4) -> None:
        """Move the threshold between yes and no until half of the answers are yes, as half of the questions ask for.

        What goes back to the start takes the threshold with it. Yes and no differ in one direction, which no other token hears:
        a bias along it moves other logits only by the last norm.
        """
        plan = STAGES[-1][1].only("yes_no")
        plan = replace(plan, history=(plan.history[1], plan.history[1]))  # as long as most prompts show: what is unsure shifts with it
        drawn = [self.generator.batch(plan, self.settings.tokens) for _ in range(batches)]
        bias = self.model.model.layers[-1].self_attn.o_proj.bias
        answer = layout(self.model.config, self.settings.seed).answer.to(self.device)
        before, low, high = bias.clone(), -circuits.LENGTH, circuits.LENGTH
        for _ in range(10):
            shift = (low + high) / 2
            bias.copy_(before + shift * answer)
            said = torch.cat([self._yes(batch) for batch in drawn])
            low, high = (low, shift) if said.float().mean() > 0.5 else (shift, high)

    def _yes(self, batch) -> torch.Tensor:
        """Of each question of a batch, whether yes is likelier than no."""
        logits, targets, *_ = forward(self.model, self.projectors, batch, 0, self.device)
        yes, no = known_words(self.tokenizer).yes_no
        return (logits[:, yes] > logits[:, no])[(targets == yes) | (targets == no)]

    def save(self, folder: Path) -> None:
        """Write everything that :meth:`resume` needs."""
        state.save(folder, self.parts, self.optimizer, {
            "step": self.step, "seen": self.seen, "seconds": self.seconds, "settings": self.settings.__dict__,
            "generator": self.generator.state, "curve": self.curve, "validation": self.validation,
        })

    def resume(self, folder: Path) -> None:
        """Go on where :meth:`save` stopped; the settings must be the same."""
        meta = state.load(folder, self.parts, self.optimizer)
        settings = self.settings.__dict__ | {"settled": list(self.settings.settled)}  # as JSON has it
        if meta["settings"] != settings:
            raise ValueError(f"{folder} was written with {meta['settings']}, not {settings}")
        self.generator.state = meta["generator"]
        self.step, self.seen = meta["step"], meta["seen"]
        self.seconds, self.curve, self.validation = meta["seconds"], meta["curve"], meta["validation"]

    def export(self, folder: Path) -> None:
        """Write the Hugging Face folder, the projectors, the curves and what the run cost; skills of other weights go."""
        (folder / SKILLS_FILE).unlink(missing_ok=True)
        export(self.model, self.tokenizer, folder)
        save_projectors(self.projectors, folder)
        write_json(folder / "pretraining.json", {
            "settings": self.settings.__dict__, "steps": self.step, "tokens": self.seen,
            "minutes": round(self.seconds / 60, 1), "device": str(self.device), "torch": torch.__version__,
        })
        write_csv(folder / "curve.csv", self.curve)
        write_csv(folder / "validation.csv", self.validation)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows with the same keys whole or not at all; no row, no file."""
    if not rows:
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _report(run: Pretraining, window: int = 60) -> str:
    recent: dict[str, list[float]] = {}
    for row in run.curve[-window:]:
        recent.setdefault(row["skill"], []).append(row["right"])
    shares = " ".join(f"{name} {np.mean(values):.2f}" for name, values in sorted(recent.items()))
    return (f"step {run.step} stage {run.curve[-1]['stage']} {run.seen / max(run.seconds, 1e-9):.0f} tokens/s "
            f"{run.seconds / 60:.1f} min | {shares}")


def _loop(run: Pretraining, out: Path, minutes: float | None, every: int, validate_every: int) -> None:
    started = time.perf_counter()
    while run.step < run.settings.steps:
        if validate_every and run.step % validate_every == 0:
            run.validate()
            print(f"held out: {run.validation[-1]}", flush=True)
        before = time.perf_counter()
        run.train_step()
        run.seconds += time.perf_counter() - before
        if run.step % every == 0:
            print(_report(run), flush=True)
        if run.step % (10 * every) == 0:
            run.save(out / "state")
            run.export(out)
        if minutes is not None and time.perf_counter() - started > 60 * minutes:
            print(f"stopped after {minutes} minutes; go on with --resume", flush=True)
            break


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("builtin-model"))
    parser.add_argument("--size", default=Settings.size)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--tokens", type=int, default=Settings.tokens)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--minutes", type=float, default=None, help="stop after this long; --resume goes on")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--random-start", action="store_true", help="without the structured start of circuits.py")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16: CPUs with avx512_bf16, GPUs")
    parser.add_argument("--log-every", type=int, default=50, help="steps; ten times as many between two states")
    parser.add_argument("--validate-every", type=int, default=250, help="steps; 0: only in the end")
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = replace(Settings(), size=args.size, steps=args.steps, tokens=args.tokens, seed=args.seed,
                       learning_rate=args.learning_rate, structured=not args.random_start, bf16=args.bf16)
    run = Pretraining(settings, device)
    if args.resume:
        run.resume(args.out / "state")
    count = sum(p.numel() for p in run.model.parameters())
    print(f"{settings.size}: {count:,} parameters on {device}; {settings.steps} steps of {settings.tokens} tokens")
    _loop(run, args.out, args.minutes, args.log_every, args.validate_every)
    run.save(args.out / "state")
    run.mark_item()
    finished = run.step == settings.steps
    if settings.structured and finished:
        run.go_back()
        run.balance()
    run.export(args.out)
    if not (finished and run.step):  # --minutes: to be gone on with; --steps 0: only the start, to compare with
        return
    skills = probe(read_back(args.out).to(device), run.projectors, run.tokenizer, HARD)
    print("\n".join(f"{name:10s} {values}" for name, values in skills.items()))
    write_json(args.out / SKILLS_FILE, skills)


if __name__ == "__main__":
    sys.exit(main())
