"""What the plugin's own YAML files say: `properties/` by layer, for a model, a dataset, an LLM and a recipe.

Layers, later over earlier: overall.yaml; for plugin models llm.yaml, and where `llm_path` is a short name llm/<llm_path>.yaml;
model/<model>.yaml, along the bases of the model's class; the LLM's section `models: <model>`; dataset/<dataset>.yaml; with `recipe`,
recipe/<model>-<dataset>.yaml, in place of what suits an LLM; the model's `fixed_settings`. A recipe's key `datasets` lists the names that
it is for: a paper's split and the same data from their source.
"""

from functools import cache, lru_cache
from pathlib import Path

from recbole_llm import registry
from recbole_llm.config.values import ConfigError, read_yaml

SETTINGS_OF = "settings_of"  # of an LLM's YAML: another's, below its own
NOT_SETTINGS = ("llm_source", SETTINGS_OF, "models")  # of an LLM's YAML: all other keys are settings


@lru_cache(maxsize=1)
def properties_dir():
    """The folder `properties/`: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no properties/overall.yaml in {package} or beside it: the installation is incomplete")


def property_files(model, dataset):
    """The plugin's YAML files for a model and a dataset that exist, by layer, lowest first (the LLM's own is not among them)."""
    root, plugin = properties_dir(), registry.is_plugin_model(model)
    files = {"overall": root / "overall.yaml"}
    if plugin:
        files["llms"] = root / "llm.yaml"
    files |= {f"model {name}": file for name, file in model_files(model).items()}
    files |= {"family": root / f"dataset/{family_of(dataset)}.yaml", "dataset": root / f"dataset/{dataset}.yaml"}
    return {layer: file for layer, file in files.items() if file.is_file()}


def _fixed_settings(model):
    """What a plugin model has in one way alone; a third party's model need not say so."""
    return getattr(_class(model), "fixed_settings", dict)()


def _class_names(model):
    """Names of a plugin model's class and its bases, its own last."""
    return [base.__name__ for base in reversed(_class(model).__mro__)]


def _class(model):
    return registry.resolve(registry.entry(model).model)


def model_files(model):
    """{class name: where its YAML file would be} along the bases of a plugin model's class, its own last; of a RecBole model the plugin's."""
    root = properties_dir()
    names = _class_names(model) if registry.is_plugin_model(model) else [model]
    own = {name: registry.entry(name).properties for name in names if registry.is_plugin_model(name)}
    return {name: own.get(name) or root / f"model/{name}.yaml" for name in names}


def plugin_settings(model, dataset, given):
    """The plugin's settings for a model and a dataset.

    Args:
        model: a model's name.
        dataset: a dataset's name.
        given: what the user sets, whose `llm_path` comes before any in the layers.

    Returns:
        (all of them, those of them that the LLM's own YAML sets)

    Raises:
        ConfigError: as `recipe_settings`.
    """
    layers = {layer: read_yaml(file) for layer, file in property_files(model, dataset).items()}
    own = [layer for layer in layers if layer.startswith("model ")]
    if registry.is_plugin_model(model):
        layers["recipe"] = recipe_settings(given.get("recipe"), model, dataset)
        llm_path = next((values["llm_path"] for values in (given, *reversed(layers.values())) if "llm_path" in values), None)
        if given.get("recipe") is None:  # parts of both would be settings of nobody's
            layers["llm"], layers["llm for model"] = llm_settings(llm_path, _class_names(model), given.get(SETTINGS_OF))
    merged = {}
    for layer in ("overall", "llms", "llm", *own, "llm for model", "family", "dataset", "recipe"):
        merged.update(layers.get(layer, {}))
    if registry.is_plugin_model(model):
        merged.update(_fixed_settings(model))
    suited = layers.get("llm", {}) | layers.get("llm for model", {})
    return merged, {key: value for key, value in suited.items() if key not in given and merged[key] == value}


