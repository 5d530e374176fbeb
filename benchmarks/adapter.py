"""Time and memory of one adapted linear layer, forward and backward, against PEFT's plain LoRA.

    python -m benchmarks.adapter                      # 2048 x 2048, 4 rows of 256 tokens; under two minutes on one core
    python -m benchmarks.adapter --d 4096 --batch 8 --seq 600 --dtype bfloat16         # a 7B model's layer, on a GPU

All variants run in turn in each round, and a ratio is the median over rounds of (variant / its reference), so that a
machine that slows down half-way does not favour anyone. The base weight is frozen and the input needs a gradient, as
inside an LLM. Time on a CPU is the process's own CPU time, which other programs on the machine disturb least.
"Peak" counts everything the layer has allocated: weights, input, activations and gradients; "step" leaves out the
weights and the input; "saved" is what the forward keeps for backward.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from recbole_llm.adapter import GatedLoraConfig, use_gate
from recbole_llm.adapter.layer import Slot

RANK, EXPERTS, META_LORAS = 8, 4, 16
LORA_8, LORA_16 = f"PEFT LoRA r={RANK}", f"PEFT LoRA r={2 * RANK}"
# name -> (reference, most time, most peak memory); None: no aim, shown for comparison
VARIANTS = {
    LORA_8: (LORA_8, None, None),
    "iLoRA split": (LORA_8, 1.05, 1.1),
    "iLoRA [B,S,K,d_out]": (LORA_8, None, None),
    LORA_16: (LORA_16, None, None),
    "RecLoRA weight": (LORA_16, 1.0, 1.2),
    "RecLoRA output": (LORA_16, 1.4, None),
}


class Released(nn.Module):
    """iLoRA as its released code computes it: every expert's output is formed, [B, S, K, d_out], then weighed."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(EXPERTS, RANK // EXPERTS, base.in_features) * 0.02)
        self.B = nn.Parameter(torch.randn(EXPERTS, base.out_features, RANK // EXPERTS) * 0.02)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        h = torch.einsum("bsd,krd->bskr", x, self.A.to(x.dtype))
        experts = torch.einsum("bskr,kor->bsko", h, self.B.to(x.dtype))
        return self.base(x) + (experts * gate.to(x.dtype)[:, None, :, None]).sum(2) * (2.0 * EXPERTS)


def build(name: str, d: int, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, int]:
    """The layer of a variant, and the number of experts its gate covers (0: no gate)."""
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Linear(d, d, bias=False, device=device, dtype=dtype))
    options = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["0"]}
    if name == "iLoRA [B,S,K,d_out]":
        return Released(holder[0]).to(device), EXPERTS
    if name in (LORA_8, LORA_16):
        rank = RANK if name == LORA_8 else 2 * RANK
        model, experts = get_peft_model(holder, LoraConfig(**{**options, "r": rank, "lora_alpha": 2 * rank})), 0
        slots = [model.base_model.model[0].lora_B["default"]]
    else:
        experts = EXPERTS if name == "iLoRA split" else META_LORAS
        config = GatedLoraConfig(**options, num_experts=experts, mixing=name.split()[1])
        model = get_peft_model(holder, config)
        slots = [module for module in model.modules() if isinstance(module, Slot)]
    for slot in slots:
        nn.init.normal_(slot.weight, std=0.02)
    return model, experts


