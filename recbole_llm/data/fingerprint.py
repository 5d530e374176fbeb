"""Hashes of all that a dataset's rows and candidate sets depend on: by them results are compared and caches found."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from recbole_llm.data.interactions import loaded_files
from recbole_llm.data.time_order import splits_by_time

DATA_KEYS = (
    "dataset USER_ID_FIELD ITEM_ID_FIELD TIME_FIELD LIST_SUFFIX field_separator seq_separator encoding rm_dup_inter "
    "val_interval user_inter_num_interval item_inter_num_interval alias_of_user_id alias_of_item_id benchmark_filename "
    "normalize_all normalize_field filter_inter_by_user_or_item"
).split()
ROWS = 3  # goes up when the same files and settings give other rows, so that older caches and results are left alone
_SET_KEYS = ("candidate_seed", "n_candidates")


@lru_cache(maxsize=64)
def _file_sha256(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(config) -> str:
    """Return a hash of all that the candidate sets depend on: files, filters, split, seed and C."""
    return _described(config, (*DATA_KEYS, *_SET_KEYS))


def split_hash(config) -> str:
    """Return a hash of all that the split into training, valid and test rows depends on: files, filters, `eval_args`."""
    return _described(config, DATA_KEYS)


def _described(config, keys: Sequence[str]) -> str:
    stats = [(str(path), path.stat()) for path in loaded_files(config)]
    eval_args = config["eval_args"]
    described = {
        "rows": ROWS,
        "files": [_file_sha256(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats],
        "eval_args": {key: eval_args.get(key) for key in ("split", "order", "group_by")},
        **{key: config[key] for key in keys},
    }
    if splits_by_time(config):
        described["times"] = "64 bits"  # not so in earlier versions, whose rows differ
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
