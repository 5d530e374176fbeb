"""Recipes: what a paper sets for a model and a dataset, `properties/recipe/<model>-<dataset>.yaml`.

A recipe is one more layer of the configuration, over all of the plugin's own and under what the user sets. Its key
`datasets` lists the names that it is for: a paper's split and the same data from their source.
"""

from recbole_llm.config_check import ConfigError
from recbole_llm.data.convert.sources import family_of


def settings_for(recipe, model, dataset):
    """The settings of the recipe of a model and a dataset; none without `recipe`.

    `recipe: released` is quirks of the released code over the recipe, or where there is none, over the other settings.
    Raises ConfigError, with those that exist, where `recipe: paper` finds none.
    """
    if recipe not in ("paper", "released"):
        return {}
    found = {name: values for name, values in known().items() if name.startswith(f"{str(model).lower()}-")}
    for values in found.values():
        if {dataset, family_of(dataset)} & set(values["datasets"]):
            return {key: value for key, value in values.items() if key != "datasets"}
    if recipe == "released":
        return {}
    lines = [f"{name} (--dataset={' or '.join(values['datasets'])})" for name, values in known().items()]
    raise ConfigError([f"recipe: there is none of {model} for {dataset}; properties/recipe/ has {', '.join(lines)}; choose one of these, "
                       "leave recipe out, or write a file"])  # fmt: skip


def known():
    """{name: contents} of `properties/recipe/`."""
    from recbole_llm.config import properties_dir, read_yaml

    files = sorted((properties_dir() / "recipe").glob("*.yaml"))
    return {file.stem: {"datasets": [], **read_yaml(file)} for file in files}
