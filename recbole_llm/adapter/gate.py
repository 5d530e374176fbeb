"""The gate of the current batch, and how it reaches the adapters.

An LLM's forward has no argument for a gate, so the slots of all adapted layers share one plain `GateHolder`;
`use_gate` fills it for the duration of a block. A plain object (no ContextVar, no hook) costs torch.compile no graph
break. Gradient checkpointing runs the forward a second time, inside backward, when the holder may hold the gate of
another batch; `checkpoint_context_fn` restores the right one, and a recomputation without it raises.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

LAYOUTS = {"row": "[B, K]", "token": "[B, S, K]", "module": "[B, M, K]"}


@dataclass(frozen=True, eq=False)
class Gate:
    """Expert weights of one batch, with their layout spelt out, since [B, S, K] and [B, M, K] look alike.

    Use `Gate.per_row` ([B, K]), `Gate.per_token` ([B, S, K], packed rows) or `Gate.per_module` ([B, M, K]: a gate for
    each adapted module, in the order of `gated_modules(model)`).
    """

    weights: Tensor
    layout: str = "row"
    modules: tuple[str, ...] | None = None
    parts: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"gate layout {self.layout!r}: must be one of {', '.join(LAYOUTS)}")
        if not torch.is_tensor(self.weights) or not self.weights.is_floating_point():
            raise TypeError("a gate must be a floating-point tensor, " + LAYOUTS[self.layout])
        if self.weights.dim() != (2 if self.layout == "row" else 3):
            raise ValueError(f"a gate per {self.layout} has shape {LAYOUTS[self.layout]}, got "
                             f"{tuple(self.weights.shape)}; see Gate.per_row, Gate.per_token and Gate.per_module")
        # One unbind for all modules: its backward is one stack, where M selects would each write [B, M, K] zeros.
        object.__setattr__(self, "parts", self.weights.unbind(1) if self.layout == "module" else (self.weights,))

    @classmethod
    def per_row(cls, weights: Tensor) -> "Gate":
        """One gate for each row and all its tokens and modules: [B, K]."""
        return cls(weights, "row")

    @classmethod
    def per_token(cls, weights: Tensor) -> "Gate":
        """One gate for each token, as packed rows need: [B, S, K]."""
        return cls(weights, "token")

    @classmethod
    def per_module(cls, weights: Tensor, modules: tuple[str, ...] | None = None) -> "Gate":
        """One gate for each row and adapted module: [B, M, K]; `modules` (optional) is checked against the model's."""
        return cls(weights, "module", None if modules is None else tuple(modules))

    def of(self, index: int) -> Tensor:
        """The gate of the module at `index`: [B, K] or [B, S, K]."""
        return self.parts[index] if self.layout == "module" else self.parts[0]


class GateHolder:
    """What all slots of one model share: the current gates, the names of the adapted modules, the mixed matrices."""

    def __init__(self) -> None:
        self.gates: dict[str | None, Gate] = {}              # by adapter name; None: all without their own
        self.modules: dict[str, list[str]] = {}              # adapter name -> adapted modules in the model's order
        self.restored = False                                # inside a recomputation that has its own gates
        self.mixed: dict[nn.Module, tuple] = {}              # slot -> (what it was mixed from, matrices)

    def __getstate__(self) -> dict:
        """Copies and pickles of a model start without a gate: it belongs to a batch."""
        return {**self.__dict__, "gates": {}, "mixed": {}, "restored": False}

    def current(self, adapter: str) -> Gate:
        """The gate in force for `adapter`. RuntimeError: there is none, or a recomputation lost its own."""
        if not torch.compiler.is_compiling() and not self.restored and torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "gradient checkpointing recomputes a gated adapter without the gate of its forward, which would give "
                "wrong gradients; use non-reentrant checkpointing with the adapter's context function: "
                "enable_gradient_checkpointing(model), or gradient_checkpointing_kwargs={'use_reentrant': False, "
                "'context_fn': checkpoint_context_fn(model)}")
        gate = self.gates.get(adapter)
        if gate is None:
            gate = self.gates.get(None)
        if gate is None:
            raise RuntimeError(f"adapter {adapter!r} is gated and no gate is set; call the model inside "
                               "`with use_gate(model, gate):`, or inside `with model.disable_adapter():`")
        return gate

    def index(self, adapter: str, module: str) -> int:
        """The position of `module` among the modules of `adapter`; a new one is appended."""
        names = self.modules.setdefault(adapter, [])
        if module not in names:
            names.append(module)
        return names.index(module)


    def checkpoint_contexts(self) -> tuple:
        """`context_fn` of torch.utils.checkpoint: nothing at forward, the forward's gates at recomputation."""
        return nullcontext(), _Restored(self, self.gates)

    def remember(self, slot: nn.Module, gate: Tensor, settings: tuple, compute) -> Tensor:
        """The slot's mixed matrices: computed once for a gate while no gradient is recorded, else each time.

        Reused only for the same gate tensor and adapter weight, both unchanged since. Inference tensors carry no
        version counter, so a change to them could not be seen: with such a gate nothing is kept.
        """
        if torch.compiler.is_compiling():
            return compute()
        weight = slot.weight
        if torch.is_grad_enabled() or gate.is_inference() or weight.is_inference():
            self.mixed.pop(slot, None)
            return compute()
        key = (gate._version, weight._version, weight.data_ptr(), settings)
        owner, known, matrices = self.mixed.get(slot, (None, None, None))
        if owner is None or owner() is not gate or known != key:
            matrices = compute()
            self.mixed[slot] = (weakref.ref(gate), key, matrices)
        return matrices


