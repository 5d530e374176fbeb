"""experts: how the gate mixes the experts, sequence by sequence (iLoRA, figure 3c) or layer by layer (RecLoRA).

    python -m recbole_llm.analysis experts --dataset=lastfm-llara --model=iLoRA --recipe=paper [--rows=1000] [--shown=10]

The best weights of one training; the gates of the test sequences (`rows` of them, evenly spaced; null: all). The CSV has a line for
each sequence and, of RecLoRA, each adapted projection. Cost: one training, and a pass of the recommender over the test rows.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from recbole_llm.adapter import Gate, gated_modules
from recbole_llm.analysis import figures
from recbole_llm.analysis.common import Case, Request
from recbole_llm.analysis.report import Report
from recbole_llm.config.values import ConfigError
from recbole_llm.training.step_batches import to_device

MODELS = ["iLoRA"]
OPTIONS = {"rows": 1000, "shown": 10}


def run(request: Request, rows: int | None, shown: int) -> Report:
    """The report of one model and the first seed."""
    if len(request.models) != 1 or len(request.seeds) != 1:
        raise ConfigError(["experts: looks at one model and one seed; give --model=iLoRA or --model=RecLoRA, and --seeds=1 or none"])
    case = Case(request.models[0], request.models[0])
    path = request.result(case, request.seeds[0], weights=True)
    config, model, _, train, _, test = request.trained(case, request.seeds[0])
    users, items, weights, modules = gates(model, test)
    kept = spaced(len(users), rows)
    users, items, weights, start = users[kept], items[kept], weights[kept], gates(untrained(config, train), test)[2][kept]
    k = weights.shape[-1]
    entropies = entropy(weights)  # [n, M]
    table = [_line(name, weights[:, m], start[:, m]) for m, name in enumerate(modules)]
    head = [f"Gates of {len(users)} test sequences, {k} experts. Entropy {entropies.mean():.3f} on average, from {entropies.min():.3f} to "
            f"{entropies.max():.3f}; a uniform gate has ln {k} = {math.log(k):.3f}. Weights differ between sequences by a standard "
            f"deviation of {weights.std(0).mean():.4f}. Before training: entropy {entropy(start).mean():.3f}, deviation "
            f"{start.std(0).mean():.4f}; training moved a weight by {np.abs(weights - start).mean():.4f} on average."]  # fmt: skip
    names = [f"expert {i + 1}" for i in range(k)]
    few = spaced(len(users), shown)
    drawn = [figures.heatmap(
        f"Experts of {len(few)} sequences", "Weights of the experts (columns sum to 1), averaged over the adapted projections.",
        weights[few].mean(1).T.tolist(), users[few].tolist(), names, ("user", ""), (0.0, max(0.5, float(weights[few].mean(1).max()))),
    )]  # fmt: skip
    if len(modules) > 1:
        mean = weights.mean(0)
        drawn.append(figures.heatmap("Experts by layer", "Weights averaged over the sequences.", mean.tolist(), names, modules,
                                     ("", "layer and projection"), (float(mean.min()), float(mean.max()))))  # fmt: skip
    drawn.append(figures.histogram("Entropy over users", "Of each sequence's gate, averaged over the adapted projections.",
                                   {case.model: entropies.mean(1).tolist()}, "entropy (nats)", (f"uniform: {math.log(k):.3f}", math.log(k))))  # fmt: skip
    long = [
        {"user_id": users[i], "item_id": items[i], "module": name, "entropy": float(entropies[i, m]),
         **{f"expert_{e + 1}": float(weights[i, m, e]) for e in range(k)}}
        for i in range(len(users)) for m, name in enumerate(modules)
    ]  # fmt: skip
    return Report("experts", request.dataset, config["protocol"], request.models, head, table, drawn, [path.name],
                  {"rows": rows, "shown": shown}, long_table=long)  # fmt: skip


def _line(module: str, weights: np.ndarray, start: np.ndarray) -> dict:
    """The table's line of one gate: weights [n, K], and before training."""
    means = {f"expert {i + 1}": float(value) for i, value in enumerate(weights.mean(0))}
    entropies = entropy(weights)
    return {"module": module, "entropy": float(entropies.mean()), "sd of entropy": float(entropies.std()),
            "sd between sequences": float(weights.std(0).mean()), "entropy before": float(entropy(start).mean()),
            "sd before": float(start.std(0).mean()), "moved": float(np.abs(weights - start).mean()), **means}  # fmt: skip


def untrained(config, train):
    """The model as training began: new weights are drawn from the seed."""
    from recbole.utils import get_model, init_seed

    init_seed(config["seed"], config["reproducibility"])
    return get_model(config["model"])(config, train._dataset).to(config["device"])


@torch.no_grad()
def gates(model, loader) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Users and items [n] (external), weights [n, M, K] and the names of the M gates, of every prompt of a loader.

    Raises:
        ConfigError: the model has no gate, or one for each candidate.
    """
    dataset, users, items, found = loader._dataset, [], [], []
    model.eval()
    for batch in loader:
        batch = to_device(batch, model.device)
        if batch[model.ITEM_SEQ].dim() > 2:
            raise ConfigError(["experts: crm_history: relevant gives each candidate a gate of its own; use protocol: ctr"])
        gate = model.gate(batch)
        if gate is None:
            raise ConfigError([f"experts: {type(model).__name__} has no gate with these settings; use iLoRA, or RecLoRA with lora_mixing: weight"])
        gate = Gate.per_row(gate) if torch.is_tensor(gate) else gate
        found.append(gate.weights.reshape(len(batch), -1, gate.weights.shape[-1]).float().cpu().numpy())
        users.append(dataset.id2token(dataset.uid_field, batch[model.USER_ID].cpu().numpy()))
        items.append(dataset.id2token(dataset.iid_field, batch[model.ITEM_ID].cpu().numpy()))
    weights = np.concatenate(found).astype(np.float64)
    names = [short(name) for name in gated_modules(model.llm)] if weights.shape[1] > 1 else ["all"]
    return np.concatenate(users), np.concatenate(items), weights, names


def entropy(weights: np.ndarray) -> np.ndarray:
    """Entropy in nats over the last dimension; 0 log 0 is 0."""
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return -(weights * logs).sum(-1)


def spaced(n: int, count: int | None) -> np.ndarray:
    """Up to ``count`` numbers from 0 to n - 1, evenly spaced; None: all."""
    return np.arange(n) if count is None or count >= n else np.linspace(0, n - 1, count).round().astype(int)


def short(module: str) -> str:
    """``layers.0.q_proj`` of ``base_model.model.model.layers.0.self_attn.q_proj``."""
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[number : number + 1] + parts[-1:])
