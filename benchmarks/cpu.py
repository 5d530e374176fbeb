"""Speed and memory of training and scoring a real LLM on a CPU: `python -m benchmarks.cpu [--llm_path smollm2-135m]`.

Three ratios, each from pairs of runs that take turns, and their medians. Tokens/s of the trainer's optimizer steps on ml-100k's
prompts over the frozen LLM's forward and backward pass of as many sequences of the same lengths, with a loss over the vocabulary
and trainable input embeddings: `prompts` shows a history and candidates of its own for each answer, `lists` is a step of the
LLM's own YAML, without histories as most of its steps are. And tokens/s of scoring 20 candidates in a tree over a plain forward
pass of as many tokens that gives one position's logits. Then the peak memory of a fresh process for each. Exit status 1 where
a ratio is under .9 or a peak above 3 GB. Precision and attention are what the defaults take here (`llm_dtype: auto`, attention by pass).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import chain, count, cycle, islice

import torch
from peft import LoraConfig, get_peft_model
from recbole.utils import get_model, init_seed
from torch import nn

from recbole_llm import LLMConfig
from recbole_llm.adapter import GatedLoraConfig, cast_weights, drop_by_row, use_gate
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import read_yaml
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.llm.causal_lm import base_of, forward, positions_of
from recbole_llm.llm.loading import load_llm
from recbole_llm.llm.title_likelihood import score_candidates
from recbole_llm.results import result_file
from recbole_llm.training.optimizer_step import OptimizerSteps, adamw
from recbole_llm.training.schedule import Schedule
from recbole_llm.training.step_batches import Prefetch, step_loader

ANSWER, CANDIDATES, TITLE = 9, 20, 8  # tokens of an answer, candidates, tokens of each, end token included
RATIO, PEAK = 0.9, 3.0  # aims; GB
WORK = ("prompts", "lists", "scoring")
DATASET, SETTINGS = "ml-100k", {"crm_epochs": 0, "train_sample_size": 400, "state": "WARNING", "show_progress": False}
STEPS = 3  # different ones, which take turns


def load(options):
    settings = read_yaml(properties_dir() / "llm.yaml")
    settings |= {"device": "cpu", "llm_dtype": options.dtype, "attn_implementation": options.attention}
    settings["llm_path"] = options.llm_path or settings["llm_path"]
    return load_llm(settings)


def adapted(llm, options):
    """The LLM with LoRA (1 expert) or iLoRA's experts."""
    layers = ["q_proj", "k_proj", "v_proj", "o_proj"]
    shared = {"task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "lora_dropout": options.dropout, "target_modules": layers}
    gated = options.experts > 1
    model = get_peft_model(llm, GatedLoraConfig(num_experts=options.experts, **shared) if gated else LoraConfig(**shared))
    cast_weights(model)
    drop_by_row(model)
    return model


def gate(llm, rows, options):
    if options.experts == 1:
        return nullcontext()
    return use_gate(llm, torch.full((rows, options.experts), 1 / options.experts))


def training(options):
    """(ours, plain, tokens a step): the next optimizer step; the frozen LLM's forward and backward pass of the sequences that it fed."""
    shown = {}  # the first steps of the LLM's own YAML
    if options.work == "prompts":
        shown = {"users_per_list": 1, "train_batch_size": options.batch, "history_from": 0.0, "history_batch_size": options.micro_batch}
    with tempfile.TemporaryDirectory() as folder:
        steps, ahead, schedule = optimizer_steps(options, {**SETTINGS, "checkpoint_dir": folder, **shown})
    groups = iter(ahead)
    fed: list[list] = []  # of each step, the shapes [B, S, d] of its passes

    def noted(module, arguments, named):
        fed[-1].append(named["inputs_embeds"].shape)

    hook = base_of(steps.model.llm).register_forward_pre_hook(noted, with_kwargs=True)
    for number in range(STEPS):
        fed.append([])
        steps.step(next(groups), number, schedule)
    hook.remove()
    shapes = cycle(fed)
    frozen = None if options.measure else load(options).train()
    tokens = sum(shape[:2].numel() for step in fed for shape in step) / len(fed)
    return lambda: steps.step(next(groups), 0, schedule), lambda: [backward(frozen, shape) for shape in next(shapes)], tokens


def optimizer_steps(options, settings):
    """The trainer's :class:`OptimizerSteps`, the micro-batches of a few steps in turn, made ahead as in training, and the schedule of rates."""
    settings |= {"use_gpu": False, "llm_dtype": options.dtype, "attn_implementation": options.attention, "lora_dropout": options.dropout}
    settings |= {"likelihood_over": options.likelihood_over} | ({"llm_path": options.llm_path} if options.llm_path else {})
    name = "iLoRA" if options.experts > 1 else "LLaRA"
    config = LLMConfig(name, DATASET, config_dict=settings | ({"num_experts": options.experts} if options.experts > 1 else {}))
    _, train, _, _ = prepare_data(config)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(name)(config, train._dataset).train()
    train.set_epoch(0)
    loader = step_loader(train, config["accumulation_steps"], history_batch=config["history_batch_size"])
    steps = OptimizerSteps(config, model, adamw(model, config["learning_rate"]), torch.device("cpu"))
    ahead = Prefetch(chain.from_iterable(islice(loader, STEPS) for _ in count()), config["prefetch_steps"])
    return steps, ahead, Schedule.of(config, len(train))


def backward(llm, shape):
    """Forward and backward pass of embeddings [B, S, d] that get a gradient; the last tokens of each sequence are an answer."""
    weights = llm.get_input_embeddings().weight
    embeds = (torch.randn(shape, dtype=weights.dtype) * weights.std()).requires_grad_()
    mask = torch.ones(shape[:2], dtype=torch.long)
    logits = forward(llm, embeds, mask, positions_of(mask), keep=ANSWER + 1, use_cache=False).logits[:, -ANSWER - 1 : -1]
    answers = torch.randint(len(weights), (shape[0] * ANSWER,))
    nn.functional.cross_entropy(logits.flatten(0, 1).float(), answers).backward()


def scoring(options):
    """(ours, plain, tokens): functions that score a batch, and that only feed as many tokens."""
    llm = load(options).eval()
    model = adapted(copy.deepcopy(llm) if options.measure is None else llm, options)
    model.eval()
    fed = CANDIDATES * (TITLE - 1)
    vocabulary = llm.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (options.batch, options.length))
    branches = torch.randint(vocabulary, (options.batch, CANDIDATES, TITLE))
    mask, constrained = torch.ones_like(ids), options.likelihood_over == "candidates"

    @torch.no_grad()
    def ours():
        for rows, some in zip(ids.split(options.micro_batch), branches.split(options.micro_batch), strict=True):
            with gate(model, len(rows), options):
                embeds = model.get_input_embeddings()(rows)
                score_candidates(model, embeds, mask[: len(rows)], some, torch.ones_like(some), constrained=constrained)

    @torch.no_grad()
    def plain():
        for rows, some in zip(ids.split(options.micro_batch), branches.split(options.micro_batch), strict=True):
            embeds = llm.get_input_embeddings()(torch.cat([rows, some[..., :-1].flatten(1)[:, :fed]], 1))
            every = torch.ones(embeds.shape[:2], dtype=torch.long)
            forward(llm, embeds, every, positions_of(every), keep=1, use_cache=False)

    return ours, plain, options.batch * (options.length + fed)


