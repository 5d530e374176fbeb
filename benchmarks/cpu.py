"""Speed and memory of training and scoring a real LLM on a CPU: `python -m benchmarks.cpu [--llm_path smollm2-135m]`.

Two ratios, each from pairs of runs that take turns, and their medians: tokens/s of a training step (forward, backward,
clipping, AdamW; LoRA on q, k, v, o; logits of the answers alone) over the frozen LLM's forward and backward pass with the
same loss on trainable input embeddings; and tokens/s of scoring 20 candidates in a tree over a plain forward pass of as
many tokens that gives one position's logits. Then the peak memory of a fresh process for each. Exit status 1 where a ratio is
under .9 or a peak above 3 GB. Precision is what `llm_dtype: auto` takes here, attention what transformers takes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from recbole_llm.adapter import GatedLoraConfig, cast_weights, drop_by_row, use_gate
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import read_yaml
from recbole_llm.llm.causal_lm import forward, positions_of
from recbole_llm.llm.loading import load_llm
from recbole_llm.llm.title_likelihood import score_candidates
from recbole_llm.results import result_file

ANSWER, CANDIDATES, TITLE = 9, 20, 8  # tokens of an answer, candidates, tokens of each, end token included
RATIO, PEAK = 0.9, 3.0  # aims; GB
WORK = ("training", "scoring")


def load(options):
    settings = read_yaml(properties_dir() / "llm.yaml")
    settings |= {"device": "cpu", "llm_dtype": options.dtype, "attn_implementation": options.attention}
    settings["llm_path"] = options.llm_path or settings["llm_path"]
    return load_llm(settings)


def adapted(llm, options):
    """The LLM with LoRA (1 expert) or iLoRA's experts, and its optimizer."""
    layers = ["q_proj", "k_proj", "v_proj", "o_proj"]
    shared = {"task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "lora_dropout": options.dropout, "target_modules": layers}
    gated = options.experts > 1
    model = get_peft_model(llm, GatedLoraConfig(num_experts=options.experts, **shared) if gated else LoraConfig(**shared))
    cast_weights(model)
    drop_by_row(model)
    return model, torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-4)


def gate(llm, rows, options):
    if options.experts == 1:
        return nullcontext()
    return use_gate(llm, torch.full((rows, options.experts), 1 / options.experts))


def backward(llm, ids, share):
    """Forward and backward pass of token ids [B, S] whose last ones are the answers; input embeddings get a gradient."""
    embeds = llm.get_input_embeddings()(ids).detach().requires_grad_()
    mask = torch.ones_like(ids)
    out = forward(llm, embeds, mask, positions_of(mask), keep=ANSWER + 1, use_cache=False)
    logits = out.logits[:, -ANSWER - 1 : -1]
    losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, -ANSWER:].flatten(), reduction="sum")
    (losses * share).backward()


def training(options):
    """(ours, plain): functions that make one training step, and one forward and backward pass of the frozen LLM."""
    frozen = load(options).train()
    llm, optimizer = adapted(copy.deepcopy(frozen) if options.measure is None else frozen, options)
    llm.train()
    ids = torch.randint(frozen.get_input_embeddings().num_embeddings, (options.batch, options.length))
    weights, share = optimizer.param_groups[0]["params"], 1 / (options.batch * ANSWER)

    def ours():
        optimizer.zero_grad(set_to_none=True)
        for rows in ids.split(options.micro_batch):
            with gate(llm, len(rows), options):
                backward(llm, rows, share)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    def plain():
        for rows in ids.split(options.micro_batch):
            backward(frozen, rows, share)

    return ours, plain


def scoring(options):
    """(ours, plain): functions that score a batch, and that only feed as many tokens."""
    llm = load(options).eval()
    model, _ = adapted(copy.deepcopy(llm) if options.measure is None else llm, options)
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

    return ours, plain


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
    parser.add_argument("--batch", type=int, default=8, help="prompts of a step")
    parser.add_argument("--length", type=int, default=280, help="tokens of a prompt with its answer")
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
    works = {"training": training, "scoring": scoring}
    if options.measure:
        ours, _ = works[options.measure](options)
        for _ in range(3):
            ours()
        print(result_file.peak_memory_mb() / 1024)
        return 0
    print(f"{result_file.device_name('cpu')}; batch {options.batch} in forward passes of {options.micro_batch}, length {options.length}")
    tokens = {"training": options.length, "scoring": options.length + CANDIDATES * (TITLE - 1)}
    met = True
    for work, make in works.items():
        ours, plain = pairs(*make(options), options.repeats)
        ratio = statistics.median(b / a for a, b in zip(ours, plain, strict=True))
        rates = [options.batch * tokens[work] / statistics.median(seconds) for seconds in (ours, plain)]
        peak = peak_of(work, arguments)
        met = met and ratio >= RATIO and peak <= PEAK
        print(
            f"{work:9}{rates[0]:9,.0f} tokens/s, plain {rates[1]:9,.0f}: ratio {ratio:.3f} (aim {RATIO}); "
            f"peak memory {peak:.2f} GB (aim {PEAK})"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
