"""What training costs, while it runs and when it ends: tokens, time, memory, model FLOPs against the device's peak.

Operations are counted from shapes: torch's FlopCounterMode counts what runs, so padding and recomputation too, and must
watch every step, which no compiled model allows. A test compares both on one forward pass.
"""

import time
from contextlib import contextmanager

import torch

from recbole_llm.llm.constrained_vocabulary import until_last_choice
from recbole_llm.llm.loading import numbers_in
from recbole_llm.llm.packing import LIST_FIELD, SHARED_FIELD, fed_lengths
from recbole_llm.results import result_file
from recbole_llm.runtime import distributed

# Dense bf16 matrix peaks in TFLOP/s as the makers state them; peak_tflops overrides. (part of the name, peak)
PEAKS = (
    ("H200", 989.0), ("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H100", 989.0), ("H800", 989.0), ("B200", 2250.0),
    ("A100", 312.0), ("A800", 312.0), ("L40S", 362.0), ("L4", 121.0), ("A10G", 70.0), ("A10", 125.0), ("A6000", 155.0),
    ("4090", 165.0), ("3090", 71.0), ("V100", 125.0), ("T4", 65.0),
)  # fmt: skip


def device_peak(device, given=None):
    """Peak FLOP/s of a device: ``given`` TFLOP/s, or by its name; None where it is not known."""
    if given:
        return given * 1e12
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAKS if part in name), None)


class ModelFlops:
    """Floating-point operations of one training step, counted from shapes; recomputation and padding do not count.

    A frozen weight costs 2 operations per token forward and 2 backward (for the activation's gradient), a trained one
    2 more. The output layer sees the answer alone. Causal attention costs 2 S^2 d per layer forward, twice that back.
    """

    def __init__(self, llm):
        config = llm.config.get_text_config() if hasattr(llm.config, "get_text_config") else llm.config
        frozen = sum(numbers_in(w) for w in llm.parameters() if not w.requires_grad)
        embedding = llm.get_input_embeddings().weight
        output = llm.get_output_embeddings()
        self.output = numbers_in(output.weight) if output is not None else 0
        tied = output is not None and output.weight is embedding
        self.body = frozen - numbers_in(embedding) - (0 if tied else self.output)
        self.trained = sum(w.numel() for w in llm.parameters() if w.requires_grad)
        adapter = next(iter(getattr(llm, "peft_config", {}).values()), None)
        if getattr(adapter, "mixing", None) == "weight":  # RecLoRA's meta-LoRAs are mixed into one before use
            self.trained //= adapter.num_experts
        self.attention = 2 * config.num_hidden_layers * config.hidden_size

    def step(self, tokens, answer_tokens, squared_lengths):
        """Operations of one step.

        Args:
            tokens: fed, of prompts and answers.
            answer_tokens: predicted.
            squared_lengths: the sum of S^2 over the rows.
        """
        dense = (4 * self.body + 6 * self.trained) * tokens + 4 * self.output * answer_tokens
        return dense + 3 * self.attention * squared_lengths


class Meter:
    """Counts over a training run of this process; the sums over all processes come with :meth:`report`."""

    def __init__(self, model, device, peak_tflops=None):
        self.device, self.peak = device, device_peak(device, peak_tflops)
        self.flops = ModelFlops(model.llm)
        self.tokens = self.flop_count = self.steps = 0
        self.waited = 0.0
        self.start = time.perf_counter()
        self._pause = 0.0

    def count(self, group):
        """Add a step's micro-batches: the tokens that ``LLMRecommender.forward`` feeds, and those that it predicts."""
        for batch in group:
            answer = batch["answer_mask"]
            if "rival_mask" in batch:
                answer = answer & until_last_choice(batch["rival_mask"])
            answers = answer.sum(1)
            rows = batch["prompt_mask"].sum(1) + answers - 1
            if LIST_FIELD in batch:
                rows = fed_lengths(rows, batch[LIST_FIELD], batch[SHARED_FIELD])
            tokens, answered, squares = int(rows.sum()), int(answers.sum()), int((rows * rows).sum())
            self.tokens += tokens
            self.flop_count += self.flops.step(tokens, answered, squares)
        self.steps += 1

    @contextmanager
    def pause(self):
        """Leave out the block's time: validation and checkpoints are no training."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._pause += time.perf_counter() - start

    @property
    def seconds(self):
        return max(1e-9, time.perf_counter() - self.start - self._pause)

    def rate(self):
        """Tokens per second of all processes (their shares are alike)."""
        return self.tokens * distributed.world_size() / self.seconds

    def memory(self):
        """Peak memory of this process in GB."""
        return result_file.peak_memory_mb() / 1024

    def report(self):
        """{tokens_per_second, mfu (None: the peak is not known), peak_memory_gb, device_hours, data_wait, seconds}."""
        tokens, flops, waited = distributed.total(self.tokens, self.flop_count, self.waited)
        processes, seconds = distributed.world_size(), self.seconds
        return {
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / (self.peak * processes) if self.peak else None,
            "peak_memory_gb": self.memory(),
            "device_hours": seconds * processes / 3600,
            "data_wait": waited / processes / seconds,
            "seconds": seconds,
        }


def closing_line(report):
    """What the log says when training ends."""
    mfu = "-" if report["mfu"] is None else f"{report['mfu']:.1%}"
    return (
        f"training: {report['tokens_per_second']:,.0f} tokens/s, model FLOPs utilisation {mfu}, peak memory "
        f"{report['peak_memory_gb']:.2f} GB, device time {report['device_hours'] * 3600:,.0f} s, "
        f"waiting for data {report['data_wait']:.1%}"
    )
