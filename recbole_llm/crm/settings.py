"""The CRM's own settings, taken from the LLM recommender's, and their hash, under which its weights are kept."""

from __future__ import annotations

import hashlib
import json
import os

from recbole.utils import get_model

from recbole_llm import registry
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import NON_RESULT_KEYS, REPORTING_KEYS, ConfigError, plain_values
from recbole_llm.data.fingerprint import DATA_KEYS
from recbole_llm.data.model_kinds import reads_labels
from recbole_llm.results import provenance
from recbole_llm.version import __version__

# What the CRM must share with the LLM recommender besides DATA_KEYS: protocol, columns, where things are kept.
_SHARED = (
    "seed", "reproducibility", "state", "show_progress", "checkpoint_dir", "result_dir", "worker",
    "protocol", "n_candidates", "candidate_seed", "eval_args", "metrics", "topk", "valid_metric",
    "RATING_FIELD", "seq_len", "ITEM_LIST_LENGTH_FIELD", "MAX_ITEM_LIST_LENGTH", "load_col", "unload_col",
    "item_text_field", "threshold", "LABEL_FIELD", "unused_col",
)  # fmt: skip


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
    own = LLMConfig(model=config["crm_model"], dataset=config["dataset"], config_dict=given, also_known=given)
    for key in ("gpu_id", "use_gpu", "device"):  # where the LLM recommender runs; not as settings, which would hide GPUs
        own[key] = config[key]
    return own


def learns_relevant(config) -> bool:
    """Whether the CRM learns from histories retrieved for each row's item: `crm_history: relevant` under labelled rows.

    A model that learns what comes next (SASRec) does not: a history chosen for its likeness to the next item would give it away. Nor
    does any under candidates, where RecBole draws negatives for one and the same history.
    """
    labelled = registry.protocol(config["protocol"]).labelled
    return config["crm_history"] == "relevant" and labelled and reads_labels(get_model(config["crm_model"]))


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


def split_differences(other, config) -> list[str]:
    """Settings that decide the split and differ, with both values; files are compared by their items or their hash."""
    parts = [
        {f"eval_args.{key}": made["eval_args"].get(key) for key in ("split", "order", "group_by")}
        | {key: made[key] for key in DATA_KEYS}
        for made in (other, config)
    ]
    return [f"{key}: {value!r}, here {parts[1][key]!r}" for key, value in parts[0].items() if value != parts[1][key]]
