"""Routers: from what the CRM knows of a user to the experts' weights.

iLoRA's paper has one linear softmax gate for all layers (`Router`, form "linear"); RecLoRA's has, for every adapted
layer and projection, LayerNorm -> 60 -> ReLU -> dropout -> N, softmax at temperature T (`PersonalisedRouter`).
Start (`init`): "paper" is that of the released codes, nn.Linear's own; for inputs of unit variance the logits of a linear
gate then have variance 1/3, and four experts a mean entropy of 1.28 of ln 4 = 1.39. "uniform" draws last layers from
N(0, 0.01^2) with zero bias: weights begin close to uniform, where the adapter is plain LoRA, while every router weight has a
gradient (an exact zero would leave the layer before it without one). As B = 0 at the start, the first step moves B alone;
routers and A follow from the second.
Scale: `Router` reads its input as it is given. The released iLoRA feeds it SASRec's states, which a LayerNorm gave unit
variance; who feeds it other vectors standardises them (`model.ilora`), else a small scale is a uniform start again.
`PersonalisedRouter` begins with a LayerNorm of its own.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMS = ("linear", "mlp", "topk", "noisy")
INITS = ("paper", "uniform")
LAST_STD = 0.01  # of "uniform"


class Router(nn.Module):
    """One gate for the whole model: h [B, in_dim] -> weights [B, K], each row summing to 1.

    Args:
        in_dim: size of h
        num_experts: size of the gate
        form: "linear", softmax(W h / T) (iLoRA, eq. 9); "mlp", with a hidden GELU layer; "topk", linear with all but the
            `top_k` largest set to 0 and the rest renormalised; "noisy", linear with noise added to the logits in training,
            n ~ N(0, softplus(V h)^2) (Shazeer et al. 2017)
        temperature: T > 0, divides the logits
        top_k: experts kept, 1 .. K; needed by "topk", allowed with every form; None keeps all
        hidden: width of the "mlp" form's hidden layer
        init: "paper" or "uniform" (module docstring)

    Raises:
        ValueError: names the key, the rule and the remedy
    """

    def __init__(self, in_dim: int, num_experts: int, form: str = "linear", temperature: float = 1.0,
                 top_k: int | None = None, hidden: int = 64, init: str = "paper") -> None:
        super().__init__()
        _check(in_dim, num_experts, temperature, top_k, hidden, init)
        if form not in FORMS:
            raise ValueError(f"gate_form={form!r}: must be one of {', '.join(FORMS)}")
        if form == "topk" and top_k is None:
            raise ValueError("gate_form='topk' needs gate_top_k, the number of experts to keep; set it to 1 or more")
        self.temperature, self.top_k = temperature, top_k
        self.body = nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU()) if form == "mlp" else nn.Identity()
        self.out = nn.Linear(hidden if form == "mlp" else in_dim, num_experts, bias=form == "mlp")
        self.noise = nn.Linear(in_dim, num_experts, bias=False) if form == "noisy" else None
        if init == "uniform":
            self._start_uniform()

    def _start_uniform(self) -> None:
        nn.init.normal_(self.out.weight, std=LAST_STD)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)
        if self.noise is not None:
            nn.init.normal_(self.noise.weight, std=LAST_STD)

    def forward(self, h: Tensor) -> Tensor:
        logits = self.out(self.body(h))
        if self.noise is not None and self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(h))
        return routing_weights(logits, self.temperature, self.top_k)


class PersonalisedRouter(nn.Module):
    """RecLoRA's gates: user [B, c] -> weights [B, M, N], one softmax for each of M modules; [B, N] when shared.

    All modules in one batched product. `num_modules=None` makes one router that all modules share.

    Args:
        in_dim: c
        num_experts: N
        num_modules: M, the length of `gated_modules(model)`, or None
        hidden: 60 in the paper
        dropout: 0.1 in the paper
        temperature: T
        top_k: meta-LoRAs kept (hard routing), the rest are 0 and the kept are renormalised; None keeps all
        init: "paper" or "uniform" (module docstring)

    Raises:
        ValueError: names the key, the rule and the remedy
    """

    def __init__(self, in_dim: int, num_experts: int, num_modules: int | None = None, hidden: int = 60,
                 dropout: float = 0.1, temperature: float = 1.0, top_k: int | None = None, init: str = "paper") -> None:
        super().__init__()
        _check(in_dim, num_experts, temperature, top_k, hidden, init)
        if num_modules is not None and num_modules < 1:
            raise ValueError(f"num_modules={num_modules}: must be 1 or more, or None for one shared router")
        if not 0 <= dropout < 1:
            raise ValueError(f"gate_dropout={dropout}: must be at least 0 and below 1")
        self.shared = num_modules is None
        self.temperature, self.top_k = temperature, top_k
        m = num_modules or 1
        self.norm_weight = nn.Parameter(torch.ones(m, in_dim))
        self.norm_bias = nn.Parameter(torch.zeros(m, in_dim))
        self.hidden_weight = nn.Parameter(torch.empty(m, hidden, in_dim))
        self.hidden_bias = nn.Parameter(torch.empty(m, hidden))
        self.out_weight = nn.Parameter(torch.empty(m, num_experts, hidden))
        self.out_bias = nn.Parameter(torch.zeros(m, num_experts))
        self.dropout = nn.Dropout(dropout)
        _as_linear(self.hidden_weight, self.hidden_bias)
        if init == "paper":
            _as_linear(self.out_weight, self.out_bias)
        else:
            nn.init.normal_(self.out_weight, std=LAST_STD)

    def forward(self, user: Tensor) -> Tensor:
        normed = F.layer_norm(user, user.shape[-1:]).unsqueeze(1)                     # [B, 1, c]: the same for all M
        scaled = normed * self.norm_weight + self.norm_bias                          # [B, M, c]
        h = torch.einsum("bmc,mhc->bmh", scaled, self.hidden_weight) + self.hidden_bias
        h = self.dropout(F.relu(h))
        logits = torch.einsum("bmh,mnh->bmn", h, self.out_weight) + self.out_bias    # [B, M, N]
        weights = routing_weights(logits, self.temperature, self.top_k)
        return weights.squeeze(1) if self.shared else weights


def _as_linear(weight: Tensor, bias: Tensor) -> None:
    """Draw M layers, weight [M, out, in] and bias [M, out], as nn.Linear draws one."""
    bound = 1 / math.sqrt(weight.shape[-1])
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


def routing_weights(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """softmax(logits / T) over the last dimension, over the `top_k` largest alone where given: [.., K] -> [.., K].

    The others are exactly 0 and pass no gradient; the kept sum to 1 and do. Of equal logits the kept are chosen by
    `torch.topk`: always exactly `top_k` of them.
    """
    logits = logits / temperature
    if top_k is None or top_k == logits.shape[-1]:
        return logits.softmax(-1)
    values, chosen = logits.topk(top_k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, chosen, values.softmax(-1))


def _check(in_dim: int, num_experts: int, temperature: float, top_k: int | None, hidden: int, init: str) -> None:
    """Raise ValueError for sizes, temperatures and starts that have no meaning."""
    if init not in INITS:
        raise ValueError(f"gate_init={init!r}: must be one of {', '.join(INITS)}")
    for name, value in (("in_dim", in_dim), ("num_experts", num_experts), ("gate_hidden", hidden)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be 1 or more")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"gate_temperature={temperature}: must be finite and above 0; 1 leaves the softmax as it is")
    if top_k is not None and not 1 <= top_k <= num_experts:
        raise ValueError(f"gate_top_k={top_k}: must lie in 1 .. num_experts={num_experts}; leave it unset to keep all")
