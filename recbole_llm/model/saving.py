"""An LLM recommender's trained weights as a folder that PEFT can read.

    adapter_config.json, adapter_model.safetensors   PEFT's own layout: LLaRA's adapter loads in plain PEFT
    modules.safetensors                              projector, router: whatever else was trained
    config.yaml                                      the resolved settings, as plain values
    state.json                                       epoch, validation score, what the weights belong to

The frozen LLM and CRM are not copied. Nothing here is a pickle. The folder is written under another name and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
import yaml
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from recbole_llm.config import plain_values

ADAPTER, MODULES, CONFIG, STATE = "adapter_model.safetensors", "modules.safetensors", "config.yaml", "state.json"


def other_weights(model) -> dict[str, torch.Tensor]:
    """Trained weights outside the LLM, by name."""
    return {n: w.detach() for n, w in model.named_parameters() if w.requires_grad and not n.startswith("llm.")}


def identity(model) -> dict:
    """What a checkpoint's weights belong to; compared when they are loaded."""
    config = model.config
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "llm": config["llm_path"],
        "n_items": int(model.n_items),
        "crm": model.crm.name,
        "crm_sha256": model.crm.sha256,
    }


def save_checkpoint(model, folder: str | os.PathLike, state: dict) -> None:
    """Write ``model``'s trained weights to ``folder``, replacing it, whole or not at all.

    Raises:
        OSError: the disk is full, say; an earlier ``folder`` is then untouched.
    """
    folder = Path(folder)
    aside, old = folder.with_name(f".{folder.name}.{os.getpid()}"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        weights = {n: w.cpu().contiguous() for n, w in get_peft_model_state_dict(model.llm, save_embedding_layers=False).items()}
        save_file(weights, aside / ADAPTER, metadata={"format": "pt"})
        model.llm.peft_config["default"].save_pretrained(aside)
        save_file({n: w.cpu().contiguous() for n, w in other_weights(model).items()}, aside / MODULES)
        (aside / CONFIG).write_text(yaml.safe_dump(plain_values(model.config), sort_keys=True), encoding="utf-8")
        (aside / STATE).write_text(json.dumps({**state, "identity": identity(model)}, indent=1), encoding="utf-8")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint_into(model, folder: str | os.PathLike) -> dict:
    """Put the weights of ``folder`` into ``model``; returns its ``state.json``.

    Raises:
        FileNotFoundError: a file of the layout is missing.
        ValueError: the checkpoint belongs to another model, dataset, LLM or CRM, or its weights do not fit.
    """
    folder = Path(folder)
    missing = [name for name in (ADAPTER, MODULES, STATE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no checkpoint of recbole_llm: {missing} missing; train the model again")
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    here, there = identity(model), state["identity"]
    wrong = [f"{key}: checkpoint {there.get(key)!r}, here {value!r}" for key, value in here.items() if there.get(key) != value]
    if wrong:
        raise ValueError(f"checkpoint {folder} does not belong to this run ({'; '.join(wrong)}); use the settings in its "
                         "config.yaml, or another checkpoint")  # fmt: skip
    _load_adapter(model.llm, load_file(folder / ADAPTER), folder / ADAPTER)
    expected, found = other_weights(model), load_file(folder / MODULES)
    differ = sorted(expected.keys() ^ found.keys()) + [
        f"{n} {tuple(found[n].shape)} != {tuple(expected[n].shape)}"
        for n in expected.keys() & found.keys()
        if found[n].shape != expected[n].shape
    ]
    if differ:
        raise ValueError(f"{folder / MODULES} does not fit this model: {differ}")
    with torch.no_grad():
        for name, weight in expected.items():
            weight.copy_(found[name])
    return state


def _load_adapter(llm, weights: dict[str, torch.Tensor], path: Path) -> None:
    expected = get_peft_model_state_dict(llm, save_embedding_layers=False)
    differ = sorted(expected.keys() ^ weights.keys()) + [
        f"{n} {tuple(weights[n].shape)} != {tuple(expected[n].shape)}"
        for n in expected.keys() & weights.keys()
        if weights[n].shape != expected[n].shape
    ]
    if differ:
        raise ValueError(f"{path} does not fit this adapter: {differ[:6]}{' ...' if len(differ) > 6 else ''}")
    set_peft_model_state_dict(llm, weights)