class Step:
    """One forward and backward of a variant, on inputs of its own."""

    def __init__(self, name: str, args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.experts = build(name, args.d, dtype, device)
        self.released = isinstance(self.model, Released)
        self.x = torch.randn(args.batch, args.seq, args.d, device=device, dtype=dtype, requires_grad=True)
        self.upstream = torch.randn(args.batch, args.seq, args.d, device=device, dtype=dtype)
        self.logits = torch.randn(args.batch, max(1, self.experts), device=device, requires_grad=True)

    def __call__(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.x.grad = self.logits.grad = None
        gate = self.logits.softmax(-1)
        inside = use_gate(self.model, gate) if self.experts and not self.released else nullcontext()
        with inside:
            y = self.model(self.x, gate) if self.released else self.model(self.x)
        y.backward(self.upstream)

    @property
    def weights(self) -> int:
        """Bytes of the weights and of the input."""
        return sum(t.numel() * t.element_size() for t in (*self.model.parameters(), self.x, self.upstream))


def step_peak(step: Callable[[], None], device: torch.device) -> int:
    """Largest number of bytes that one step has allocated at once, beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def counting_saved(total: list[int]) -> Iterator[None]:
    """Add up the bytes that the forward inside keeps for backward, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    total.append(sum(seen.values()))


def saved_bytes(step: Step) -> int:
    """What one step's forward keeps for backward, without the weights themselves."""
    total: list[int] = []
    with counting_saved(total):
        step()
    return total[0] - sum(p.numel() * p.element_size() for p in step.model.parameters() if not p.requires_grad)


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step: of the device, or CPU seconds of this process."""
    if device.type != "cuda":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def floors(args: argparse.Namespace) -> dict[str, float]:
    """Adapter FLOPs of forward and backward over the base layer's (forward and input gradient)."""
    tokens, base = args.batch * args.seq, 4 * args.batch * args.seq * args.d ** 2
    per_rank = 3 * 2 * 2 * args.d                                  # A and B, forward and both gradients, one token
    mixing = args.batch * META_LORAS * RANK * per_rank
    return {LORA_8: tokens * RANK * per_rank / base, "iLoRA split": tokens * RANK * per_rank / base,
            "iLoRA [B,S,K,d_out]": tokens * (RANK + EXPERTS) * per_rank / base,
            LORA_16: tokens * 2 * RANK * per_rank / base,
            "RecLoRA weight": (tokens * RANK * per_rank + mixing) / base,
            "RecLoRA output": tokens * META_LORAS * RANK * per_rank / base}


def measure(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Times of every round, peak, step and saved bytes of every variant."""
    steps = {name: Step(name, args, device, dtype) for name in VARIANTS}
    figures: dict[str, dict] = {name: {"times": []} for name in VARIANTS}
    for name, step in steps.items():
        step()                                                     # warm-up: thread pools, allocator, kernels
        saved, peak = saved_bytes(step), step_peak(step, device)
        figures[name] |= {"saved": saved, "step": peak, "peak": peak + step.weights}
    for turn in range(args.rounds):
        names = list(VARIANTS)
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            figures[name]["times"].append(timed(steps[name], device))
    return figures


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table; returns {variant: {time, peak, step, saved}}, each over its reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=2048, help="width of the layer, in and out")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on CPU, bfloat16 on CUDA")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{where}; torch {torch.__version__}; d={args.d}, batch {args.batch} x {args.seq}, {dtype}; medians of "
          f"{args.rounds} interleaved rounds, forward + backward")
    figures, floor = measure(args, device, dtype), floors(args)
    print(f"{'':22}{'FLOPs':>8}{'ms':>10}{'time':>8}{'aim':>8}{'peak':>8}{'aim':>8}{'step':>8}{'saved':>8}   against")
    ratios = {}
    for name, (reference, most_time, most_peak) in VARIANTS.items():
        mine, other = figures[name], figures[reference]
        ratio = {"time": statistics.median(a / b for a, b in zip(mine["times"], other["times"], strict=True)),
                 **{key: mine[key] / other[key] for key in ("peak", "step", "saved")}}
        ratios[name] = ratio
        print(f"{name:22}{floor[name]:>7.2%}{statistics.median(mine['times']) * 1e3:>11.1f}{ratio['time']:>8.3f}"
              f"{_aim(most_time, ratio['time']):>8}{ratio['peak']:>8.3f}{_aim(most_peak, ratio['peak']):>8}"
              f"{ratio['step']:>8.3f}{ratio['saved']:>8.3f}   {reference}")
    print("FLOPs: the adapter's share of the base layer's, counted; aims: met (+) or missed (!)")
    return ratios


def _aim(most: float | None, value: float) -> str:
    return "" if most is None else f"{'+' if value <= most else '!'}{most:g}"


if __name__ == "__main__":
    main()
