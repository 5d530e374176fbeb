"""The conventional recommender model (CRM) that an LLM recommender reads: trained once, then frozen.

Any sequential model of RecBole that has an item embedding and ``forward(item_seq, item_seq_len)`` will do, for models that say so
(`crm_kinds`) general ones with user and item embeddings too. It is
trained by RecBole's own Trainer on the full training split (RecLoRA's also on the LLM's sample alone, ``crm_rows``) and kept, as safetensors, under a hash of everything that
shaped it. Its *item vectors* become behaviour tokens (LLaRA, section 3.2); its *user vector*, the sequence
representation, feeds the gate (iLoRA, section 4.2). Both are read without gradient and with dropout off.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from contextlib import suppress
from logging import getLogger
from pathlib import Path

import torch
from recbole.utils import ModelType, get_model, set_color
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from recbole_llm import fit
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import NON_RESULT_KEYS, REPORTING_KEYS, ConfigError, plain_values
from recbole_llm.data.rows import DATA_KEYS, split_hash
from recbole_llm.results import provenance
from recbole_llm.runtime import distributed
from recbole_llm.runtime.files import whole_file
from recbole_llm.version import __version__

# What the CRM must share with the LLM recommender besides DATA_KEYS: protocol, columns, where things are kept.
_SHARED = (
    "seed", "reproducibility", "state", "show_progress", "checkpoint_dir", "result_dir", "worker",
    "protocol", "n_candidates", "candidate_seed", "eval_args", "metrics", "topk", "valid_metric",
    "RATING_FIELD", "seq_len", "ITEM_LIST_LENGTH_FIELD", "MAX_ITEM_LIST_LENGTH", "load_col", "unload_col",
    "item_text_field", "threshold", "LABEL_FIELD", "unused_col",
)  # fmt: skip
TARGET = "target"
_TABLES = "tables."  # of a general model in a file of weights
_FINAL_LAYERS = ("dnn_predict_layers", "dnn_predict_layer")  # of DIN, of DIEN


def crm_config(config) -> LLMConfig:
    """The CRM's own config: the shared data keys of ``config``, RecBole's defaults for the model, then ``crm_config``."""
    given = {key: config[key] for key in _SHARED if key in config and config[key] is not None}
    given |= {key: config[key] for key in DATA_KEYS if key in config}  # a null too: RecBole's default may be another
    if config["crm_history_len"]:
        given["MAX_ITEM_LIST_LENGTH"] = config["crm_history_len"]
    if config["crm_rows"] == "sample":
        given |= {key: config[key] for key in ("crm_rows", "train_sample_size", "train_sample_stratified")}
    given["data_path"] = os.path.dirname(config["data_path"].rstrip("/"))  # RecBole appends the dataset's name
    given.update({"epochs": config["crm_epochs"], **(config["crm_config"] or {})})
    own = LLMConfig(model=config["crm_model"], dataset=config["dataset"], config_dict=given)
    for key in ("gpu_id", "use_gpu", "device"):  # where the LLM recommender runs; not as settings, which would hide GPUs
        own[key] = config[key]
    return own


def check_crm(config) -> None:
    """Find wrong values in the CRM's own settings before data are read or, in a leaderboard, baselines trained.

    Raises:
        ConfigError: all of them at once.
    """
    try:
        crm_config(config)
    except ConfigError as error:
        raise ConfigError([f"crm_config ({config['crm_model']}): {line}" for line in error.problems]) from error


def crm_hash(config: LLMConfig) -> str:
    """sha256 over the CRM's resolved config (less what changes no weight), its data and the plugin's version."""
    left_out = (*NON_RESULT_KEYS, *REPORTING_KEYS, "calibration", "rerank_n")  # its own training asks for neither of these two
    resolved = {k: v for k, v in plain_values(config).items() if k not in left_out}
    text = json.dumps([resolved, provenance.data_hash(config), __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def item_tokens_hash(dataset) -> str:
    """sha256 over the external item tokens in the order of their internal ids."""
    return _tokens_hash(dataset, dataset.iid_field)


def _tokens_hash(dataset, field: str) -> str:
    tokens = dataset.field2id_token[field]
    return hashlib.sha256("\n".join(map(str, tokens)).encode()).hexdigest()


class CRM(nn.Module):
    """A frozen recommender.

    Attributes:
        name: RecBole's model name.
        sha256: of its weights (names, shapes, values), wherever they are kept; of RecBole's `.pth`, of the file.
        item_vectors: ``[item_num, d]`` buffer, the item embedding table (row 0 is padding).
        seconds: wall time of its training, also where it was read from the cache (of a file given
            as `crm_path`: what the `.json` beside it says, else 0).
    """

    def __init__(self, model: nn.Module, sha256: str, seconds: float = 0.0, tables: dict | None = None):
        super().__init__()
        self.name, self.sha256, self.seconds = type(model).__name__, sha256, seconds
        self.model = model.requires_grad_(False)
        self.eval()
        self.general = model.type == ModelType.GENERAL
        self.target_aware = False
        if self.general:
            tables = tables or general_tables(model)
            self.register_buffer("user_table", tables["user"].detach().float(), persistent=False)
            self.register_buffer("item_vectors", tables["item"].detach()[: model.n_items].float(), persistent=False)
            return
        vectors = _item_vectors(model)
        n_items = model.n_items  # BERT4Rec's table has one more row, for its mask token
        known = {"item_seq": "ITEM_SEQ", "item_seq_len": "ITEM_SEQ_LEN", "user": "USER_ID"}
        known |= {"seq_item": "ITEM_SEQ", "seq_item_len": "ITEM_SEQ_LEN"}  # SHAN, HGN, NPE write it the other way round
        known |= {"next_items": TARGET, "neg_item_seq": "ITEM_SEQ"}  # DIN, DIEN; DIEN's negatives serve its loss alone
        names = list(inspect.signature(model.forward).parameters)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"crm_model={self.name}: forward({', '.join(names)}) needs {unknown} besides the history; choose a model "
                "with forward(item_seq, item_seq_len), such as SASRec, GRU4Rec or NARM"
            )
        self._forward_fields = [known[name] for name in names]
        self.target_aware = TARGET in self._forward_fields
        self.register_buffer("item_vectors", vectors.detach()[:n_items].float(), persistent=False)

    def train(self, mode: bool = True):
        """Stays in evaluation mode: dropout in a frozen model would only add noise to the gate."""
        return super().train(False)

    @property
    def dim(self) -> int:
        return self.item_vectors.shape[1]

    @torch.no_grad()
    def user_vectors(self, interaction, target: torch.Tensor | None = None) -> torch.Tensor:
        """``[B, d_u]`` sequence representations of the histories in ``interaction``; of a general model (BPR, LightGCN) the users'
        embeddings.

        A target-aware CRM (DIN, DIEN) reads ``target`` [B] item ids as its query and gives the vector before its final
        layer; without ``target`` the history's last item is the query, so that the vector depends on the user alone.
        """
        if self.general:
            return self.user_table[interaction[self.model.USER_ID]]
        if self.target_aware:
            return self._target_aware_vectors(interaction, target)
        if self.name == "BERT4Rec":  # reads the state of a mask token put behind the last item (the first item is cut off)
            lengths = interaction[self.model.ITEM_SEQ_LEN]
            sequences = self.model.reconstruct_test_data(interaction[self.model.ITEM_SEQ], lengths)
            states = self.model.forward(sequences)  # [B, L, d]
            return states[torch.arange(len(states), device=states.device), lengths - 1].float()
        return self.model.forward(*(interaction[getattr(self.model, field)] for field in self._forward_fields)).float()

    def _target_aware_vectors(self, interaction, target) -> torch.Tensor:
        model, sequences = self.model, interaction[self.model.ITEM_SEQ]
        lengths = interaction[model.ITEM_SEQ_LEN].clamp_min(1)
        if target is None:
            target = sequences.gather(1, lengths[:, None] - 1).squeeze(1)
        given = {"USER_ID": interaction[model.USER_ID], "ITEM_SEQ": sequences, "ITEM_SEQ_LEN": lengths, TARGET: target}
        seen: list[torch.Tensor] = []
        final = next(getattr(model, name) for name in _FINAL_LAYERS if hasattr(model, name))
        hook = final.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            model.forward(*(given[field] for field in self._forward_fields))
        finally:
            hook.remove()
        return seen[-1].float()

    @torch.no_grad()
    def user_dim(self, dataset) -> int:
        """Width of the user vector, found by asking for one."""
        row = dataset.inter_feat[:1].to(next(self.model.parameters()).device)
        return self.user_vectors(row).shape[1]


@torch.no_grad()
def general_tables(model: nn.Module) -> dict[str, torch.Tensor]:
    """User and item embeddings ``[n, d]`` of a general model: after its propagation where ``forward()`` gives both (LightGCN), else its tables.

    Raises:
        ValueError: the model has neither.
    """
    if not inspect.signature(model.forward).parameters:
        users, items = model.forward()[:2]
        return {"user": users, "item": items}
    tables = {name: getattr(model, f"{name}_embedding", None) for name in ("user", "item")}
    if not all(isinstance(table, nn.Embedding) for table in tables.values()):
        raise ValueError(f"crm_model={type(model).__name__} has no user and item embeddings to show; choose BPR, LightGCN or NGCF")
    return {name: table.weight for name, table in tables.items()}


def _item_vectors(model: nn.Module) -> torch.Tensor:
    """The item id embedding table ``[>= item_num, d]`` of a sequential model.

    Raises:
        ValueError: the model has none.
    """
    if isinstance(getattr(model, "item_embedding", None), nn.Embedding):
        return model.item_embedding.weight
    features = getattr(model, "embedding_layer", None)
    names = (getattr(features, "token_field_names", None) or {}).get("item", [])
    if model.ITEM_ID in names:  # one table for all of an item's features; its id is one of them
        start = int(features.token_field_offsets["item"][names.index(model.ITEM_ID)])
        return features.token_embedding_table["item"].embedding.weight[start:]
    raise ValueError(
        f"crm_model={type(model).__name__} has no `item_embedding` table to take behaviour tokens from; "
        "choose SASRec, GRU4Rec, Caser, NARM, BERT4Rec, DIN, DIEN or another sequential model that has one"
    )


def load_or_train(config, dataset) -> CRM:
    """The frozen CRM for ``config``: from ``crm_path``, from the cache, or trained now.

    Args:
        config: the LLM recommender's config.
        dataset: its dataset; internal item ids must be those the CRM was trained with.

    Raises:
        ValueError: the CRM's items are not the dataset's, in number or order, or it learned from another split.
        FileNotFoundError: ``crm_path`` does not exist.
    """
    own = crm_config(config)
    _check_same_rows(own, config)
    logger = getLogger()
    if config["crm_path"]:
        path = Path(config["crm_path"])
        if not path.is_file():
            raise FileNotFoundError(f"crm_path={str(path)!r} does not exist; give a .safetensors file of this package, "
                                    "a .pth that RecBole wrote with recbole_llm imported, or leave crm_path out to train "
                                    "the CRM")  # fmt: skip
        if path.suffix == ".pth":
            return _from_recbole_checkpoint(path, own, dataset)
        try:
            return _read(path, own, dataset)
        except Damaged as error:
            raise ValueError(f"crm_path={error}; give a file that was written for these settings, or leave crm_path out "
                             "to train the CRM") from error  # fmt: skip
    with distributed.main_first():  # the others then read what it wrote
        crm = _cached_or_trained(own, dataset, logger)
    if len(set(distributed.gather(crm.sha256))) > 1:
        raise ValueError("the processes hold different CRMs: checkpoint_dir must be one folder that all machines see")
    return crm


def _check_same_rows(own, config) -> None:
    """The CRM learns from the training rows of the LLM recommender's split, never from its test rows."""
    if split_hash(own) != split_hash(config):
        differ = _split_differences(own, config)
        raise ValueError(f"crm_config ({own['model']}) makes other rows than the LLM recommender's ({'; '.join(differ)}); "
                         "leave these keys out of crm_config")  # fmt: skip