def short_name_file(llm_path) -> Path | None:
    """The YAML of a short name, or None for any other `llm_path`."""
    file = properties_dir() / "llm" / f"{llm_path}.yaml"
    return file if isinstance(llm_path, str) and Path(llm_path).name == llm_path and file.is_file() else None


def short_names() -> list[str]:
    return sorted(file.stem for file in (properties_dir() / "llm").glob("*.yaml"))


def llm_settings(llm_path, names: list[str], settings_of: str | None = None) -> tuple[dict, dict]:
    """(settings that suit an LLM, those for the classes `names`): two layers, both empty without a short name's YAML.

    A file's own `settings_of` names another, whose settings, its `models` included, lie below all of its own. What is wrong in a file
    tells :mod:`recbole_llm.config.llm_yaml`.

    Args:
        llm_path: the setting.
        names: a model's class and its bases, the last over the others.
        settings_of: a short name whose settings are taken in place of `llm_path`'s; of another, the rules of settings tell.

    Raises:
        ConfigError: a file's `settings_of` names none, or one that has it too.
    """
    file = short_name_file(llm_path if settings_of is None else settings_of)
    values = read_yaml(file) if file else {}
    below = _settings_of(file, values[SETTINGS_OF]) if SETTINGS_OF in values else {}
    own, borrowed = _plain(values), _plain(below)
    section = {key: own.get(key, value) for name in names for key, value in _section(below, name).items()}
    for name in names:
        section |= _section(values, name)
    return borrowed | own, section


def _plain(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in NOT_SETTINGS}


def _section(values: dict, name: str) -> dict:
    """A class's part of `models`; of what is no mapping, nothing."""
    models = values.get("models")
    found = models.get(name) if isinstance(models, dict) else None
    return found if isinstance(found, dict) else {}


def _settings_of(file: Path, name) -> dict:
    """What the YAML holds that another, `file`, names."""
    named = short_name_file(name)
    found = read_yaml(named) if named else None
    if found is None or SETTINGS_OF in found:
        raise ConfigError([f"{file}: settings_of must name a file of its folder that has no settings_of, got {name!r}; "
                           f"choose one of {', '.join(short_names())}"])  # fmt: skip
    return found


def recipe_settings(recipe, model, dataset):
    """The settings of the recipe of a model and a dataset; none without `recipe`.

    `recipe: released` is quirks of the released code over the recipe, or where there is none, over the other settings.

    Raises:
        ConfigError: `recipe: paper` finds none; names those that exist.
    """
    if recipe not in ("paper", "released"):
        return {}
    found = {name: values for name, values in recipes().items() if name.startswith(f"{str(model).lower()}-")}
    for values in found.values():
        if {dataset, family_of(dataset)} & set(values["datasets"]):
            return {key: value for key, value in values.items() if key != "datasets"}
    if recipe == "released":
        return {}
    lines = [f"{name} (--dataset={' or '.join(values['datasets'])})" for name, values in recipes().items()]
    raise ConfigError([f"recipe: there is none of {model} for {dataset}; properties/recipe/ has {', '.join(lines)}; choose one of these, "
                       "leave recipe out, or write a file"])  # fmt: skip


def recipes():
    """{name: contents} of `properties/recipe/`."""
    files = sorted((properties_dir() / "recipe").glob("*.yaml"))
    return {file.stem: {"datasets": [], **read_yaml(file)} for file in files}


def dataset_sources() -> dict[str, dict]:
    """Dataset -> `source` of the plugin's YAML files."""
    return _sources_in(properties_dir())


@cache
def _sources_in(folder: Path) -> dict[str, dict]:
    files = sorted(folder.glob("dataset/*.yaml"))
    return {file.stem: source for file in files if (source := read_yaml(file).get("source"))}


def family_of(dataset: str) -> str | None:
    """The dataset whose YAML also describes `dataset`, one of its categories: amazon-2023 for amazon-2023-Books."""
    for name, source in dataset_sources().items():
        if dataset.startswith(f"{name}-") and dataset[len(name) + 1 :] in (source.get("categories") or ()):
            return name
    return None