def pairs(ours, plain, repeats):
    """Seconds of both, [repeats] pairs after one warm-up; the order changes from pair to pair."""
    seconds = {ours: [], plain: []}
    for repeat in range(repeats + 1):
        for work in (ours, plain) if repeat % 2 else (plain, ours):
            start = time.perf_counter()
            work()
            if repeat:
                seconds[work].append(time.perf_counter() - start)
    return seconds[ours], seconds[plain]


def peak_of(work, arguments):
    """Peak resident memory in GB of a fresh process that only trains, or only scores."""
    command = [sys.executable, "-m", "benchmarks.cpu", *arguments, f"--measure={work}"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(found.split()[-1])


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.split("\n")[0])
    parser.add_argument("--llm_path", help="as the setting; default: the default LLM")
    parser.add_argument("--batch", type=int, default=8, help="prompts of a step, or scored at once")
    parser.add_argument("--length", type=int, default=280, help="tokens of a prompt that is scored")
    parser.add_argument("--micro_batch", type=int, default=4, help="prompts of a forward pass")
    parser.add_argument("--experts", type=int, default=4, help="iLoRA's; 1: plain LoRA")
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapter, shared by a row's tokens")
    parser.add_argument("--likelihood_over", default="candidates", choices=("candidates", "vocabulary"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--attention", choices=("eager", "sdpa"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)  # the fresh process of a peak
    return parser.parse_args(arguments)


def main(arguments=None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    torch.manual_seed(0)
    if options.measure:
        options.work = options.measure
        ours, _, _ = make(options)
        for _ in range(STEPS):
            ours()
        print(result_file.peak_memory_mb() / 1024)
        return 0
    print(f"{result_file.device_name('cpu')}; batch {options.batch} in forward passes of {options.micro_batch}")
    return 0 if all([met(options, arguments) for options.work in WORK]) else 1


def make(options):
    return (scoring if options.work == "scoring" else training)(options)


def met(options, arguments) -> bool:
    """Measure one kind of work and print it; whether the aims are met."""
    *both, tokens = make(options)
    ours, plain = pairs(*both, options.repeats)
    ratio = statistics.median(b / a for a, b in zip(ours, plain, strict=True))
    rates = [tokens / statistics.median(seconds) for seconds in (ours, plain)]
    peak = peak_of(options.work, arguments)
    print(
        f"{options.work:9}{rates[0]:9,.0f} tokens/s, plain {rates[1]:9,.0f}, {tokens:,.0f} at a time: ratio {ratio:.3f} (aim {RATIO}); "
        f"peak memory {peak:.2f} GB (aim {PEAK})"
    )
    return ratio >= RATIO and peak <= PEAK


if __name__ == "__main__":
    sys.exit(main())
