"""RecLoRA's Long-Short Modality Retriever (arXiv 2408.03533, section 4.2; after ReLLa, arXiv 2308.11131).

The CRM reads a long history of ids, the LLM a short one of titles; each is the latest interactions, or those most
relevant to the item asked about: the largest cosines between vectors of item texts. Both come from what the user did
strictly before the row (`data.click.timelines`). Vectors are the LLM's own mean-pooled states, or a sentence encoder's,
computed once and kept under a hash of titles and encoder. Search is exact, by matrix products in bounded blocks.
"""

import hashlib
import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import torch

from recbole_llm.data.candidates import read_npz, write_npz
from recbole_llm.data.click.timelines import recent
from recbole_llm.runtime.files import file_sha256

_BLOCK = 2**22  # similarities held at once: 16 MiB


def most_relevant(
    vectors: np.ndarray, items: np.ndarray, start: np.ndarray, end: np.ndarray, targets: np.ndarray, k: int
) -> np.ndarray:
    """Places of the k items of each row's history nearest to its target.

    Args:
        vectors: unit vectors by internal item id. float32 [M, d]
        items: `Timelines.items`; the history of row i is `items[start[i]:end[i]]`.
        start: where the histories start. int64 [n]
        end: where they end. int64 [n]
        targets: internal ids of the items asked about. int64 [n]
        k: how many places are wanted.

    Returns:
        Places in `items`, in order of time (oldest first), -1 after the last. int64 [n, k]. Of equal similarities the later
        interaction is taken.
    """
    places = recent(start, end, k)
    long = np.flatnonzero(end - start > k)
    if not len(long):
        return places
    order = long[np.argsort(start[long], kind="stable")]  # rows of a user together: their history is gathered once
    bounds = np.flatnonzero(np.r_[True, start[order][1:] != start[order][:-1], True])
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        mine = order[low:high]
        first, last = int(start[mine[0]]), int(end[mine].max())
        distinct, which = np.unique(items[first:last], return_inverse=True)  # an item is as near each time: no rounding
        history = vectors[distinct].T  # [d, U]
        size = max(1, _BLOCK // (last - first))
        for block in (mine[i : i + size] for i in range(0, len(mine), size)):
            similar = (vectors[targets[block]] @ history)[:, which]  # [n, L]
            places[block] = first + _largest(similar, end[block] - first, k)
    return places


def _largest(similar: np.ndarray, length: np.ndarray, k: int) -> np.ndarray:
    """Sorted columns of the k largest of [n, L], among each row's first `length`; changes `similar`. [n, k]"""
    similar[np.arange(similar.shape[1])[None] >= length[:, None]] = -np.inf
    reverse = similar[:, ::-1]  # so that a stable sort takes the later of two equals
    if reverse.shape[1] > 4 * k:  # what is certainly out need not be sorted
        bar = np.partition(reverse, reverse.shape[1] - k, axis=1)[:, -k]
        chosen = np.empty((len(reverse), k), dtype=np.int64)
        for row, (values, least) in enumerate(zip(reverse, bar, strict=True)):
            near = np.flatnonzero(values >= least)
            chosen[row] = near[np.argsort(-values[near], kind="stable")[:k]]
    else:
        chosen = np.argsort(-reverse, axis=1, kind="stable")[:, :k]
    return np.sort(similar.shape[1] - 1 - chosen, axis=1)


def item_vectors(config, titles: list[str], title_ids: list[list[int]]) -> np.ndarray:
    """Unit vectors of item texts by internal id; row 0, the padding item, is zero. float32 [M, d]

    `retrieval_encoder` is `llm` (the run's own) or a sentence-transformers model. The result is kept in
    `<checkpoint_dir>/text_vectors/`.

    Raises:
        ImportError: the encoder's package is not installed; names the extra.
        ValueError: there is no item text, or a vector is not finite.
    """
    if not any(titles[1:]):
        raise ValueError(
            "retrieval by relevance needs item text: set item_text_field, or text_history and crm_history to recent"
        )
    encoder = config["retrieval_encoder"]
    if encoder != "llm" and importlib.util.find_spec("sentence_transformers") is None:
        raise ImportError(
            f"retrieval_encoder: {encoder!r} needs sentence-transformers; pip install 'recbole_llm[encoder]', or set "
            f"retrieval_encoder: llm"
        )
    path = _vectors_file(config, vectors_hash(config, titles))
    if path.is_file():
        try:
            return read_npz(path, lambda arrays: arrays["vectors"])
        except ValueError as error:
            logging.getLogger().warning(f"{error} now")
    raw = _llm_vectors(config, title_ids) if encoder == "llm" else _sentence_vectors(config, titles)
    vectors = unit(raw)
    write_npz(path, {"vectors": vectors})
    return vectors


def keep_vectors(config, dataset) -> str:
    """Compute the vectors of an LLM recommender's items unless they are kept; returns their hash, by which `kept_vectors` finds them."""
    item_vectors(config, dataset.titles, dataset.prompt_tokenizer.title_ids)
    return vectors_hash(config, dataset.titles)


def kept_vectors(config, key: str) -> np.ndarray:
    """What `keep_vectors` kept, for a model without an LLM. float32 [M, d]"""
    return read_npz(_vectors_file(config, key), lambda arrays: arrays["vectors"])


def _vectors_file(config, key: str) -> Path:
    return Path(config["checkpoint_dir"]) / "text_vectors" / f"{config['dataset']}-{key[:16]}.npz"


def unit(raw: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, row 0 zero.

    Raises:
        ValueError: a row is not finite, or zero and so without direction.
    """
    raw = np.asarray(raw, dtype=np.float32)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[1:, 0]) | (norms[1:, 0] == 0)) + 1
    if len(bad):
        raise ValueError(f"the item text encoder gives no direction for {len(bad)} items, first internal id {bad[0]}; "
                         "try llm_dtype: float32 or another retrieval_encoder")  # fmt: skip
    norms[0] = 1.0
    vectors = raw / norms
    vectors[0] = 0.0
    return vectors


def vectors_hash(config, titles: list[str]) -> str:
    """sha256 over the titles and the encoder: its name, and the content of its files where it is a folder."""
    encoder = config["retrieval_encoder"]
    if encoder == "llm":
        from recbole_llm.llm.folder import resolve_path

        encoder = resolve_path(config)
    files = sorted(file for file in Path(encoder).rglob("*") if file.suffix in (".safetensors", ".json"))
    digests = [(file.relative_to(encoder).as_posix(), file_sha256(file)) for file in files]
    described = [digests or encoder, config["retrieval_encoder"] == "llm", config["title_max_tokens"], titles]
    if config["retrieval_encoder"] == "llm" and config["llm_random_weights"]:
        described.append(config["seed"])  # which draws the weights
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


@torch.no_grad()
def _llm_vectors(config, title_ids: list[list[int]]) -> np.ndarray:
    """Mean over a title's tokens of the LLM's last hidden states. float32 [M, d]"""
    from recbole_llm.llm.loading import load_llm

    llm = load_llm(config)
    if not config["llm_quantization"]:
        llm = llm.to(config["device"])
    order = sorted(range(1, len(title_ids)), key=lambda i: len(title_ids[i]))
    found = np.zeros((len(title_ids), llm.get_input_embeddings().embedding_dim), dtype=np.float32)
    for chosen in (order[i : i + 128] for i in range(0, len(order), 128)):
        width = max(len(title_ids[i]) for i in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        for row, i in enumerate(chosen):  # padding to the right, where a causal model cannot see it
            ids[row, : len(title_ids[i])] = torch.tensor(title_ids[i])
            mask[row, : len(title_ids[i])] = 1
        ids, mask = ids.to(llm.device), mask.to(llm.device)
        states = llm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found[chosen] = pooled.cpu().numpy()
    return found


def _sentence_vectors(config, titles: list[str]) -> np.ndarray:
    """A sentence-transformers model's vectors, from safetensors alone: nothing is unpickled. float32 [M, d]"""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(
        config["retrieval_encoder"],
        device=str(config["device"]),
        trust_remote_code=config["trust_remote_code"],
        model_kwargs={"use_safetensors": True},
    )
    vectors = encoder.encode(titles[1:], batch_size=128, show_progress_bar=False)
    return np.concatenate([np.zeros((1, vectors.shape[1]), dtype=np.float32), vectors])
