"""The configuration: RecBole's `Config` with the plugin's layers, checked before anything runs.

Layers, later over earlier: RecBole's properties; `properties/overall.yaml`; for plugin models `properties/llm.yaml` and, where
`llm_path` is a short name, `properties/llm/<llm_path>.yaml`; `properties/model/<model>.yaml`; the LLM's section `models: <model>`;
`properties/dataset/<dataset>.yaml`; with `recipe`, `properties/recipe/<model>-<dataset>.yaml`; what the protocol fixes where these
leave it open; config files; config dict; command line.
`install` gives plain RecBole the same layers for plugin models.
"""

import copy
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import recbole
import torch
import yaml
from recbole.config import Config
from recbole.evaluator import metric_types
from recbole.utils import InputType, ModelType, get_model

from recbole_llm import config_check, distributed, llm_source, recipes, registry
from recbole_llm.command_line import parse_value
from recbole_llm.config_check import ConfigError
from recbole_llm.data.convert.sources import family_of
from recbole_llm.protocol import apply_protocol, protocol_problems

# Keys that RecBole computes from others or from the machine; a stored configuration leaves them out
COMPUTED = ("MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "single_spec", "local_rank")
# Where things lie and how often they are kept, what is shown, which machines: none of these changes a number
PLACES = (
    "data_path", "source", "offline", "checkpoint_dir", "result_dir", "config_files", "resume", "show_progress", "state", "verbose",
    "loss_decimal_place", "log_wandb", "wandb_project", "gpu_id", "use_gpu", "nproc", "ip", "port", "world_size",
    "offset", "group_offset", "save_steps", "save_total_limit", "prefetch_steps", "peak_tflops",
)  # fmt: skip
# What is measured beside training: none of these changes a weight
BESIDE = ("variant", "latency_rows", "permutations", "test_sample_size")


class SafeLoader(yaml.SafeLoader):
    """YAML without Python tags, with RecBole's reading of 1e-3 as a number."""


SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


class LLMConfig(Config):
    """RecBole's Config for `run_recbole_llm`: every model, RecBole's own included, gets the plugin's layers and checks.

    command_line: the parsed --key=value settings, the highest layer; `sys.argv` is never read.
    also_known: further keys that are not errors, e.g. those of the other models of a leaderboard.
    Raises ConfigError with all problems at once, ValueError for an unknown model, FileNotFoundError for a file.
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


def install():
    """Wrap `Config`'s merging so that plugin models have their layers in plain RecBole too; runs once."""
    load, merge = Config._load_internal_config_dict, Config._get_final_config_dict
    init_device = Config._init_device

    def _load_internal_config_dict(self, model, model_class, dataset):
        load(self, model, model_class, dataset)
        self.plugin_config_dict, self.llm_config_dict = {}, {}
        if isinstance(self, LLMConfig) or registry.is_plugin_model(model):
            self.plugin_config_dict, self.llm_config_dict = plugin_settings(model, dataset, self.external_config_dict)
        self.internal_config_dict.update(self.plugin_config_dict)

    def _get_final_config_dict(self):
        final = merge(self)
        if isinstance(final.get("topk"), tuple):  # --topk=1,3, of which RecBole makes a tuple that it then refuses
            final["topk"] = list(final["topk"])
        if isinstance(self, LLMConfig) or registry.is_plugin_model(self.model):
            _check_and_complete(self, final)
        elif problems := config_check.pickle_problems(final):
            raise ConfigError(problems)
        return final

    def _init_device(self):
        final = self.final_config_dict
        if distributed.place(final):
            return
        if "local_rank" in final:  # RecBole's own processes
            init_device(self)
        else:
            _place(final, "gpu_id" in self.external_config_dict)

    Config._init_device = _init_device
    Config._load_internal_config_dict = _load_internal_config_dict
    Config._get_final_config_dict = _get_final_config_dict


@lru_cache(maxsize=1)
def properties_dir():
    """The folder `properties/`: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no properties/overall.yaml in {package} or beside it: the installation is incomplete")


def property_files(model, dataset):
    """The plugin's YAML files for a model and a dataset that exist, by layer, lowest first (the LLM's own is not among them)."""
    root, plugin = properties_dir(), registry.is_plugin_model(model)
    own = plugin and registry.entry(model).properties or root / f"model/{model}.yaml"
    files = {"overall": root / "overall.yaml", "llms": root / "llm.yaml", "model": own}
    files |= {"family": root / f"dataset/{family_of(dataset)}.yaml", "dataset": root / f"dataset/{dataset}.yaml"}
    return {layer: file for layer, file in files.items() if file.is_file() and (plugin or layer != "llms")}


def plugin_settings(model, dataset, given):
    """(the plugin's settings for a model and a dataset, those of them that the LLM's own YAML sets).

    given: what the user sets, whose `llm_path` comes before any in the layers.
    """
    layers = {layer: read_yaml(file) for layer, file in property_files(model, dataset).items()}
    if registry.is_plugin_model(model):
        layers["recipe"] = recipes.settings_for(given.get("recipe"), model, dataset)
        llm_path = next((values["llm_path"] for values in (given, *reversed(layers.values())) if "llm_path" in values), None)
        layers["llm"], layers["llm for model"] = llm_source.settings_for(llm_path, model)
    merged = {}
    for layer in ("overall", "llms", "llm", "model", "llm for model", "family", "dataset", "recipe"):
        merged.update(layers.get(layer, {}))
    suited = layers.get("llm", {}) | layers.get("llm for model", {})
    return merged, {key: value for key, value in suited.items() if key not in given and merged[key] == value}


def read_yaml(file):
    """The mapping in a YAML file, empty for an empty one.

    Raises FileNotFoundError, and ConfigError where the file is no YAML mapping or names Python objects.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"the config file {path} does not exist")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not readable as plain YAML: {' '.join(str(error).split())}"]) from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError([f"{path}: must hold 'key: value' lines, holds a {type(values).__name__}"])
    return values or {}


