"""gradients: do unlike sequences pull an adapter apart? (iLoRA, figures 1, 3a and 3b)

    python -m recbole_llm.analysis gradients --dataset=lastfm-llara --recipe=paper [--model=LLaRA,iLoRA] [--clusters=8] [--rows=1024] [--batches=4]

Training sequences (`rows`, seeded) are clustered by the recommender's sequence vectors (k-means), clusters ordered by average
linkage of their centres, and each cut into `batches`. The gradient of the loss in the adapter's weights, at the best weights of a
training, is taken for each batch with dropout off. The heatmap shows the mean cosine between batches of two clusters, a batch never
with itself, so that the diagonal is measured too. Within-cluster against between-cluster similarity has a 95% bootstrap interval
over batches, drawn anew within each cluster. Cost: a training of each model, and a forward and backward pass over `rows` prompts.
"""

from __future__ import annotations

import numpy as np
import torch
from recbole.utils import get_model
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.cluster import KMeans

from recbole_llm.analysis import figures
from recbole_llm.analysis.common import Case, Request
from recbole_llm.analysis.report import Report
from recbole_llm.config.values import ConfigError
from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.prompt_rows import Key
from recbole_llm.data.sample import sample_rows
from recbole_llm.leaderboard.statistics import percentile_interval
from recbole_llm.training.step_batches import to_device

MODELS = ["LLaRA", "iLoRA"]
OPTIONS = {"clusters": 8, "rows": 1024, "batches": 4}
RESAMPLES = 2000


def run(request: Request, clusters: int, rows: int, batches: int) -> Report:
    """The report of the models at the first seed; all are asked about the same batches."""
    if len(request.seeds) != 1:
        raise ConfigError(["gradients: looks at one seed; give --seeds=1 or none"])
    if min(clusters, batches) < 2:
        raise ConfigError([f"gradients: clusters={clusters} and batches={batches} must be 2 or more: one says nothing of between, or within"])
    if silent := [name for name in request.models if not get_model(name).head.writes]:
        raise ConfigError([f"gradients: {name} answers with no title; compare models that name a candidate, such as LLaRA and iLoRA" for name in silent])
    seed, groups, similarity, runs = request.seeds[0], None, {}, []
    for name in request.models:
        case = Case(name, name)
        runs.append(request.result(case, seed, weights=True).name)
        config, model, _, train, _, _ = request.trained(case, seed)
        if groups is None:
            chosen = sample_rows(len(train.dataset), min(rows, len(train.dataset)), seed)
            groups = cut(chosen, cluster(vectors(model, train, chosen), clusters, seed), batches, seed)
        found = np.stack([gradient(model, train, config, batch) for _, batch in groups])
        similarity[name] = cosines(found)
    labels = np.array([label for label, _ in groups])
    table = [{"model": name, **compare(matrix, labels)} for name, matrix in similarity.items()]
    maps = {name: by_cluster(matrix, labels) for name, matrix in similarity.items()}
    reach = max(0.01, *(float(np.nanmax(np.abs(matrix))) for matrix in maps.values()))
    names = [f"{i + 1}" for i in range(clusters)]
    drawn = [figures.heatmap(name, "Mean cosine between the adapter's gradients of two clusters' batches.", _plain(matrix), names, names,
                             ("cluster", "cluster"), (-reach, reach)) for name, matrix in maps.items()]  # fmt: skip
    drawn.append(figures.intervals("Within less between", "Mean cosine within clusters less that between them, 95% interval over batches.",
                                   {"": [(r["model"], r["difference"], r["low"], r["high"]) for r in table]}, "difference of cosines"))  # fmt: skip
    sizes = [int(sum(len(batch) for label, batch in groups if label == c)) for c in range(clusters)]
    head = [f"{sum(sizes)} training sequences in {clusters} clusters of {min(sizes)} to {max(sizes)}, {len(groups)} batches."]
    head += [f"{r['model']}: mean cosine {r['within']:.4f} within clusters, {r['between']:.4f} between; difference {r['difference']:.4f} "
             f"[{r['low']:.4f}, {r['high']:.4f}]." for r in table]  # fmt: skip
    data = {"similarity": {name: _plain(matrix) for name, matrix in maps.items()}, "cluster_sizes": sizes}
    options = {"clusters": clusters, "rows": rows, "batches": batches}
    return Report("gradients", request.dataset, config["protocol"], request.models, head, table, drawn, runs, options, data)


