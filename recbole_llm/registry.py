"""Makes RecBole find the plugin's models, trainers, datasets, dataloaders and properties by name.

RecBole looks a model up as module `recbole.model.<kind>.<lower case name>`, its trainer and dataset as attributes
`<Name>Trainer` of `recbole.trainer` and `<Name>Dataset` of `recbole.data.dataset`, and its dataloader in a table inside
`recbole.data.utils.get_dataloader`. `compat.hooks` serves all of them from `register`'s entries, and imports what an entry
names only when it is asked for: `import recbole_llm` loads neither transformers nor peft.
"""

import difflib
import importlib
import re
import sys
import types
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

PLUGIN_MODELS = {
    "LLaRA": "recbole_llm.model.llara:LLaRA",
    "iLoRA": "recbole_llm.model.ilora:iLoRA",
    "RecLoRA": "recbole_llm.model.reclora:RecLoRA",
    "TALLRec": "recbole_llm.model.tallrec:TALLRec",
    "CoLLM": "recbole_llm.model.collm:CoLLM",
    "E4SRec": "recbole_llm.model.e4srec:E4SRec",
    "LlamaRec": "recbole_llm.model.llamarec:LlamaRec",
}
RECOMMENDERS = {"RatedDIN": "recbole_llm.crm.rated_din:RatedDIN"}  # conventional ones that RecBole lacks; they are used like its own
TRAINER = "recbole_llm.training.trainer:LLMTrainer"
DATALOADER = "recbole_llm.data.heads:prompt_dataloader"
PROTOCOLS = {
    None: "recbole_llm.protocols.unset:Unset",
    "candidates": "recbole_llm.protocols.candidates:Candidates",
    "full": "recbole_llm.protocols.full:Full",
    "ctr": "recbole_llm.protocols.ctr:Clicks",
}
PACKAGE = "recbole.model.sequential_recommender"
KINDS = ("general", "context_aware", "sequential", "knowledge_aware", "exlib")
_entries = {}


@dataclass(frozen=True)
class Entry:
    """A registered model: each field but `properties` is a class or function, or "module:name" to import it from.

    dataset None is the model's head's (:mod:`recbole_llm.data.heads`). dataloader is a function (config, phase) -> dataloader
    class, phase being "train", "valid" or "test".
    """

    model: object
    trainer: object = TRAINER
    dataset: object = None
    dataloader: object = DATALOADER
    properties: Path | None = None


def register(model, properties=None, trainer=None, dataset=None, dataloader=None):
    """Make a plugin model known to RecBole under its class name; a second call replaces the first.

    Args:
        model: the class, or "module:Class".
        properties: its YAML file; None for `properties/model/<name>.yaml` of the plugin, if there.
        trainer: as in `Entry`; None for the plugin's own.
        dataset: as in `Entry`; None for the plugin's own.
        dataloader: as in `Entry`; None for the plugin's own.

    Returns:
        The name.

    Raises:
        ValueError: RecBole, or the plugin among its recommenders, has a model of that name.
        FileNotFoundError: `properties` is not a file.
    """
    name = model.partition(":")[2] if isinstance(model, str) else model.__name__
    if not name.isidentifier():
        raise ValueError(f"register: {model!r} is neither a class nor 'module:Class'")
    for owner, taken in (("RecBole", recbole_modules()), ("the plugin", [one.lower() for one in RECOMMENDERS])):
        if name.lower() in taken:
            raise ValueError(f"register: {owner} has a model {name!r} already; choose another class name")
    if properties is not None and not Path(properties).is_file():
        raise FileNotFoundError(f"register: the properties file {properties} of model {name!r} does not exist")
    for other in _entries:
        if other != name and other.lower() == name.lower():
            raise ValueError(f"register: {name!r} and the registered {other!r} differ by case, which RecBole ignores")
    file = Path(properties) if properties is not None else None
    _entries[name] = Entry(model, trainer or TRAINER, dataset, dataloader or DATALOADER, file)
    sys.modules[f"{PACKAGE}.{name.lower()}"] = _ModelModule(name)
    return name


