"""Tree forward against cache expansion and one forward per candidate: `python -m benchmarks.scoring`.

A random Llama scores 20 candidates of 8 tokens after 300 prompt tokens. The methods take turns in one run and their
medians are compared. The floor is the ratio of tokens fed: C * (P + L - 1) against P + C * (L - 1). Exit status 1 where
the tree is under 8 times as fast as separate forwards, or the scores differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recbole_llm.llm.branch_forward import METHODS
from recbole_llm.llm.title_likelihood import score_candidates

TARGET = 8.0
TOLERANCE = 1e-4


def random_llm(hidden, layers, vocabulary, attention, device):
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(config, attn_implementation=attention).to(device).eval()


def random_inputs(llm, batch, prompt, candidates, tokens):
    ids = torch.randint(llm.config.vocab_size, (batch, prompt), device=llm.device)
    branches = torch.randint(llm.config.vocab_size, (batch, candidates, tokens), device=llm.device)
    return llm.get_input_embeddings()(ids), torch.ones_like(ids), branches, torch.ones_like(branches)


@torch.no_grad()
def measure(llm, inputs, repeats):
    """Seconds of each method, [repeats] each, in turns after one warm-up; and the scores."""
    seconds, scores = {method: [] for method in METHODS}, {}
    for repeat in range(repeats + 1):
        for method in METHODS:
            started = _now(llm.device)
            scores[method] = score_candidates(llm, *inputs, method=method)
            if repeat:
                seconds[method].append(_now(llm.device) - started)
    return seconds, scores


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", type=int, default=300, help="prompt tokens")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a candidate, end token included")
    parser.add_argument("--batch", type=int, default=1, help="prompts per call")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(arguments)

    llm = random_llm(args.hidden, args.layers, args.vocabulary, args.attention, args.device)
    inputs = random_inputs(llm, args.batch, args.prompt, args.candidates, args.tokens)
    seconds, scores = measure(llm, inputs, args.repeats)
    median = {method: statistics.median(values) for method, values in seconds.items()}
    print(
        f"Llama, {llm.num_parameters() / 1e6:.1f}M parameters, float32, {args.attention}, {llm.device}; "
        f"prompt {args.prompt}, {args.candidates} candidates of {args.tokens} tokens, batch {args.batch}; "
        f"medians of {args.repeats} in turns"
    )
    print(f"{'method':<10}{'ms':>10}{'speed-up':>10}{'max |difference|':>18}")
    difference = 0.0
    for method in METHODS:
        apart = (scores[method] - scores["separate"]).abs().max().item()
        difference = max(difference, apart)
        print(f"{method:<10}{1e3 * median[method]:>10.1f}{median['separate'] / median[method]:>9.1f}x{apart:>18.1e}")
    alone = args.candidates * (args.prompt + args.tokens - 1)
    shared = args.prompt + args.candidates * (args.tokens - 1)
    ratio = median["separate"] / median["tree"]
    print(f"tokens fed: {alone} separately, {shared} in the tree: {alone / shared:.1f}x fewer")
    print(f"tree over separate: {ratio:.1f}x (target {TARGET:.0f}x), scores within {difference:.1e} ({TOLERANCE:.0e})")
    return 0 if ratio >= TARGET and difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