@torch.no_grad()
def vectors(model, train, rows: np.ndarray) -> np.ndarray:
    """The recommender's sequence vectors ``[n, d]`` of rows of the training split."""
    feat = train._dataset.inter_feat
    parts = [model.crm.user_vectors(feat[rows[i : i + 512]].to(model.device)).float().cpu() for i in range(0, len(rows), 512)]
    return torch.cat(parts).numpy()


def cluster(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """k-means labels ``[n]`` of points ``[n, d]``, numbered so that like clusters stand side by side."""
    if len(points) < k:
        raise ConfigError([f"gradients: {len(points)} training rows cannot make {k} clusters; lower --clusters"])
    found = KMeans(n_clusters=k, n_init=10, random_state=seed).fit(points)
    order = leaves_list(linkage(found.cluster_centers_, "average", optimal_ordering=True))
    return np.argsort(order)[found.labels_]


def cut(rows: np.ndarray, labels: np.ndarray, batches: int, seed: int) -> list[tuple[int, np.ndarray]]:
    """(cluster, rows) of each batch: a cluster's rows, shuffled, in ``batches`` parts, or in as many as it has rows."""
    rng, groups = np.random.default_rng([seed, 7]), []
    for label in range(int(labels.max()) + 1):
        members = rng.permutation(rows[labels == label])
        groups += [(label, part) for part in np.array_split(members, min(batches, len(members)))]
    return groups


def gradient(model, train, config, rows: np.ndarray) -> np.ndarray:
    """Gradient ``[P]`` float32 of the loss per answer token of ``rows`` in the adapter's weights; hybrid prompts, first template."""
    weights = [weight for name, weight in model.named_parameters() if weight.requires_grad and "lora_" in name]
    candidates, places = train.dataset.training_candidates(rows, candidate_sets(config), epoch=0)
    keys = [Key(int(row), tuple(c.tolist()), int(place), group=i)
            for i, (row, c, place) in enumerate(zip(rows, candidates, places, strict=True))]  # fmt: skip
    model.eval()
    model.zero_grad(set_to_none=True)
    tokens = 0
    for start in range(0, len(keys), config["train_batch_size"]):
        part = [keys[i] for i in range(start, min(start + config["train_batch_size"], len(keys)))]
        log_likelihood, n_tokens = model(to_device(train.batch(part), model.device))
        (-log_likelihood.sum()).backward()
        tokens += int(n_tokens.sum())
    found = torch.cat([weight.grad.float().flatten() for weight in weights]).cpu().numpy() / tokens
    model.zero_grad(set_to_none=True)
    return found


def cosines(gradients: np.ndarray) -> np.ndarray:
    """Cosines ``[G, G]`` of gradients ``[G, P]``; a gradient of zero, which has no direction, is at right angles to all."""
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    unit = gradients / np.where(norms > 0, norms, 1.0)
    return (unit @ unit.T).astype(np.float64)


def by_cluster(similarity: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean similarity ``[K, K]`` between batches of two clusters, a batch with itself left out; nan where there is no pair."""
    member = np.eye(int(labels.max()) + 1)[labels]  # [G, K]
    apart = 1 - np.eye(len(labels))
    pairs = member.T @ apart @ member
    sums = member.T @ (similarity * apart) @ member
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)


def compare(similarity: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict:
    """Mean similarity ``within`` clusters and ``between`` them, and their ``difference`` with its 95% interval (``low, high``)."""
    same = labels[:, None] == labels[None]
    inside, outside = same & ~np.eye(len(labels), dtype=bool), ~same

    def means(count: np.ndarray) -> tuple[float, float]:
        """Over pairs of batches that were drawn ``count`` [G] times; a batch is no pair with its own copy."""
        weight = count[:, None] * count[None]
        return tuple(float((weight * similarity)[where].sum() / weight[where].sum()) for where in (inside, outside))

    within, between = means(np.ones(len(labels)))
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        count = np.zeros(len(labels))
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            np.add.at(count, rng.choice(members, len(members)), 1)
        if (count[:, None] * count[None])[inside].sum() > 0:
            again = means(count)
            drawn.append(again[0] - again[1])
    low, high = percentile_interval(np.array(drawn))
    return {"within": within, "between": between, "difference": within - between, "low": low, "high": high}


def _plain(matrix: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