def is_plugin_model(name):
    """Whether `name` was registered with the plugin (and is not one of RecBole's)."""
    return name in _entries


def parent(name):
    """The RecBole model whose settings one of `RECOMMENDERS` has under its own: DIN of RatedDIN; None for any other model."""
    if name not in RECOMMENDERS:
        return None
    return next(base.__name__ for base in resolve(RECOMMENDERS[name]).__mro__ if base.__module__.startswith("recbole."))


def entry(name):
    """The `Entry` of a plugin model.

    Raises:
        KeyError: no such model was registered.
    """
    return _entries[name]


def head(name):
    """What answers a plugin model's prompts (:mod:`recbole_llm.data.heads`).

    Raises:
        KeyError: no such model was registered.
    """
    return resolve(entry(name).model).head


def dataset_class(name):
    """The dataset class of a plugin model: its own, or its head's."""
    return resolve(entry(name).dataset) or head(name).dataset


def register_protocol(protocol, name=None):
    """Make a protocol known by its name.

    Args:
        protocol: a subclass of `protocols.base.Protocol`, or "module:Class".
        name: its name; needed with "module:Class".
    """
    PROTOCOLS[name or protocol.name] = protocol


def protocols():
    """Names of all protocols."""
    return [name for name in PROTOCOLS if name is not None]


def is_protocol(name):
    """Whether a value is the name of a protocol."""
    return isinstance(name, str) and name in PROTOCOLS


def protocol(name):
    """The object of a protocol; of None, RecBole's own evaluation.

    Raises:
        ValueError: the name is unknown; names all protocols.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown; known are {', '.join(protocols())}")
    return resolve(PROTOCOLS[name])()


def resolve(target):
    """Import "module:name"; anything but a string is returned as it is."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def recbole_modules():
    """{lower case model name: file} of RecBole's own models, from the folder, with nothing imported."""
    root = Path(sys.modules["recbole"].__file__).parent / "model"
    files = [file for kind in KINDS for file in (root / f"{kind}_recommender").glob("*.py")]
    return {file.stem: file for file in files if file.stem != "__init__"}


def available_models():
    """(plugin's, RecBole's) model names, each sorted; RecBole's are read from its files' class statements."""
    names = []
    for stem, file in recbole_modules().items():
        classes = re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        names += [name for name in classes if name.lower() == stem]
    return sorted(_entries), sorted([*names, *RECOMMENDERS], key=str.lower)


def check_model(name):
    """Return `name` if RecBole or the plugin has a model of exactly that name.

    Raises:
        ValueError: there is none; gives the nearest names and all that there are.
    """
    plugin, recbole = available_models()
    if name in plugin or name in recbole:
        return name
    known = {known.lower(): known for known in plugin + recbole}
    close = [known[lower] for lower in difflib.get_close_matches(str(name).lower(), known, n=3)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"Unknown model {name!r}.{hint} Available: {', '.join(plugin)}; RecBole's {', '.join(recbole)}")


def register_own():
    """Register the plugin's own models, and the recommenders that it adds to RecBole's."""
    for target in PLUGIN_MODELS.values():
        register(target)
    for name in RECOMMENDERS:
        sys.modules[f"{PACKAGE}.{name.lower()}"] = _ModelModule(name)


class _ModelModule(types.ModuleType):
    """The module in which RecBole looks a plugin model up; it imports the class when asked for it."""

    def __init__(self, name):
        super().__init__(f"{PACKAGE}.{name.lower()}", f"Registers {name} with RecBole.")
        self.__spec__ = ModuleSpec(self.__name__, loader=None)  # importlib.util.find_spec refuses a module without one
        self._model = name

    def __getattr__(self, attribute):
        if attribute == self.__dict__.get("_model"):
            return resolve(RECOMMENDERS.get(attribute) or _entries[attribute].model)
        raise AttributeError(f"module {self.__name__!r} has no attribute {attribute!r}")
