"""What is wrong with an LLM's own YAML, `properties/llm/<short name>.yaml`.

    llm_source: {hub: owner/name}    or {hub: FOLDER}, or {distribution, file, sha256}: where its weights are (recbole_llm.llm.source)
    settings_of: <short name>        settings of another file, below all of this one's
    models: {<class>: {...}}         settings for a model, or for the models of a base class, over their own YAML
    <key>: <value>                   any other setting of llm.yaml, under the models' own YAML
"""

from pathlib import Path

from recbole_llm.config import properties
from recbole_llm.config.known_keys import class_keys, hint
from recbole_llm.config.values import read_yaml
from recbole_llm.runtime.files import expanded

OF_A_RUN = ("llm_path", "settings_of", "recipe", "resume")  # of llm.yaml: no LLM has them of itself
SOURCES = ({"hub"}, {"distribution", "file", "sha256"})


def llm_yaml_problems(llm_path, *short_names) -> list[str]:
    """Lines for an `llm_path` that is mistyped, and for the files of it and of other short names, and those whose settings they take."""
    files = {file: read_yaml(file) for name in (llm_path, *short_names) if (file := properties.short_name_file(name))}
    for values in [*files.values()]:
        if taken := properties.short_name_file(values.get(properties.SETTINGS_OF)):
            files.setdefault(taken, read_yaml(taken))
    return path_problems(llm_path) + [line for file, values in files.items() for line in _problems(file, values)]


def path_problems(llm_path) -> list[str]:
    """A line for an `llm_path` that is nearly a short name; another that is not here may be a hub name, or not be needed (`data check`)."""
    if not isinstance(llm_path, str) or "/" in llm_path or properties.short_name_file(llm_path) or expanded(llm_path).exists():
        return []
    close = hint(llm_path, properties.short_names())
    return [f"llm_path: {llm_path!r} is neither here nor a short name{close}"] if close else []


def source_problems(file: Path, values: dict) -> list[str]:
    """Lines for the `llm_source` of a file."""
    source = values.get("llm_source")
    if isinstance(source, dict) and set(source) in SOURCES and all(isinstance(value, str) for value in source.values()):
        return []
    return [f"{file}: llm_source must hold hub alone (a hub name or a folder), or distribution, file and sha256, as text; holds {source!r}"]


def _problems(file: Path, values: dict) -> list[str]:
    shared = set(read_yaml(properties.properties_dir() / "llm.yaml")) - {*OF_A_RUN}
    own = {key: value for key, value in values.items() if key not in properties.NOT_SETTINGS}
    models, classes = values.get("models", {}), class_keys()
    problems = source_problems(file, values) + _unknown(str(file), own, shared, "put what one model has alone under models: {<model>: ...}")
    if not isinstance(models, dict):
        return [*problems, f"{file}: models must be a mapping from models to their settings, got {models!r}"]
    for name, section in models.items():
        if not isinstance(section, dict):
            problems.append(f"{file}: models: {name} must be a mapping of settings, got {section!r}")
        elif name in classes:
            problems += _unknown(f"{file}: models: {name}", section, shared | classes[name], "remove it")
        elif close := hint(str(name), classes):  # any other may be a model that is not registered now
            problems.append(f"{file}: models: {name} is no model{close}")
    return problems


def _unknown(where: str, settings: dict, known: set, remedy: str) -> list[str]:
    return [f"{where}: {key} is no setting of an LLM here{hint(str(key), known) or '; ' + remedy}" for key in settings if key not in known]
