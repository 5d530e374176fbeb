"""The configuration: RecBole's `Config` with the plugin's layers, checked before anything runs.

Layers, later over earlier: RecBole's properties; the plugin's (:mod:`recbole_llm.config.properties`); what the protocol fixes where
these leave it open; config files; config dict; command line. :mod:`recbole_llm.compat.config_hook` gives plain RecBole the same layers
for plugin models.
"""

import copy
import os
from pathlib import Path

import recbole
import torch
from recbole.config import Config
from recbole.evaluator import metric_types
from recbole.utils import InputType, get_model

from recbole_llm import registry
from recbole_llm.config import checks
from recbole_llm.config.known_keys import known_keys, unknown_problems
from recbole_llm.config.llm_yaml import llm_yaml_problems
from recbole_llm.config.values import ConfigError, SafeLoader, parse_value, read_yaml

_COLUMNS = ("load_col", "unload_col")  # what is read of the atomic files


class LLMConfig(Config):
    """RecBole's Config for `run_recbole_llm`: every model, RecBole's own included, gets the plugin's layers and checks.

    Args:
        model: a model's name.
        dataset: a dataset's name.
        config_file_list: YAML files; later ones win.
        config_dict: settings over the files.
        command_line: the parsed --key=value settings, the highest layer; `sys.argv` is never read.
        also_known: further keys that are not errors, e.g. those of the other models of a leaderboard.

    Raises:
        ConfigError: wrong settings, all of them at once.
        ValueError: the model is unknown.
        FileNotFoundError: a config file is missing.
    """

    def __init__(
        self, model=None, dataset=None, config_file_list=None, config_dict=None, command_line=None, also_known=()
    ):
        self._command_line = dict(command_line or {})
        self._also_known = frozenset(also_known)
        super().__init__(model, dataset, config_file_list, config_dict)

    def _build_yaml_loader(self):
        return SafeLoader

    def _load_config_files(self, file_list):
        merged = {}
        for file in file_list or []:
            merged.update(read_yaml(file))
        return merged

    def _load_variable_config_dict(self, config_dict):
        """A copy, strings read as on the command line: RecBole changes the caller's dict, and calls eval on strings."""
        given = copy.deepcopy(dict(config_dict or {}))
        return {key: parse_value(value, key) if isinstance(value, str) else value for key, value in given.items()}

    def _load_cmd_line(self):
        return copy.deepcopy(self._command_line)

    def _get_model_and_dataset(self, model, dataset):
        name = self.external_config_dict.get("model") if model is None else model
        missing = [
            f"{key}: not given; write --{key}={example}, or set it in a config file"
            for key, value, example in (("model", name, "iLoRA"), ("dataset", dataset, "ml-100k"))
            if value is None and self.external_config_dict.get(key) is None
        ]
        if missing:
            raise ConfigError(missing)
        if isinstance(name, str):
            registry.check_model(name)
        return super()._get_model_and_dataset(model, dataset)


def config_from_values(values, chosen=None):
    """Rebuild a Config from `plain_values`, for the device at hand and a single process; nothing is read or checked.

    Args:
        values: what `plain_values` gave.
        chosen: what the user sets now, over the values.
    """
    values, chosen = {**values, **(chosen or {})}, chosen or {}
    config = object.__new__(Config)
    config.compatibility_settings()
    config._init_parameters_category()
    config.yaml_loader = SafeLoader
    config.model, config.dataset = values["model"], values["dataset"]
    config.model_class = get_model(config.model)
    for layer in ("file", "variable", "cmd", "external", "internal", "plugin", "llm"):
        setattr(config, f"{layer}_config_dict", {**chosen} if layer == "external" else {})
    final = config.final_config_dict = copy.deepcopy(values)
    final["MODEL_TYPE"] = config.model_class.type
    paired = final.get("loss_type") == "BPR"
    final["MODEL_INPUT_TYPE"] = getattr(
        config.model_class, "input_type", InputType.PAIRWISE if paired else InputType.POINTWISE
    )
    final["eval_type"] = metric_types[final["metrics"][0].lower()]
    if config.dataset == "ml-100k":  # RecBole reads its package's copy, wherever the package lies now
        final["data_path"] = os.path.join(os.path.dirname(recbole.__file__), "dataset_example", "ml-100k")
    config._init_device()
    return config


def checkpoint_dir_of(run: Path, named: str) -> dict[str, str]:
    """{checkpoint_dir: where a run's folder lies}, if that is another folder with recommenders than the one `named`.

    A path of the settings means another one from another folder; the run's recommender, looked for there, would be trained anew.
    """
    folder = run.resolve().parent
    return {"checkpoint_dir": str(folder)} if (folder / "crm").is_dir() and folder != Path(named).resolve() else {}


