"""Pretraining state on disk: safetensors and JSON, nothing pickled; files are replaced whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recbole_llm.builtin.build import write_json

TENSORS, META = "state.safetensors", "state.json"


def save(folder: Path, parts: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, meta: dict) -> None:
    """Write the modules' and the optimizer's tensors, torch's random state and ``meta``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}/{key}": value for name, module in parts.items() for key, value in module.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in slots.items()}
    tensors["rng"] = torch.get_rng_state()
    temporary = folder / (TENSORS + ".tmp")
    save_file({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}, temporary,
              metadata={"step": str(meta["step"])})
    os.replace(temporary, folder / TENSORS)
    write_json(folder / META, meta)


def load(folder: Path, parts: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> dict:
    """Restore what :func:`save` wrote and return ``meta``.

    Raises:
        FileNotFoundError: the folder holds no state.
    """
    if not (folder / TENSORS).is_file() or not (folder / META).is_file():
        raise FileNotFoundError(f"{folder} holds no pretraining state ({TENSORS}, {META}); run without --resume")
    tensors = load_file(folder / TENSORS)
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
    return json.loads((folder / META).read_text(encoding="utf-8"))
