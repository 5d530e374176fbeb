"""Settings as plain values: what a YAML file, a command line and a checkpoint may hold, and which keys shape a result."""

import ast
import re
from pathlib import Path

import numpy as np
import yaml

# Keys that RecBole computes from others or from the machine; a stored configuration leaves them out
COMPUTED = ("MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "single_spec", "local_rank")
# Where things lie and how often they are kept, what is shown, which machines: none of these changes a number
NON_RESULT_KEYS = (
    "data_path", "source", "offline", "checkpoint_dir", "result_dir", "config_files", "resume", "show_progress", "state", "verbose",
    "loss_decimal_place", "log_wandb", "wandb_project", "gpu_id", "use_gpu", "nproc", "ip", "port", "world_size",
    "offset", "group_offset", "save_steps", "save_total_limit", "prefetch_steps", "peak_tflops",
)  # fmt: skip
# What is measured beside training: none of these changes a weight
REPORTING_KEYS = ("variant", "latency_rows", "permutations", "test_sample_size")
WORDS = {"true": True, "false": False, "null": None, "~": None}
# Settings that are strings whatever they look like, but for true, false, null and ~: --result_dir=2024, --user_inter_num_interval=[5,10]
STRINGS = {"data_path", "result_dir", "checkpoint_dir", "llm_path", "crm_path", "crm_model", "item_text_field"}
STRINGS |= {"resume", "model", "dataset", "field_separator", "seq_separator"}


class ConfigError(ValueError):
    """One or more wrong settings; `problems` holds a line for each: key, rule, remedy."""

    def __init__(self, problems):
        self.problems = list(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' * (count > 1)} in the configuration:\n  " + "\n  ".join(self.problems))


def first_line(error) -> str:
    """What another library's error says, short enough for a line of ours."""
    return str(error).strip().split("\n")[0][:200]


class SafeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # libyaml's parser, where PyYAML has it, is many times faster
    """YAML without Python tags, with RecBole's reading of 1e-3 as a number."""


SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(file):
    """The mapping in a YAML file, empty for an empty one.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: the file is no YAML mapping, or names Python objects.
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


def plain_values(config):
    """A configuration as a dict of strings, numbers, booleans, None, lists and dicts, for JSON, YAML and checkpoints.

    What RecBole computes from other keys or from the machine (`COMPUTED`) is left out; `config_from_values` redoes it.
    """
    return {key: _plain(value) for key, value in config.final_config_dict.items() if key not in COMPUTED}


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


def parse_value(text, key=""):
    """The value that `text` stands for: Python literal, true/false/null, YAML list or mapping, else `text` itself.

    The keys in `STRINGS` and those that end in `_num_interval` stay text, unless it says None, null, ~, true or false.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if text != "None" and (key in STRINGS or key.endswith("_num_interval")):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return flow(text) if text[:1] in ("[", "{") else text
    return value if value is None or isinstance(value, (str, bool, int, float, list, tuple, dict)) else text


def flow(text):
    """A YAML flow list or mapping, or the text where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
