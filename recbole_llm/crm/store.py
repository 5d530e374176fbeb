"""Files of CRM weights: safetensors whose metadata say what they were trained on, and RecBole's own `.pth`."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch
from recbole.utils import ModelType, get_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from recbole_llm import fit
from recbole_llm.config.loader import LLMConfig
from recbole_llm.crm.frozen import CRM, general_tables
from recbole_llm.crm.settings import split_differences
from recbole_llm.data.fingerprint import split_hash
from recbole_llm.data.model_kinds import takes_users
from recbole_llm.runtime.files import file_sha256, whole_file

_TABLES = "tables."  # of a general model in a file of weights


def item_tokens_hash(dataset) -> str:
    """sha256 over the external item tokens in the order of their internal ids."""
    return _tokens_hash(dataset, dataset.iid_field)


def _tokens_hash(dataset, field: str) -> str:
    tokens = dataset.field2id_token[field]
    return hashlib.sha256("\n".join(map(str, tokens)).encode()).hexdigest()


def fields_of(dataset) -> str:
    """The user and item fields that a dataset loads (`load_col`) as JSON: {side: {field: sha256 of its type and of its tokens in order}}."""
    found = {}
    for side, key in (("user", dataset.uid_field), ("item", dataset.iid_field)):
        frame = getattr(dataset, f"{side}_feat")
        fields = [] if frame is None else [field for field in frame.columns if field != key]
        if fields:
            kinds = {field: [str(dataset.field2type[field]), *map(str, dataset.field2id_token.get(field, ()))] for field in fields}
            found[side] = {field: hashlib.sha256("\n".join(kind).encode()).hexdigest()[:16] for field, kind in kinds.items()}
    return json.dumps(found)  # in the order in which a model's tables hold them


def _shown(fields: str) -> str:
    """What messages say of `fields_of`."""
    return "; ".join(f"{side}: {', '.join(names)}" for side, names in json.loads(fields).items()) or "no fields"


def bound_to(model, dataset) -> dict[str, str]:
    """What the rows of a CRM's tables stand for: items, fields, and where its forward takes users or it propagates their vectors, users."""
    found = {"item_tokens": item_tokens_hash(dataset), "fields": fields_of(dataset)}
    if takes_users(model):
        found["user_tokens"] = _tokens_hash(dataset, dataset.uid_field)
    return found


def _differences(learned: dict[str, str], here: dict[str, str]) -> str | None:
    """How what a CRM was trained on differs from the data here, both as of `bound_to` (a file may lack users and fields); None: in nothing."""
    if learned.get("item_tokens") != here["item_tokens"]:
        return "other items, or in another order, than the dataset has now"
    if "user_tokens" in learned and learned["user_tokens"] != here.get("user_tokens"):
        return "other users, or in another order, than the dataset has now"
    if (fields := learned.get("fields", "{}")) != here["fields"]:
        return f"other fields or values ({_shown(fields)}) than load_col gives here ({_shown(here['fields'])})"
    return None


