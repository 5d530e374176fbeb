"""The arithmetic of gated low-rank adapters, free of PEFT and of state.

iLoRA (arXiv 2408.10159, eq. 8-11) splits the rank r into K experts of r/K and weighs them by a gate w of the sequence::

    delta = s * sum_k w_k B_k A_k x = s * ((x A^T) * repeat(w, r/K)) B^T          "split"

so it costs what LoRA costs. The released code forms [batch, length, K, d_out] instead; the two are equal.
RecLoRA (arXiv 2408.03533, eq. 6-8) keeps N meta-LoRAs of full rank r, weighed by a of the user::

    delta = s * B_u A_u x,   A_u = sum_n a_n A_n,   B_u = sum_n a_n B_n           "weight", the released one
    delta = s * sum_n a_n B_n A_n x                                               "output", one bottleneck of rank N r

Scaling and gate are folded into the bottleneck ([.., r]) or into the weights ([B, N]), never applied to [.., d_out].
In every function x is [B', L, d_in] (or [B' L, d_in], rows of one sequence adjacent), and B' may be a multiple n of the
gate's B: row b of the gate then serves the n adjacent rows b n ... b n + n - 1, as beams are laid out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_delta(x: Tensor, A: Tensor, B: Tensor, gate: Tensor, scaling: float) -> Tensor:
    """iLoRA's update of one linear layer.

    Args:
        x: [B', L, d_in]
        A: [r, d_in], the experts' r/K rows one after the other
        B: [d_out, r]
        gate: [B, K], or [B, L, K] for packed rows, a gate per token
        scaling: alpha / (r/K)

    Returns:
        [B', L, d_out]

    Raises:
        ValueError: K does not divide r, or the gate's rows do not divide those of x
    """
    return F.linear(split_bottleneck(x, A, gate, scaling), B)


def mixed_delta(x: Tensor, A: Tensor, B: Tensor, weights: Tensor, scaling: float, mixing: str = "weight") -> Tensor:
    """RecLoRA's update of one linear layer.

    Args:
        x: [B', L, d_in]
        A: [N, r, d_in]
        B: [N, d_out, r]
        weights: [B, N]; with ``mixing="output"`` also [B, L, N]
        scaling: alpha / r
        mixing: "weight" (A_u and B_u are mixed, then multiplied) or "output" (the N products are summed)

    Returns:
        [B', L, d_out]

    Raises:
        ValueError: unknown mixing, a gate per token with weight mixing, or rows that do not divide
    """
    if mixing == "weight":
        return mixed_linear(mixed_linear(x, mix(weights * scaling, A)), mix(weights, B))
    if mixing == "output":
        return F.linear(output_bottleneck(x, A, weights, scaling), stacked_columns(B))
    raise ValueError(f"mixing={mixing!r}: must be 'weight' or 'output'")


def split_bottleneck(x: Tensor, A: Tensor, gate: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """s * (x A^T) * repeat(gate, r/K): x [.., d_in], A [r, d_in], gate [B, K] or [B, L, K] -> [.., r]; mask: dropout's."""
    if A.shape[0] % gate.shape[-1]:
        raise ValueError(f"r={A.shape[0]} is not divisible by K={gate.shape[-1]} experts; choose r as a multiple of K")
    return _weigh(masked_linear(x, A, mask), align_gate(gate, x), scaling)


def output_bottleneck(x: Tensor, A: Tensor, weights: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """The N bottlenecks side by side: x [.., d_in], A [N, r, d_in], weights [B, N] or [B, L, N] -> [.., N r]."""
    return _weigh(masked_linear(x, A.flatten(0, 1), mask), align_gate(weights, x), scaling)


def masked_linear(x: Tensor, A: Tensor, mask: Tensor | None = None) -> Tensor:
    """(x * mask) A^T in x's precision and without a copy of x: x [B', L, d_in], A [q, d_in] or [B, q, d_in] -> [B', L, q].

    Args:
        mask: [B', d_in], one for each row of x, or None; it is multiplied into A in A's precision.
    """
    if mask is not None:
        if A.dim() == 3 and A.shape[0] != mask.shape[0]:
            check_rows(mask.shape[0], A.shape[0])
            A = A.repeat_interleave(mask.shape[0] // A.shape[0], dim=0)
        A = A * mask.unsqueeze(1)                                               # [B', q, d_in]
    A = A.to(x.dtype)                                       # masters may be float32 on a bfloat16 base
    return mixed_linear(x, A) if A.dim() == 3 else F.linear(x, A)


def stacked_columns(B: Tensor) -> Tensor:
    """[N, d_out, r] -> [d_out, N r], the second factor that belongs to `output_bottleneck`."""
    return B.transpose(1, 2).flatten(0, 1).t()


def mix(weights: Tensor, stack: Tensor) -> Tensor:
    """One matrix per row: weights [B, N], stack [N, p, q] -> sum_n weights_n stack_n, [B, p, q]."""
    if weights.dim() != 2:
        raise ValueError(f"weight mixing needs one gate per row, [B, N], got {tuple(weights.shape)}; "
                         "use mixing='output' for a gate per token")
    return (weights.to(stack.dtype) @ stack.flatten(1)).unflatten(-1, stack.shape[1:])


def mixed_linear(x: Tensor, matrices: Tensor, base: Tensor | None = None) -> Tensor:
    """Each row by its own matrix: x [B', .., q], matrices [B, p, q] -> base + x M^T, [B', .., p].

    The n rows of x that share a matrix are seen as one longer row: no copy of the matrix.
    """
    rows = matrices.shape[0]
    check_rows(x.shape[0], rows)
    grouped = x.reshape(rows, -1, x.shape[-1])                                   # [B, n L, q]
    if base is None:
        device = x.device.type
        if torch.is_autocast_enabled(device):                                   # does not reach into a Function
            dtype = torch.get_autocast_dtype(device)
            grouped, matrices = grouped.to(dtype), matrices.to(dtype)
        out = _RowLinear.apply(grouped, matrices)
    else:
        out = torch.baddbmm(base.reshape(rows, -1, base.shape[-1]), grouped, matrices.transpose(1, 2))
    return out.reshape(*x.shape[:-1], matrices.shape[1])


class _RowLinear(torch.autograd.Function):
    """x [B, L, q], M [B, p, q] -> x M^T, with M's gradient as g^T x.

    Autograd's own, (x^T g)^T, has p columns instead of p rows: 4.6 times slower on a CPU at p=8, q=2048, L=256.
    """

    @staticmethod
    def forward(ctx, x: Tensor, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrices)
        return torch.bmm(x, matrices.transpose(1, 2))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, matrices = ctx.saved_tensors
        needs_x, needs_matrices = ctx.needs_input_grad
        return (torch.bmm(grad, matrices) if needs_x else None,
                torch.bmm(grad.transpose(1, 2), x) if needs_matrices else None)


def add_linear(base: Tensor, z: Tensor, B: Tensor) -> Tensor:
    """base + z B^T in base's precision: base [.., d_out], z [.., r], B [d_out, r]; one pass where z is of that precision."""
    B = B.to(z.dtype)
    if base.dtype != z.dtype:
        return base + F.linear(z, B).to(base.dtype)
    flat = torch.addmm(base.reshape(-1, base.shape[-1]), z.reshape(-1, z.shape[-1]), B.t())
    return flat.view(base.shape)


def align_gate(gate: Tensor, x: Tensor) -> Tensor:
    """The gate with x's rows: [B, K] -> [B', 1, K] (x 3-D) or [B', K] (x 2-D); [B, L, K] -> [B', L, K] or [B' L, K]."""
    per_token = gate.dim() == 3
    if per_token and x.dim() == 2:
        gate = gate.flatten(0, 1)                                                # flattened tokens, row after row
    elif per_token and gate.shape[1] != x.shape[1]:
        raise ValueError(f"a gate per token has length {gate.shape[1]}, its input {x.shape[1]}; give the gate of "
                         "exactly the tokens of this call")
    check_rows(x.shape[0], gate.shape[0])
    if x.shape[0] != gate.shape[0]:
        if per_token and x.dim() == 2:
            raise ValueError(f"{x.shape[0]} flattened tokens for a gate of {gate.shape[0]}; repeat the gate's rows")
        gate = gate.repeat_interleave(x.shape[0] // gate.shape[0], dim=0)        # beams of a row are adjacent
    for _ in range(x.dim() - gate.dim()):
        gate = gate.unsqueeze(1)
    return gate


def check_rows(rows: int, gate_rows: int) -> None:
    """Raise ValueError unless the gate's rows divide the input's."""
    if rows % gate_rows:
        raise ValueError(f"an input of {rows} rows for a gate of {gate_rows}: the input's rows must be a multiple of "
                         "the gate's (one gate per row, or per row and its beams)")


def _weigh(h: Tensor, gate: Tensor, scaling: float) -> Tensor:
    """h [.., K m] times the gate [.., K] of its K blocks; the gate is scaled in its own precision, then cast."""
    scaled = (gate * scaling).to(device=h.device, dtype=h.dtype)
    return (h.unflatten(-1, (gate.shape[-1], -1)) * scaled.unsqueeze(-1)).flatten(-2)
