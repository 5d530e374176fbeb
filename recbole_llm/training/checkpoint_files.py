"""The files of a checkpoint folder, whole or named as damaged.

    adapter_config.json, adapter_model.safetensors   PEFT's own layout: LLaRA's adapter loads in plain PEFT
    modules.safetensors                              projector, router: whatever else was trained
    config.yaml                                      the resolved settings, as plain values
    state.json                                       epoch, validation score, what the weights belong to, the hashes of
                                                     the data, and the sha256 of every other file and of itself
    optimizer.safetensors, rng.safetensors           where training goes on from (step folders only)

The frozen LLM and CRM are not copied. Nothing here is a pickle. The folder is written under another name, brought to
the disk and renamed, so that a folder of the right name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors import torch as safetensors

from recbole_llm.runtime.files import file_sha256, whole_folder

ADAPTER, MODULES, CONFIG, STATE = "adapter_model.safetensors", "modules.safetensors", "config.yaml", "state.json"
OPTIMIZER, RNG = "optimizer.safetensors", "rng.safetensors"
ELSEWHERE = "set checkpoint_dir elsewhere, then go on with --resume=auto: earlier checkpoints are untouched"


class DamagedCheckpoint(ValueError):
    """A checkpoint's file is missing, cut or edited; the message names it."""


def write_folder(folder: Path, state: dict, tensors: dict[str, dict], settings: dict, adapter) -> None:
    """Write a checkpoint.

    Args:
        folder: its place; a checkpoint that is there is replaced.
        state: what ``state.json`` holds besides the hashes; plain values.
        tensors: file name -> {tensor name: tensor on the CPU}.
        settings: of the run, as plain values.
        adapter: PEFT's configuration.

    Raises:
        OSError: the disk is full, say; a checkpoint that was there is untouched.
    """
    with whole_folder(folder, ELSEWHERE, sync=True) as aside:
        for name, values in tensors.items():
            (aside / name).write_bytes(safetensors.save(values, metadata={"format": "pt"}))
        adapter.save_pretrained(aside)
        (aside / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=True), encoding="utf-8")
        record = {**state, "files": {path.name: file_sha256(path) for path in sorted(aside.iterdir())}}
        (aside / STATE).write_text(json.dumps({**record, "sha256": _record_hash(record)}, indent=1), encoding="utf-8")


def _record_hash(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_state(folder: str | os.PathLike) -> dict:
    """The ``state.json`` of a checkpoint whose files are all as they were written.

    Raises:
        DamagedCheckpoint: a file is missing, cut or edited; it is named.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        record = {name: value for name, value in state.items() if name != "sha256"}
        intact = state["sha256"] == _record_hash(record) and isinstance(state["files"], dict)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{folder / STATE} is missing: the folder is no checkpoint of recbole_llm") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise DamagedCheckpoint(f"{folder / STATE} is damaged: it was cut or edited after it was written")
    for name, digest in state["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path} is missing")
        if file_sha256(path) != digest:
            raise DamagedCheckpoint(f"{path} is damaged: it was cut or edited after it was written")
    return state


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU; DamagedCheckpoint where it is none."""
    try:
        return safetensors.load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read as safetensors: {error}") from error


def checkpoint_folder(path: str | os.PathLike) -> Path:
    """The checkpoint to evaluate under ``path``: itself, or in a run's folder its best, or else its latest.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if (path / STATE).is_file():
        return path
    for pattern in ("best-*", "step-*"):
        for folder in sorted(path.glob(pattern), reverse=True):
            if (folder / STATE).is_file():
                return folder
    raise FileNotFoundError(f"{path} is no checkpoint of recbole_llm and holds none; name a result file (.json) or a run's folder, or train the model again")