class _Restored:
    """The gates of one checkpointed forward, in force while it is recomputed (again at each backward)."""

    def __init__(self, holder: GateHolder, gates: dict[str | None, Gate]) -> None:
        self.holder, self.gates, self.before = holder, gates, []

    def __enter__(self) -> None:
        self.before.append((self.holder.gates, self.holder.restored))
        self.holder.gates, self.holder.restored = self.gates, True

    def __exit__(self, *error) -> None:
        self.holder.gates, self.holder.restored = self.before.pop()


def holder_of(model: nn.Module) -> GateHolder:
    """The holder of a gated PEFT model, also under DDP or torch.compile. TypeError: the model has no gated adapter."""
    for attribute in ("_orig_mod", "module", "_orig_mod"):
        model = getattr(model, attribute, model)
    holder = getattr(model, "gate_holder", None)
    if not isinstance(holder, GateHolder):
        raise TypeError(f"{type(model).__name__} has no gated adapter; pass the model that "
                        "get_peft_model(llm, GatedLoraConfig(...)) returned")
    return holder


def gated_modules(model: nn.Module, adapter_name: str = "default") -> tuple[str, ...]:
    """Names of the modules that `adapter_name` adapts, in the order that `Gate.per_module` and the routers use."""
    return tuple(holder_of(model).modules.get(adapter_name, ()))


@contextmanager
def use_gate(model: nn.Module, gate: Gate | Tensor, adapter_name: str | None = None) -> Iterator[None]:
    """Run the model with this gate inside the block; blocks nest, and backward may come after the block.

    Args:
        model: what get_peft_model(llm, GatedLoraConfig(...)) returned
        gate: a `Gate`, or a tensor [B, K] for one gate per row; the model's batch may be n B (beams)
        adapter_name: the adapter it is for; None: every adapter that has no gate of its own

    Raises:
        ValueError: wrong number of modules, unknown adapter, or a 3-D tensor (say which by `Gate.per_...`); at the model's forward,
            wrong number of experts
    """
    if torch.is_tensor(gate):
        gate = Gate.per_row(gate)
    holder = holder_of(model)
    _check(model, holder, gate, adapter_name)
    before = holder.gates
    holder.gates = {**before, adapter_name: gate}            # never changed in place: checkpointing keeps references
    try:
        yield
    finally:
        holder.gates = before


def checkpoint_context_fn(model: nn.Module):
    """The `context_fn` for non-reentrant gradient checkpointing of a gated model."""
    return holder_of(model).checkpoint_contexts


def enable_gradient_checkpointing(model: nn.Module, gated: bool = True) -> None:
    """Turn a Hugging Face model's checkpointing on in the one form that is right for its adapter, gated or plain."""
    options = {"use_reentrant": False} | ({"context_fn": checkpoint_context_fn(model)} if gated else {})
    if hasattr(model, "activation_checkpointing_enable"):    # the name since late transformers 5
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _check(model: nn.Module, holder: GateHolder, gate: Gate, adapter_name: str | None) -> None:
    if adapter_name is not None and adapter_name not in holder.modules:
        raise ValueError(f"adapter_name={adapter_name!r}: the model's gated adapters are "
                         f"{', '.join(sorted(holder.modules)) or 'none'}")
    for name in (adapter_name,) if adapter_name is not None else _active(model, holder):
        names = holder.modules[name]
        if gate.layout == "module" and gate.weights.shape[1] != len(names):
            raise ValueError(f"the gate serves {gate.weights.shape[1]} modules, adapter {name!r} has {len(names)}; "
                             "see gated_modules(model)")
        if gate.modules is not None and gate.modules != tuple(names):
            raise ValueError(f"the gate's modules differ from those of adapter {name!r}, or come in another order; "
                             "see gated_modules(model)")


def _active(model: nn.Module, holder: GateHolder) -> list[str]:
    for attribute in ("_orig_mod", "module", "_orig_mod"):
        model = getattr(model, attribute, model)
    return [name for name in model.active_adapters if name in holder.modules]
