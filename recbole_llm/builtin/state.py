"""Pretraining state on disk: one safetensors file, replaced whole, so that tensors and counters are of one step; nothing pickled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

FILE = "state.safetensors"


def save(folder: Path, parts: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, meta: dict) -> None:
    """Write the modules' and the optimizer's tensors, torch's random state and ``meta`` (as JSON, in the file's header)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}/{key}": value for name, module in parts.items() for key, value in module.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in slots.items()}
    tensors["rng"] = torch.get_rng_state()
    temporary = folder / (FILE + ".tmp")
    save_file({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}, temporary,
              metadata={"meta": json.dumps(meta)})
    os.replace(temporary, folder / FILE)


def load(folder: Path, parts: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> dict:
    """Restore what :func:`save` wrote and return ``meta``.

    Raises:
        FileNotFoundError: the folder holds no state.
    """
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no pretraining state ({FILE}); run without --resume")
    with safe_open(folder / FILE, framework="pt") as file:
        meta, tensors = json.loads(file.metadata()["meta"]), {key: file.get_tensor(key) for key in file.keys()}
    for name, module in parts.items():
        prefix = name + "/"
        module.load_state_dict({k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)})
    saved = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, slot = key.split("/")
            saved["state"].setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(saved)
    torch.set_rng_state(tensors["rng"])
    return meta