def _split_differences(other, config) -> list[str]:
    """Settings that decide the split and differ, with both values; files are compared by their items or their hash."""
    parts = [
        {f"eval_args.{key}": made["eval_args"].get(key) for key in ("split", "order", "group_by")}
        | {key: made[key] for key in DATA_KEYS}
        for made in (other, config)
    ]
    return [f"{key}: {value!r}, here {parts[1][key]!r}" for key, value in parts[0].items() if value != parts[1][key]]


def _cached_or_trained(own: LLMConfig, dataset, logger) -> CRM:
    path = Path(own["checkpoint_dir"]) / "crm" / f"{own['dataset']}-{own['model']}-{crm_hash(own)[:16]}.safetensors"
    if path.is_file():
        try:
            crm = _read(path, own, dataset, checked=True)
            logger.info(set_color("CRM", "pink") + f": {crm.name} read from {path}")
            return crm
        except Damaged as error:
            logger.warning(f"{error}; the CRM is trained again")
    logger.info(set_color("CRM", "pink") + f": training {own['model']} on the full training split")
    CRM(get_model(own["model"])(own, dataset), "")  # refuses a model that cannot serve, before it is trained
    start = time.perf_counter()
    fitted = fit.fit(own)
    fitted.trainer.evaluate(fitted.data[2], load_best_model=True)  # puts the best epoch's weights into the model
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, fitted, dataset)
    took = {"seconds": round(time.perf_counter() - start, 2)}
    path.with_suffix(".json").write_text(json.dumps(took) + "\n", encoding="utf-8")  # apart: weights alone make the hash
    return _read(path, own, dataset)


