"""Training and scoring speed on one device: `python -m benchmarks.gpu [--shape 7b|tiny]`.

Builds a Llama of Llama-2-7B's shape with random weights in bfloat16 (no download) and writes
benchmarks/results/<device>.json: tokens per second, utilisation against the device's measured matrix peak and peak
memory of a frozen forward pass, of PEFT's LoRA in a straightforward Hugging Face step (full logits, rows padded to the
longest of a random batch), and of the steps of LLaRA, iLoRA and RecLoRA (answer-only logits, rows of like length); and
prompts scored per second by tree forward, cache expansion and `generate`. Tokens are those of prompts and answers:
padding does not count. All adapters sit on the same projections, RecLoRA's too. Medians are compared. Exit status 1
where an aim is missed on CUDA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from recbole_llm.adapter import GatedLoraConfig, Router, use_gate
from recbole_llm.llm.causal_lm import generate
from recbole_llm.llm.title_likelihood import score_candidates
from recbole_llm.results import result_file
from recbole_llm.training.throughput import ModelFlops

SHAPES = {
    "7b": {"hidden": 4096, "inner": 11008, "layers": 32, "heads": 32, "vocabulary": 32000, "rows": 8, "prompt": 590},
    "tiny": {"hidden": 64, "inner": 128, "layers": 2, "heads": 4, "vocabulary": 512, "rows": 2, "prompt": 40},
}
ANSWER, CANDIDATES, USER = 10, 20, 64  # answer tokens with the end token, candidates, width of the user vector
AIMS = {"llara_over_straightforward": 1.3, "ilora_over_llara": 0.98, "reclora_over_llara": 0.92, "utilisation": 0.5,
        "tree_over_generate": 2.0}  # fmt: skip


def random_llm(shape, device, dtype):
    config = LlamaConfig(
        vocab_size=shape["vocabulary"], hidden_size=shape["hidden"], intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"],
        max_position_embeddings=4096,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            llm = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return llm.requires_grad_(False)


def rows_of(shape, device, spread, seed):
    """(ids [B, S], mask [B, S]), left-padded; lengths within `spread` of the shape's, the longest exactly that long."""
    generator = torch.Generator().manual_seed(seed)
    longest = shape["prompt"] + ANSWER
    lengths = longest - (torch.rand(shape["rows"], generator=generator) * spread * longest).long()
    lengths[0] = longest
    ids = torch.randint(3, shape["vocabulary"], (shape["rows"], longest), generator=generator)
    mask = torch.arange(longest)[None] >= longest - lengths[:, None]
    return ids.to(device), mask.to(device)


class Method:
    """One way to train: `step()` makes an optimizer step on fixed rows; `tokens` counts their real tokens."""

    def __init__(self, name, llm, shape, device, config=None, straightforward=False):
        self.name, self.straightforward, self.device = name, straightforward, device
        self.llm = get_peft_model(llm, config) if config is not None else llm
        # Buckets leave rows of like length; a random batch of the same data does not
        self.ids, self.mask = rows_of(shape, device, 0.3 if straightforward else 0.02, 0)
        lengths = self.mask.sum(1)
        self.tokens = int(lengths.sum())
        counted = ModelFlops(self.llm)
        forward = counted.body + counted.output * ANSWER * len(lengths) / self.tokens
        self.flops = counted.step(self.tokens, ANSWER * len(lengths), int((lengths * lengths).sum()))
        if config is None:
            self.flops = 2 * forward * self.tokens + counted.attention * int((lengths * lengths).sum())
        self.router = self._router(config, shape)
        weights = [w for module in (self.llm, self.router) if module is not None for w in module.parameters()]
        weights = [w for w in weights if w.requires_grad]
        for weight in weights:
            weight.data = weight.data.float()
        self.optimizer = torch.optim.AdamW(weights, lr=1e-4) if weights else None

    def _router(self, config, shape):
        if not isinstance(config, GatedLoraConfig):
            return None
        self.users = torch.randn(shape["rows"], USER, device=self.device)
        return Router(USER, config.num_experts, "linear").to(self.device)

    def step(self):
        if self.optimizer is None:
            with torch.no_grad():
                return self._forward()
        self.optimizer.zero_grad(set_to_none=True)
        self._forward().backward()
        self.optimizer.step()
        return None

    def _forward(self):
        gated = use_gate(self.llm, self.router(self.users)) if self.router is not None else nullcontext()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"), gated:
            if self.straightforward:
                labels = self.ids.masked_fill(~self.mask, -100)
                labels[:, :-ANSWER] = -100
                batch = {"input_ids": self.ids, "attention_mask": self.mask.long(), "labels": labels}
                return self.llm(**batch, use_cache=False).loss
            positions = (self.mask.long().cumsum(1) - 1).clamp_min(0)
            embeds = self.llm.get_input_embeddings()(self.ids)
            logits = self.llm(inputs_embeds=embeds, attention_mask=self.mask.long(), position_ids=positions,
                              logits_to_keep=ANSWER + 1, use_cache=False).logits[:, :-1]  # fmt: skip
            return nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.ids[:, -ANSWER:].flatten())