def place_on_device(final, chosen):
    """Fill in the device keys of a single process.

    RecBole hides every GPU but gpu_id, whose default is 0, as soon as a Config is made, and does not read use_gpu. Here
    CUDA_VISIBLE_DEVICES is as the user left it unless gpu_id was `chosen`, and `use_gpu: False` means the CPU.

    Args:
        final: the merged configuration, changed in place.
        chosen: whether the user set gpu_id.
    """
    ids = final["gpu_id"]
    final["gpu_id"] = ",".join(map(str, ids)) if isinstance(ids, (list, tuple)) else str(ids)
    if chosen:
        os.environ["CUDA_VISIBLE_DEVICES"] = final["gpu_id"]
    gpu = final["gpu_id"] and final.get("use_gpu") is not False and torch.cuda.is_available()
    final.update(single_spec=True, local_rank=0, device=torch.device("cuda" if gpu else "cpu"))


def check_and_complete(config, final):
    """Let the protocol complete the merged configuration `final` of `config`, once nothing in it is wrong.

    Raises:
        ConfigError: wrong settings, all of them at once.
    """
    if isinstance(config, LLMConfig):
        set_by_user, also_known = config.external_config_dict, config._also_known
    else:  # plain RecBole reads the arguments of whatever script is running, which need not be settings
        set_by_user, also_known = {**config.file_config_dict, **config.variable_config_dict}, frozenset()
    given = config.plugin_config_dict | config.external_config_dict
    if final.get("recipe") == "released" and hasattr(config.model_class, "released_settings"):
        quirks = config.model_class.released_settings(final)
        final.update({key: value for key, value in quirks.items() if key not in set_by_user})
    _fit_unset(final, set_by_user)
    known = known_keys(config.model, config.dataset, config.model_class) | also_known
    problems = unknown_problems(set_by_user, known)
    problems += checks.value_problems(final, config.model_class)
    name = final.get("protocol")
    protocol = registry.protocol(name if registry.is_protocol(name) else None)  # `value_problems` names a wrong one
    problems += protocol.problems(final, given, config.model_class)
    if registry.is_plugin_model(config.model):
        problems += llm_yaml_problems(final.get("llm_path"), final.get("settings_of"))
        if None not in (set_by_user.get("settings_of"), set_by_user.get("recipe")):
            problems.append("settings_of: with a recipe, which takes the place of what suits an LLM, it sets nothing; leave one of them out")
        problems += _crm_problems(final, config.dataset, config.model_class)
    try:
        _complete(protocol, final, given, config.model_class, set_by_user)
        problems += checks.metric_problems(final)
        if final.get("benchmark_filename") is None:  # files as they are split have no boundary
            problems += checks.split_problems(final["eval_args"])
        problems += protocol.column_problems(final, config.dataset)
    except Exception:  # a bad value may end it; that value is among the problems
        if not problems:
            raise
    if problems:
        raise ConfigError(problems)


def _fit_unset(final, chosen):
    """Fit what the user has not `chosen` to other settings, whose values may still be of a wrong type."""
    users, count = final.get("users_per_list"), final.get("n_candidates")
    if "users_per_list" not in chosen and type(users) is type(count) is int:  # a list of targets alone has no other item in it
        final["users_per_list"] = max(1, min(users, count - 1))
    if "history_batch_size" not in chosen and type(final.get("history_batch_size")) is int:  # the LLM's own, which must hold a list
        final["history_batch_size"] = max(final["history_batch_size"], checks.rows_kept_together(final))
    resume, named = final.get("resume"), final.get("checkpoint_dir")
    if isinstance(resume, str) and resume != "auto" and isinstance(named, str) and "checkpoint_dir" not in chosen:
        run = Path(resume)
        final.update(checkpoint_dir_of(run.parent if run.name.startswith("step-") else run, named))


def _complete(protocol, final, given, model_class, chosen):
    """Set what the protocol and a long CRM history fix."""
    protocol.complete(final, given, model_class, chosen)
    if final.get("crm_history_len"):  # the dataset's rows are as long as what the CRM reads
        final["MAX_ITEM_LIST_LENGTH"] = final["crm_history_len"]


def _crm_problems(final, dataset, model_class):
    """Lines for a `crm_model` that is none of RecBole's models of the kinds that the model reads, and for keys of `crm_config`."""
    if not getattr(model_class, "needs_crm", lambda _: True)(final):
        return []
    name, own = final.get("crm_model"), final.get("crm_config")
    if not isinstance(name, str):  # `value_problems` says so
        return []
    try:
        kind = get_model(registry.check_model(name)).type
    except ValueError as error:
        return [f"crm_model: {str(error).partition(' Available')[0]} Choose SASRec, GRU4Rec, Caser, NARM, BERT4Rec, DIN ..."]
    kinds = getattr(model_class, "crm_kinds", ("sequential",))
    if registry.is_plugin_model(name) or kind.name.lower() not in kinds:
        more = ", BPR, LightGCN" if "general" in kinds else ""
        return [f"crm_model: {name} is no {' or '.join(kinds)} model of RecBole; choose SASRec, GRU4Rec, Caser, NARM, BERT4Rec, DIN{more} ..."]
    if name in registry.RECOMMENDERS and (lines := get_model(name).check_config(final)):
        return [f"crm_{line}" for line in lines]  # what they say of `model`
    if not isinstance(own, dict):
        return []
    shared = [f"{key}: both recommenders read one dataset, or their items would have other ids; set it outside crm_config" for key in _COLUMNS if key in own]
    return [f"crm_config ({name}): {line}" for line in shared + unknown_problems(own, known_keys(name, dataset))]
