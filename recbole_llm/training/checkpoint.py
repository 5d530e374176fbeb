"""An LLM recommender's trained weights, saved to a folder and put back into a model that they belong to.

checkpoint_files.py says what a folder holds. Weights are loaded only into the model, dataset, LLM and CRM that they were
trained with, and every trained weight must be there.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from peft import get_peft_model_state_dict

from recbole_llm.config.properties import property_files
from recbole_llm.config.values import plain_values, read_yaml
from recbole_llm.results import provenance
from recbole_llm.runtime import distributed
from recbole_llm.training.checkpoint_files import (
    ADAPTER,
    CONFIG,
    MODULES,
    checkpoint_folder,
    read_state,
    read_tensors,
    write_folder,
)

# settings that change what trained weights compute without changing their names or shapes
MEANING = (
    "lora_alpha", "num_experts", "lora_mixing", "gate_form", "gate_input", "gate_top_k", "gate_temperature",
    "projector_form", "slot_scale", "llm_random_weights",
)  # fmt: skip


def adapter_weights(llm) -> dict[str, torch.nn.Parameter]:
    """The adapter's trained parameters under PEFT's names."""
    trained = {n: w for n, w in llm.named_parameters() if w.requires_grad}
    return get_peft_model_state_dict(llm, state_dict=trained, save_embedding_layers=False)


def other_weights(model) -> dict[str, torch.nn.Parameter]:
    """Trained parameters outside the LLM, by name."""
    return {n: w for n, w in model.named_parameters() if w.requires_grad and not n.startswith("llm.")}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU; a sharded one is put together, which every process must take part in."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu().contiguous()


def identity(model) -> dict:
    """What a checkpoint's weights belong to; compared when they are loaded."""
    config = model.config
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "llm": config["llm_path"],
        "llm_sha256": provenance.weights_hash(config["llm_path"]),
        "n_items": int(model.n_items),
        "crm": model.crm and model.crm.name,
        "crm_sha256": model.crm and model.crm.sha256,
    }


def save_checkpoint(model, folder: str | os.PathLike, state: dict, tensors: dict[str, dict] | None = None) -> None:
    """Write ``model``'s trained weights to ``folder``, replacing it, whole or not at all.

    Every process must call this (sharded weights are gathered); the main one writes.

    Args:
        state: what goes into ``state.json`` besides the identity and the hashes; plain values.
        tensors: further files, name -> {tensor name: tensor on the CPU}.

    Raises:
        OSError: the disk is full, say; an earlier ``folder`` is then untouched, in every process.
    """
    files = {
        ADAPTER: {n: whole(w) for n, w in adapter_weights(model.llm).items()},
        MODULES: {n: whole(w) for n, w in other_weights(model).items()},
        **(tensors or {}),
    }
    distributed.on_main(_write, model, Path(folder), state, files)


def _write(model, folder: Path, state: dict, files: dict[str, dict]) -> None:
    config = model.config
    state = {**state, "data": provenance.data_hash(config), "data_files": provenance.data_files(config), "identity": identity(model)}
    write_folder(folder, state, files, plain_values(config), model.llm.peft_config["default"])


def check_identity(model, state: dict, folder: Path) -> None:
    """ValueError, with both values of each difference, where a checkpoint belongs to another run.

    A local LLM is known by its weights, wherever it lies; one of the hub by its name.
    """
    here, there = identity(model), state["identity"]
    digest = here["llm_sha256"]
    if digest is not None and there.get("llm_sha256") == digest:
        del here["llm"]  # the same weights at another place
    elif there.get("llm_sha256") is None:
        del here["llm_sha256"]  # a hub name, or a checkpoint of an earlier version
    wrong = [
        f"{key}: checkpoint {there.get(key)!r}, here {value!r}"
        for key, value in here.items()
        if there.get(key) != value
    ]
    settings, unread = read_yaml(folder / CONFIG), []
    if model.config["gate_form"] not in (None, "topk"):  # iLoRA reads it with topk alone
        unread.append("gate_top_k")
    if model.config["projector_form"] == "mlp":  # whose weights carry the scale
        unread.append("slot_scale")
    wrong += [
        f"{key}: checkpoint {settings[key]!r}, here {model.config[key]!r}"
        for key in MEANING
        if key in settings and key not in unread and settings[key] != model.config[key]
    ]
    if wrong:
        crm = here.get("crm_sha256") != there.get("crm_sha256")  # of the same settings, perhaps, but trained elsewhere
        remedy = "set checkpoint_dir or crm_path to where the run's own recommender lies, " if crm else ""
        raise ValueError(
            f"checkpoint {folder} does not belong to this run ({'; '.join(wrong)}); {remedy}use the settings in its "
            "config.yaml, or another checkpoint"
        )


def check_data(config, state: dict, folder: Path) -> None:
    """ValueError, naming the files, where the data are not those that a checkpoint learned from.

    A checkpoint that says nothing of its data, as earlier versions wrote them, passes.
    """
    if state.get("data") in (None, provenance.data_hash(config)):
        return
    now, then = provenance.data_files(config), state.get("data_files", {})
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if changed:
        raise ValueError(f"{', '.join(changed)} in {config['data_path']} changed since the checkpoint {folder} was written: its item ids "
                         "and histories are those of the old files; bring them back, or train the model again")  # fmt: skip
    raise ValueError(f"the checkpoint {folder} is of a version of recbole_llm that made other rows of the same files; train the model "
                     "again")  # fmt: skip


def check_version(values: dict, folder: Path) -> None:
    """ValueError where the settings of a checkpoint are those of an earlier version, which lack some that are read now."""
    read = {key for file in property_files(values["model"], "").values() for key in read_yaml(file)}
    if missing := sorted(read - values.keys()):
        raise ValueError(f"the checkpoint {folder} is of an earlier version of recbole_llm: its config.yaml lacks {', '.join(missing)}, and "
                         "what its weights mean without them is not known; train the model again, or use that version")  # fmt: skip


def load_checkpoint_into(model, folder: str | os.PathLike) -> dict:
    """Put the weights of ``folder`` (a checkpoint or a run's folder) into ``model``; returns its ``state.json``.

    Raises:
        FileNotFoundError: there is no checkpoint.
        DamagedCheckpoint: a file was cut or edited; it is named.
        ValueError: the checkpoint belongs to another model, dataset, LLM or CRM, or its weights do not fit: every
            trained weight must be there with its shape, and nothing else.
    """
    folder = checkpoint_folder(folder)
    state = read_state(folder)
    check_identity(model, state, folder)
    both = [(adapter_weights(model.llm), folder / ADAPTER), (other_weights(model), folder / MODULES)]
    found = [(expected, _fitting(expected, read_tensors(path), path)) for expected, path in both]
    with torch.no_grad():
        for expected, values in found:
            for name, weight in expected.items():
                put(weight, values[name])
    return state


def put(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into a weight, or this process's share of it into a sharded one."""
    if hasattr(weight, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
    weight.copy_(value)


def _fitting(expected: dict, found: dict, path: Path) -> dict:
    differ = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    differ += [f"{name} is unknown here" for name in sorted(found.keys() - expected.keys())]
    differ += [
        f"{name}: checkpoint {tuple(found[name].shape)}, here {tuple(weight.shape)}"
        for name, weight in expected.items()
        if name in found and found[name].shape != weight.shape
    ]
    if differ:
        more = f" and {len(differ) - 6} more" if len(differ) > 6 else ""
        raise ValueError(f"{path} does not fit this model: {'; '.join(differ[:6])}{more}; use the settings in the "
                         "checkpoint's config.yaml")  # fmt: skip
    return found