def known_keys(model, dataset, model_class=None):
    """The keys that a run of `model` on `dataset` may set; see config_check."""
    root = properties_dir()
    own = {file for file in (root / "overall.yaml", root / "llm.yaml") if file.is_file()}
    files = {*own, *root.glob("model/*.yaml"), *property_files(model, dataset).values()}
    return config_check.known_keys(model, model_class or get_model(model), sorted(files | set(root.glob("dataset/*"))))


def plain_values(config):
    """A configuration as a dict of strings, numbers, booleans, None, lists and dicts, for JSON, YAML and checkpoints.

    What RecBole computes from other keys or from the machine (`COMPUTED`) is left out; `config_from_values` redoes it.
    """
    return {key: _plain(value) for key, value in config.final_config_dict.items() if key not in COMPUTED}


def config_from_values(values, chosen=None):
    """Rebuild a Config from `plain_values`, for the device at hand and a single process; nothing is read or checked.

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


def _place(final, chosen):
    """Fill in the device keys of a single process.

    RecBole hides every GPU but gpu_id, whose default is 0, as soon as a Config is made, and lets use_gpu stand unread. Here
    CUDA_VISIBLE_DEVICES is as the user left it unless gpu_id was `chosen`, and `use_gpu: False` means the CPU.
    """
    ids = final["gpu_id"]
    final["gpu_id"] = ",".join(map(str, ids)) if isinstance(ids, (list, tuple)) else str(ids)
    if chosen:
        os.environ["CUDA_VISIBLE_DEVICES"] = final["gpu_id"]
    gpu = final["gpu_id"] and final.get("use_gpu") is not False and torch.cuda.is_available()
    final.update(single_spec=True, local_rank=0, device=torch.device("cuda" if gpu else "cpu"))


def _check_and_complete(config, final):
    """Raise ConfigError for all wrong settings of `final`, then let the protocol complete it."""
    if isinstance(config, LLMConfig):
        set_by_user, also_known = config.external_config_dict, config._also_known
    else:  # plain RecBole reads the arguments of whatever script is running, which need not be settings
        set_by_user, also_known = {**config.file_config_dict, **config.variable_config_dict}, frozenset()
    given = config.plugin_config_dict | config.external_config_dict
    known = known_keys(config.model, config.dataset, config.model_class) | also_known
    problems = config_check.unknown_problems(set_by_user, known)
    problems += config_check.value_problems(final, config.model_class)
    problems += protocol_problems(final, given, config.model_class)
    if registry.is_plugin_model(config.model):
        problems += _crm_problems(final, config.dataset)
    try:
        apply_protocol(final, given, config.model_class, set_by_user)
        problems += config_check.metric_problems(final)
    except Exception:  # a bad value may end it; that value is among the problems
        if not problems:
            raise
    if problems:
        raise ConfigError(problems)


def _crm_problems(final, dataset):
    """Lines for a `crm_model` that is no sequential model of RecBole, and for keys of `crm_config` that it does not read."""
    name, own = final.get("crm_model"), final.get("crm_config")
    if not isinstance(name, str):  # `value_problems` says so
        return []
    try:
        sequential = get_model(registry.check_model(name)).type == ModelType.SEQUENTIAL
    except ValueError as error:
        return [f"crm_model: {str(error).partition(' Available')[0]} Choose SASRec, GRU4Rec, Caser, NARM, BERT4Rec, DIN ..."]
    if registry.is_plugin_model(name) or not sequential:
        return [f"crm_model: {name} is no sequential model of RecBole; choose SASRec, GRU4Rec, Caser, NARM, BERT4Rec, DIN ..."]
    if not isinstance(own, dict):
        return []
    return [f"crm_config ({name}): {line}" for line in config_check.unknown_problems(own, known_keys(name, dataset))]


def _plain(value):
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [_plain(item) for item in value]
    return str(value)