def write(path: Path, fitted: fit.Fitted) -> None:
    """Write the weights of a trained CRM with what they were trained on, and remove RecBole's checkpoint of them.

    Args:
        path: the safetensors file.
        fitted: the trainer, with the best epoch's weights in its model, and the data it was trained on.
    """
    model = fitted.trainer.model
    meta = {
        "format": "recbole_llm-crm-1",
        "model": type(model).__name__,
        "split": split_hash(fitted.trainer.config),
        **bound_to(model, fitted.data[0]),
        "best_valid_result": json.dumps({k: float(v) for k, v in (fitted.best_valid_result or {}).items()}),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.type == ModelType.GENERAL:  # propagated over the graph of its own training rows, which the LLM's dataset need not have
        state |= {f"{_TABLES}{name}": table.detach().cpu().contiguous().clone() for name, table in general_tables(model).items()}
    meta["weights"] = _digest(state)
    with whole_file(path) as aside:
        save_file(state, aside, metadata=meta)
    Path(fitted.trainer.saved_model_file).unlink(missing_ok=True)  # RecBole's copy of the same weights


class Damaged(ValueError):
    """A file of CRM weights that cannot be read, is not what was written, or does not fit the settings."""


def _digest(state: dict[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and values of weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)} {state[name].dtype} ".encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def sha256_of(path: str | Path) -> str | None:
    """The sha256 that a CRM read from ``path`` has, or None where there is no such file.

    Of a safetensors file the weights are hashed, since its header lists the metadata in an order that differs from one
    writing to the next. Of a ``.pth`` or a damaged file the bytes are, so that a damaged file is never taken for the right one.
    """
    path = Path(path)
    if not path.is_file():
        return None
    if path.suffix != ".pth":
        with suppress(SafetensorError):
            return _digest(load_file(path))
    return file_sha256(path)


def read(path: Path, own: LLMConfig, dataset, checked: bool = False) -> CRM:
    """Read the CRM in a safetensors file.

    Args:
        path: the file.
        own: the CRM's own config.
        dataset: the dataset whose internal ids the CRM must know.
        checked: refuse weights other than those that were written; True for a cache, False for a user's file.

    Raises:
        Damaged: the file cannot be read, or was made for other items, users, rows or layers.
        ValueError: it holds another model than ``crm_model``.
    """
    meta, state = _contents(path)
    if checked and meta.get("weights") != _digest(state):
        raise Damaged(f"{path} cannot be read (its weights are not those that were written)")
    if meta.get("model") != own["model"]:
        raise ValueError(f"{path} holds {meta.get('model')!r} but crm_model={own['model']!r}; make the two agree")
    model = get_model(own["model"])(own, dataset)
    if differ := _differences(meta, bound_to(model, dataset)):
        raise Damaged(f"{path} was trained on {differ}")
    if meta.get("split", split_hash(own)) != split_hash(own):
        raise Damaged(f"{path} learned from another split of {own['dataset']!r}, perhaps from rows that are tested here")
    whole, tables = _digest(state), {name.removeprefix(_TABLES): state.pop(name) for name in list(state) if name.startswith(_TABLES)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise Damaged(f"{path} does not hold the weights of a {own['model']} with this crm_config "
                      f"({' '.join(str(error).split())[:300]})") from error  # fmt: skip
    return CRM(model.to(own["device"]), whole, _training_seconds(path.with_suffix(".json")), tables).to(own["device"])


def _contents(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """(metadata, tensors) of a safetensors file.

    Raises:
        Damaged: it is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise Damaged(f"{path} cannot be read ({error})") from error


def _training_seconds(file: Path) -> float:
    """What training a cached CRM took; 0.0 where nobody knows."""
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def from_recbole_checkpoint(path: Path, own: LLMConfig, dataset) -> CRM:
    """Read the CRM in a ``.pth`` that RecBole's trainer wrote; its dataset is rebuilt from the config inside, to compare ids.

    Args:
        path: the file.
        own: the CRM's own config.
        dataset: the dataset whose internal ids the CRM must know.

    Raises:
        ValueError: the file was trained on other items, users or fields, in another order, or on another split.
    """
    from recbole.quick_start import load_data_and_model

    config, model, theirs, *_ = load_data_and_model(str(path))
    if differ := _differences(bound_to(model, theirs), bound_to(model, dataset)):
        raise ValueError(f"crm_path={str(path)!r} was trained on {differ}; train it with the same dataset, filters and load_col, or leave "
                         "crm_path out")  # fmt: skip
    if differ := split_differences(config, own):
        raise ValueError(f"crm_path={str(path)!r} learned from another split, perhaps from rows that are tested here "
                         f"({'; '.join(differ)}); train it with these settings, or leave crm_path out")  # fmt: skip
    return CRM(model.to(own["device"]), sha256_of(path))