def _write(path: Path, fitted: fit.Fitted, dataset) -> None:
    model = fitted.trainer.model
    meta = {
        "format": "recbole_llm-crm-1",
        "model": type(model).__name__,
        "item_tokens": item_tokens_hash(fitted.data[0]),
        "split": split_hash(fitted.trainer.config),
        "best_valid_result": json.dumps({k: float(v) for k, v in (fitted.best_valid_result or {}).items()}),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.type == ModelType.GENERAL:  # propagated over the graph of its own training rows, which the LLM's dataset need not have
        meta["user_tokens"] = _tokens_hash(fitted.data[0], fitted.data[0].uid_field)
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

    Of the weights, not of a safetensors file: its header lists the metadata in an order that differs from one writing to
    the next. Of the bytes where they are a ``.pth`` or damaged, so that a damaged file is never taken for the right one.
    """
    path = Path(path)
    if not path.is_file():
        return None
    if path.suffix != ".pth":
        with suppress(SafetensorError):
            return _digest(load_file(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path, own: LLMConfig, dataset, checked: bool = False) -> CRM:
    """The CRM in a file; ``checked``: only if its weights are those that were written (a cache, not a user's file)."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    if checked and meta.get("weights") != _digest(state):
        raise Damaged(f"{path} cannot be read (its weights are not those that were written)")
    if meta.get("model") != own["model"]:
        raise ValueError(f"{path} holds {meta.get('model')!r} but crm_model={own['model']!r}; make the two agree")
    if meta.get("item_tokens") != item_tokens_hash(dataset):
        raise Damaged(f"{path} was trained on other items, or in another order, than dataset {own['dataset']!r} has now")
    if meta.get("user_tokens", _tokens_hash(dataset, dataset.uid_field)) != _tokens_hash(dataset, dataset.uid_field):
        raise Damaged(f"{path} was trained on other users, or in another order, than dataset {own['dataset']!r} has now")
    if meta.get("split", split_hash(own)) != split_hash(own):
        raise Damaged(f"{path} learned from another split of {own['dataset']!r}, perhaps from rows that are tested here")
    model = get_model(own["model"])(own, dataset)
    whole, tables = _digest(state), {name.removeprefix(_TABLES): state.pop(name) for name in list(state) if name.startswith(_TABLES)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise Damaged(f"{path} does not hold the weights of a {own['model']} with this crm_config "
                      f"({' '.join(str(error).split())[:300]})") from error  # fmt: skip
    crm = CRM(model, whole, tables=tables)
    crm.seconds = _training_seconds(path.with_suffix(".json"))
    return crm


def _training_seconds(file: Path) -> float:
    """What training a cached CRM took; 0.0 where nobody knows."""
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _from_recbole_checkpoint(path: Path, own: LLMConfig, dataset) -> CRM:
    """A ``.pth`` of RecBole: its dataset is rebuilt from the config inside, to compare item ids; its split must be ``own``'s."""
    from recbole.quick_start import load_data_and_model

    config, model, theirs, *_ = load_data_and_model(str(path))
    if item_tokens_hash(theirs) != item_tokens_hash(dataset):
        raise ValueError(
            f"{path} was trained on {theirs.item_num - 1} items of its own dataset; they are not the "
            f"{dataset.item_num - 1} items here, in this order; train it with the same dataset and filters"
        )
    if differ := _split_differences(config, own):
        raise ValueError(f"crm_path={str(path)!r} learned from another split, perhaps from rows that are tested here "
                         f"({'; '.join(differ)}); train it with these settings, or leave crm_path out")  # fmt: skip
    return CRM(model.cpu(), sha256_of(path))
