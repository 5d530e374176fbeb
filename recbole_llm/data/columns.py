"""Columns that settings name: whether the dataset's files give them, a run loads them, and they hold what the setting reads.

Headers are read with the configuration where the files are here, and when they have been fetched; until then `load_col` alone is looked at.
"""

from pathlib import Path

import recbole

from recbole_llm.config.known_keys import hint
from recbole_llm.config.rules import is_interval
from recbole_llm.config.values import ConfigError
from recbole_llm.data.atomic import TYPES, read_header


def history_field(config) -> str:
    """The column of histories [B, L]: RecBole names its own after `ITEM_ID_FIELD`, and benchmark files bring one."""
    return f"{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"


def check_columns(config) -> None:
    """Refuse settings that the files of a dataset, which are here by now, contradict.

    Raises:
        ConfigError: all that `column_problems` finds.
    """
    if problems := column_problems(config.final_config_dict, config["dataset"], Path(config["data_path"])):
        raise ConfigError(problems)


def column_problems(final, dataset, folder=None):
    """Lines for columns of `val_interval`, `alias_of_user_id` and `alias_of_item_id` that are absent, not loaded, or of another type.

    Args:
        final: the merged configuration.
        dataset: its dataset's name.
        folder: where its files lie; None: where `data_path` says, before RecBole has put the name behind it.
    """
    columns, problems = _Columns(final, dataset, folder), []
    benchmark = final.get("benchmark_filename")
    filtered = final.get("val_interval")
    for name, wanted in filtered.items() if isinstance(filtered, dict) and not benchmark else ():  # RecBole filters no benchmark files
        lacks = columns.lacks(name) or _unfit(name, wanted, columns.kinds(name))
        problems += [f"val_interval: {lacks}"] if lacks else []
    for key in ("alias_of_user_id", "alias_of_item_id"):
        for name in final[key] if isinstance(final.get(key), list) else ():  # a line of `RULES` names another value
            if benchmark and name == history_field(final):  # `data.benchmark` says more of these
                continue
            lacks = columns.lacks(name)
            if not lacks and any("float" in kind for kind in columns.kinds(name)):
                lacks = f"{name!r} holds numbers, and ids are tokens; leave it out, or write {name}:token in the header"
            problems += [f"{key}: {lacks}"] if lacks else []
    return problems


def _unfit(name, wanted, kinds):
    """What is wrong with the values that a column is filtered by; None: nothing."""
    if any("token" in kind for kind in kinds) and isinstance(wanted, str):
        return f"{name!r} is a token column, and the interval {wanted!r} needs numbers; give a list of its values, or name a column of numbers"
    if any("float" in kind for kind in kinds) and not is_interval(wanted):
        return f"{name!r} holds numbers and must have an interval, e.g. '[3,inf)', got {wanted!r}"
    return None


class _Columns:
    """The columns of a dataset's files, and which of them `load_col` and `unload_col` leave."""

    def __init__(self, final, dataset, folder):
        self.dataset, self.load, self.unload = dataset, final.get("load_col"), final.get("unload_col") or {}
        self.types = _headers(final, dataset, folder)

    def lacks(self, name):
        """What is wrong where no file gives the column; None: one does, or nothing is known of the files."""
        if self.types and not self._places(name):
            known = dict.fromkeys(column for own in self.types.values() for column in own)
            return f"{self.dataset} has no column {name!r} (it has {', '.join(known)}); name one of them, or remove it{hint(str(name), known)}"
        if self._loaded(name) or (not self.types and self.load is None):
            return None
        where = next(iter(self.types and self._places(name)), "inter")
        remedy = f"add it to load_col: {{{where}: [...]}}" if self.load is not None else "take it out of unload_col"
        return f"{name!r} of {self.dataset}.{where} is not loaded; {remedy}"

    def kinds(self, name):
        """Types of the column in the files that give it, as far as their headers are known."""
        return [self.types[suffix][name] for suffix in self._loaded(name) if self.types]

    def _places(self, name):
        return [suffix for suffix, own in self.types.items() if name in own] if self.types else list(self.load or ())

    def _loaded(self, name):
        return [suffix for suffix in self._places(name) if self._asked(name, suffix) and name not in (self.unload.get(suffix) or ())]

    def _asked(self, name, suffix):
        names = "*" if self.load is None else self.load.get(suffix) or ()
        return names == "*" or name in names


def _headers(final, dataset, folder):
    """{suffix: {column: type}} of a dataset's files; nothing where they are not here, or where one has no header, which `data.loading` says."""
    if folder is None:
        folder = (Path(recbole.__file__).parent / "dataset_example" if dataset == "ml-100k" else Path(final["data_path"])) / dataset
    split = final.get("benchmark_filename")
    ends = {"inter": f"{split[0]}.inter" if split else "inter"}
    ends |= {suffix: suffix for suffix in ("user", "item", "kg", *(final.get("additional_feat_suffix") or ()))}
    files = {suffix: folder / f"{dataset}.{end}" for suffix, end in ends.items()}
    try:
        types = {suffix: read_header(file, final["field_separator"], final.get("encoding")) for suffix, file in files.items() if file.is_file()}
    except ValueError:
        return {}
    return types if "inter" in types and all(kind in TYPES for own in types.values() for kind in own.values()) else {}