def now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_peak(device, size):
    """FLOP/s of a square matrix product, bf16 on a GPU and float32 elsewhere: the best of several."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(20):
        start = now(device)
        for _ in range(5):
            a @ b
        seconds.append((now(device) - start) / 5)
    return 2 * size**3 / min(seconds)


def training(shape, device, dtype, repeats, peak):
    """{method: tokens_per_second, utilisation, peak_memory_gb}; one model at a time is in memory."""
    targets = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
    everywhere = {**targets, "target_modules": "all-linear"}
    methods = {
        "frozen forward": (None, False),
        "straightforward": (LoraConfig(**everywhere), True),
        "LLaRA": (LoraConfig(**everywhere), False),
        "iLoRA": (GatedLoraConfig(**everywhere, num_experts=4, mixing="split"), False),
        "RecLoRA": (GatedLoraConfig(**everywhere, num_experts=16, mixing="weight"), False),
    }
    found = {}
    for name, (config, straightforward) in methods.items():
        method = Method(name, random_llm(shape, device, dtype), shape, device, config, straightforward)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for repeat in range(repeats + 2):
            start = now(device)
            method.step()
            if repeat >= 2:
                seconds.append(now(device) - start)
        middle = statistics.median(seconds)
        found[name] = {
            "tokens_per_second": method.tokens / middle,
            "utilisation": method.flops / middle / peak,
            "peak_memory_gb": result_file.peak_memory_mb() / 1024,
            "seconds_per_step": middle,
        }
        del method
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


@torch.no_grad()
def scoring(shape, device, dtype, repeats):
    """Prompts per second of each way to rank 20 candidates, or to name one."""
    llm = random_llm(shape, device, dtype).eval()
    ids, mask = rows_of(shape, device, 0.02, 1)
    embeds = llm.get_input_embeddings()(ids)
    branches = torch.randint(3, shape["vocabulary"], (len(ids), CANDIDATES, ANSWER), device=device)
    ways = {
        "tree": lambda: score_candidates(llm, embeds, mask, branches, torch.ones_like(branches), method="tree"),
        "cache": lambda: score_candidates(llm, embeds, mask, branches, torch.ones_like(branches), method="cache"),
        "generate": lambda: generate(llm, embeds, mask, ANSWER, eos_token_id=None, pad_token_id=0),
    }
    seconds = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = now(device)
            way()
            if repeat:
                seconds[name].append(now(device) - start)
    return {name: len(ids) / statistics.median(times) for name, times in seconds.items()}


def ratios(record):
    train, score = record["training"], record["prompts_per_second"]
    speed = {name: entry["tokens_per_second"] for name, entry in train.items()}
    return {
        "llara_over_straightforward": speed["LLaRA"] / speed["straightforward"],
        "ilora_over_llara": speed["iLoRA"] / speed["LLaRA"],
        "reclora_over_llara": speed["RecLoRA"] / speed["LLaRA"],
        "utilisation": train["LLaRA"]["utilisation"],
        "tree_over_generate": score["tree"] / score["generate"],
    }


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, help="7b where there is a GPU, else tiny")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = options.shape or ("7b" if device.type == "cuda" else "tiny")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    peak = matrix_peak(device, 8192 if device.type == "cuda" else 512)
    record = {
        "device": result_file.device_name(device), "shape": {"name": name, **SHAPES[name]}, "dtype": str(dtype),
        "matrix_peak_tflops": peak / 1e12, "versions": result_file.versions(), "commit": result_file.commit(),
        "training": training(SHAPES[name], device, dtype, options.repeats, peak),
        "prompts_per_second": scoring(SHAPES[name], device, dtype, options.repeats),
    }  # fmt: skip
    record["ratios"] = ratios(record)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = "".join(c if c.isalnum() else "-" for c in record["device"]).strip("-").lower()
    file = options.out / f"{stem}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    for way, entry in record["training"].items():
        memory, share = entry["peak_memory_gb"], entry["utilisation"]
        print(f"{way:16} {entry['tokens_per_second']:12,.0f} tokens/s   {share:6.1%} of peak   {memory:6.2f} GB")
    for way, rate in record["prompts_per_second"].items():
        print(f"{way:16} {rate:12,.1f} prompts/s")
    missed = [key for key, aim in AIMS.items() if record["ratios"][key] < aim]
    for key, value in record["ratios"].items():
        print(f"{key:28} {value:6.2f}   aim {AIMS[key]}{'   missed' if key in missed else ''}")
    print(f"written to {file}")
    return int(bool(missed) and device.type == "cuda")


if __name__ == "__main__":
    sys.exit(main())
