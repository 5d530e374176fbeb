"""The optimizer's and the random generators' states as plain tensors, and back: what a checkpoint can hold safely."""

import random

import numpy as np
import torch

from recbole_llm.training.checkpoint import whole


def optimizer_tensors(names, optimizer):
    """AdamW's state as {"<weight>|<what>": tensor on the CPU}; every process must call it (shards are gathered)."""
    flat = {}
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            flat[f"{names[weight]}|{key}"] = whole(torch.as_tensor(value))
    return flat


def load_optimizer(names, optimizer, tensors):
    """Put what :func:`optimizer_tensors` gave back; the optimizer's weights must be on their devices already."""
    weights = {names[weight]: weight for group in optimizer.param_groups for weight in group["params"]}
    states = {}
    for flat, value in tensors.items():
        name, key = flat.rsplit("|", 1)
        states.setdefault(weights[name], {})[key] = _like(value, weights[name])
    optimizer.state.update(states)


def _like(value, weight):
    """A moment on its weight's device, sharded as it is; AdamW's step counts stay scalars on the CPU."""
    if value.dim() == 0 or value.shape != weight.shape:
        return value.clone()
    if hasattr(weight, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
    return value.to(weight.device, copy=True)


def rng_tensors():
    """The states of Python's, numpy's and torch's generators in this process, as tensors."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    version, python, gauss_next = random.getstate()
    tensors = {
        "python": torch.tensor([version, *python], dtype=torch.int64),
        "python_gauss": torch.tensor([float("nan") if gauss_next is None else gauss_next], dtype=torch.float64),
        "numpy_keys": torch.from_numpy(keys.astype(np.int64)),
        "numpy_place": torch.tensor([place, has_gauss]),
        "numpy_gauss": torch.tensor([gauss], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_rng(tensors):
    """Undo :func:`rng_tensors`; a CUDA state is used where there is a CUDA device."""
    version, *python = tensors["python"].tolist()
    gauss = tensors["python_gauss"].item()
    random.setstate((version, tuple(python), None if gauss != gauss else gauss))
    place, has_gauss = tensors["numpy_place"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, place, has_gauss, tensors["numpy_gauss"].item()))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
