"""Which keys a run may set: those that a YAML file of ours declares, and those that RecBole's files, lists or source name.

RecBole accepts any key (`--epoch=3` is ignored, `config["typo"]` is None).
"""

import ast
import difflib
import importlib.util
import sys
from functools import cache, lru_cache
from pathlib import Path

from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, get_model, training_arguments

from recbole_llm import registry
from recbole_llm.config import properties
from recbole_llm.config.values import read_yaml

# Set by RecBole itself from other keys or from the machine: (key, what to set instead)
DERIVED = {
    "MODEL_TYPE": "the model's class fixes it",
    "MODEL_INPUT_TYPE": "the model's class or loss_type fixes it",
    "eval_type": "metrics fix it",
    "device": "set gpu_id, and use_gpu: False for the CPU",
    "single_spec": "nproc fixes it",
    "valid_neg_sample_args": "eval_args fix it",
    "test_neg_sample_args": "eval_args fix it",
}


def unknown_problems(given, known):
    """Lines for the keys of `given` that nothing reads, with the nearest known key, and for derived ones."""
    problems = [f"{key}: cannot be set, {DERIVED[key]}" for key in given if key in DERIVED]
    unknown = [key for key in given if key not in known and key not in DERIVED]
    owned = model_keys() if unknown else {}
    for key in unknown:
        owners = ", ".join(name for name, keys in owned.items() if key in keys)
        problems.append(f"{key}: a setting of {owners}, not of this model; remove it" if owners else
                        f"{key}: unknown key{hint(key, known) or '; remove it'}")  # fmt: skip
    return problems


def known_keys(model, dataset, model_class=None):
    """Every key that a run of `model` on `dataset` may set.

    The plugin's keys are those of its YAML files, those of other plugin models excepted, and of the YAML that a model was
    registered with; RecBole's are those of its files and lists, and what the source of one of its models reads.
    """
    root = properties.properties_dir()
    files = {root / "overall.yaml", root / "llm.yaml", *root.glob("dataset/*.yaml")}
    files |= set(properties.property_files(model, dataset).values())
    known = {key for key, owner in recbole_keys() if owner in (None, model)} | {"model", "dataset"}
    for file in files:
        known |= _keys_of(file)
    for file in () if registry.is_plugin_model(model) else _sources_of(model_class or get_model(model)):
        known |= keys_read(file)
    return known - DERIVED.keys()


def class_keys() -> dict[str, frozenset]:
    """{class of plugin models, bases included: the keys that its YAML and those of its bases declare}; imports the classes."""
    found: dict[str, frozenset] = {}
    for model in registry.available_models()[0]:
        keys: frozenset = frozenset()
        for name, file in properties.model_files(model).items():
            keys |= _keys_of(file) if file.is_file() else frozenset()
            found[name] = found.get(name, frozenset()) | keys
    return found


def model_keys() -> dict[str, frozenset]:
    """:func:`class_keys` of the models alone."""
    keys = class_keys()
    return {name: keys[name] for name in registry.available_models()[0]}


def without_others(model, dataset, shared):
    """Of settings that several models share, those that are not other plugin models' alone."""
    others = set().union(*model_keys().values()) - known_keys(model, dataset)
    return {key: value for key, value in shared.items() if key not in others}


def _keys_of(file):
    """The keys of a YAML file."""
    return frozenset(read_yaml(file))


def _sources_of(model_class):
    """The files of a RecBole model's classes."""
    modules = {base.__module__ for base in model_class.__mro__ if not base.__module__.startswith(("torch", "builtins"))}
    return [file for file in map(_file_of, modules) if file and file.endswith(".py")]


@cache
def keys_read(file):
    """The keys that a Python file's code reads from a configuration: config["key"], config.get("key"), "key" in config."""
    return frozenset(_keys_in(ast.parse(Path(file).read_text(encoding="utf-8"))))


def _keys_in(tree):
    """`keys_read` of a syntax tree; text, and what is read from other things than a configuration, does not count."""
    for node in ast.walk(tree):
        holder = key = None
        if isinstance(node, ast.Subscript):
            holder, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            holder, key = node.func.value, node.args[0]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            holder, key = node.comparators[0], node.left
        name = getattr(holder, "id", None) or getattr(holder, "attr", "")  # config, self.config, final_config_dict ...
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and (name == "config" or name.endswith("config_dict")):
            yield key.value


def _owned_keys(file, models):
    """(key, owner) of a core file of RecBole: what class XTrainer reads belongs to model X, the rest to every model."""
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        owner = getattr(node, "name", "").removesuffix("Trainer").replace("Pretrain", "S3Rec")  # whose base it is
        yield from ((key, owner if owner in models else None) for key in _keys_in(node))


@lru_cache(maxsize=1)
def recbole_keys():
    """(key, owner) from RecBole's argument lists, core source and property files; owner None: any model reads it."""
    root = Path(sys.modules["recbole"].__file__).parent
    lists = general_arguments + training_arguments + evaluation_arguments + dataset_arguments
    keys = {(key, None) for key in lists}
    models = {file.stem for file in root.glob("properties/model/*.yaml")}
    core = [file for file in root.rglob("*.py") if root / "model" not in file.parents or file.parent == root / "model"]
    keys |= {pair for file in core if file.name != "hyper_tuning.py" for pair in _owned_keys(file, models)}
    shared = [root / "properties/overall.yaml", *root.glob("properties/quick_start_config/*.yaml")]
    shared += [root / "properties/dataset" / name for name in ("sample.yaml", "ml-100k.yaml")]
    for file in [*shared, *root.glob("properties/model/*.yaml")]:
        owner = file.stem if file.parent.name == "model" else None
        keys |= {(key, owner) for key in read_yaml(file)}
    return frozenset(keys)


def _file_of(module_name):
    """The file of a module, imported or not; None for one typed into a notebook."""
    if module_name in sys.modules:
        return getattr(sys.modules[module_name], "__file__", None)
    spec = importlib.util.find_spec(module_name)
    return spec.origin if spec else None


def hint(word, known):
    """'; did you mean ...?' with the known word nearest to `word`, one that begins alike before others (lora_rank: lora_r), or nothing."""
    lower, first = {key.lower(): key for key in known}, word.lower()[: word.find("_") + 1]
    close = difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.7)
    best = [key for key in close if key.startswith(first)] or close
    return f"; did you mean {lower[best[0]]!r}?" if best else ""
