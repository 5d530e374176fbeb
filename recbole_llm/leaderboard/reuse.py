"""Whether a stored result is what a run would give now. Each ingredient is compared by name, so that a run can say why
it does not reuse a file: configuration, versions, code, data, candidates, LLM weights, CRM file, permutations.
"""

from __future__ import annotations

import json
from functools import lru_cache

from recbole_llm import registry
from recbole_llm.config.known_keys import recbole_keys
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import NON_RESULT_KEYS, REPORTING_KEYS, plain_values, read_yaml
from recbole_llm.crm import store as crm_store
from recbole_llm.data.fingerprint import ROWS
from recbole_llm.results import provenance, result_file

# What changes no number of a row, or is compared apart (crm_path by its file, permutations by how many there are)
IGNORED = frozenset({*NON_RESULT_KEYS, *REPORTING_KEYS, "crm_path"})


def expected(config) -> dict:
    """What a result file of ``config`` would hold for the ingredients that :func:`differences` compares."""
    plugin = registry.is_plugin_model(config["model"])
    packages = provenance.LLM_PACKAGES if plugin else provenance.PACKAGES
    versions = result_file.versions()
    return {
        "config": comparable(plain_values(config), plugin),
        "versions": {name: versions[name] for name in packages},
        "code": provenance.code_hash(plugin),
        "data": provenance.data_hash(config),
        "candidates": rows_sha256(config),
        "llm": provenance.weights_hash(config["llm_path"]) if plugin else None,
        "crm": crm_store.sha256_of(config["crm_path"]) if plugin and config["crm_path"] else None,
        "latency_rows": config["latency_rows"] or 0,
        "permutations": config["permutations"] or 0 if plugin and registry.protocol(config["protocol"]).among_candidates else 0,
    }


def differences(record: dict, wanted: dict) -> list[str]:
    """What of a stored ``record`` is not as ``wanted`` (from :func:`expected`); empty: it can be reused."""
    found = []
    plugin = record.get("llm") is not None
    have = comparable(record.get("config") or {}, plugin)
    for key in sorted(have.keys() | wanted["config"].keys()):
        if have.get(key) != wanted["config"].get(key):
            found.append(f"{key} was {have.get(key)!r}, is {wanted['config'].get(key)!r}")
    for name, version in wanted["versions"].items():
        if record.get("versions", {}).get(name) != version:
            found.append(f"{name} was {record.get('versions', {}).get(name)}, is {version}")
    if record.get("code") != wanted["code"]:
        found.append("the package's code is another")
    if record.get("data") != wanted["data"]:
        found.append("the dataset's files are others")
    if (record.get("candidates") or {}).get("sha256") != wanted["candidates"]:
        older = (record.get("candidates") or {}).get("rows") != ROWS
        rules = ": an earlier version put interactions in order by times of 32 bits" if older else ""
        found.append(f"the candidates (sha256) are others{rules}")
    if (record.get("llm") or {}).get("sha256") != wanted["llm"]:
        found.append("the LLM's weights are others")
    if wanted["crm"] and (record.get("crm") or {}).get("sha256") != wanted["crm"]:
        found.append("the file at crm_path is another")
    elif plugin and not wanted["crm"] and (given := (record.get("config") or {}).get("crm_path")):
        found.append(f"crm_path was {given!r}, is None")
    if (measured := (record.get("config") or {}).get("latency_rows") or 0) < wanted["latency_rows"]:
        found.append(f"latency_rows was {measured}, is {wanted['latency_rows']}")
    done = ((record.get("checks") or {}).get("permutations") or {}).get("k", 0)
    if done < wanted["permutations"]:
        found.append(f"permutations: {done} done, {wanted['permutations']} wanted")
    return found


def comparable(values: dict, plugin: bool) -> dict:
    """A configuration less what cannot change a result, as JSON would give it back."""
    left_out = IGNORED if plugin else IGNORED | llm_keys()
    kept = {key: value for key, value in values.items() if key not in left_out and value is not None}
    return json.loads(json.dumps(kept, sort_keys=True))


@lru_cache(maxsize=1)
def llm_keys() -> frozenset:
    """Keys that only LLM recommenders read: given for all rows, they change nothing in a RecBole model's row.

    `history_max_len` is none of them: `candidates` and `full` lengthen every model's rows by it.
    """
    root = properties_dir()
    keys: set[str] = set()
    for file in [root / "llm.yaml", *root.glob("model/*.yaml")]:
        keys |= read_yaml(file).keys()
    overall = read_yaml(root / "overall.yaml")
    return frozenset(keys - {key for key, _ in recbole_keys()} - overall.keys() - {"history_max_len"})


def rows_sha256(config) -> str:
    """The sha256 that a run's result file gives for its test rows and candidates."""
    return registry.protocol(config["protocol"]).measured_on(config)["sha256"]
