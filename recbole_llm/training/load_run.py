"""RecBole's `load_data_and_model`: the data and the model of a run that has ended, from a folder or a `.pth`.

RecBole and what stands on it are imported inside the functions: the shims bind this module's before RecBole is whole.
"""

import logging
import os
from pathlib import Path

from recbole_llm.training.recbole_checkpoints import load_plain, to_device

# What may differ from one machine to another without making other rows, prompts or weights of a checkpoint
MOVABLE = ("llm_path", "llm_dtype", "attn_implementation", "crm_path", "eval_batch_size", "rerank_n", "scoring_method", "mixed_precision",
           "worker")  # fmt: skip


def load_data_and_model(model_file, trust_remote_code=False, settings=None):
    """RecBole's function of this name, for ``.pth`` files and for the checkpoint folders of plugin models.

    Args:
        model_file: a ``.pth`` of a RecBole model; or a run or checkpoint folder written by the plugin's trainer, whose
            ``config.yaml`` holds the settings.
        trust_remote_code: whether the LLM that the checkpoint names may run code of its own; the checkpoint has no say in it.
        settings: over those of the checkpoint, of ``MOVABLE`` and of what says where things lie (``NON_RESULT_KEYS``).

    Returns:
        (config, model, dataset, train_data, valid_data, test_data), as RecBole does.

    Raises:
        ValueError: a damaged checkpoint, one of an earlier version, or one of data that changed since.
    """
    from recbole.utils import get_model, init_logger, init_seed

    from recbole_llm.evaluation.preparation import prepare_data

    path = Path(model_file)
    opened = _open_folder if path.is_dir() else _open_file
    config, put_weights = opened(path, trust_remote_code, settings or {})
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    logging.getLogger().info(config)
    dataset, *loaders = prepare_data(config)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
    put_weights(model)
    return config, model, dataset, *loaders


def _open_folder(path, trust_remote_code, settings):
    """(config, a function that puts the weights into a model) of a run or checkpoint folder."""
    from recbole_llm.config.loader import checkpoint_dir_of
    from recbole_llm.config.values import read_yaml
    from recbole_llm.training.checkpoint import check_data, check_version, load_checkpoint_into
    from recbole_llm.training.checkpoint_files import CONFIG, checkpoint_folder, read_state

    folder = checkpoint_folder(path)
    state, values = read_state(folder), read_yaml(folder / CONFIG)
    check_version(values, folder)
    beside = checkpoint_dir_of(folder.parent, values["checkpoint_dir"])
    config = _config(values, trust_remote_code, beside | settings)
    check_data(config, state, folder)
    return config, lambda model: load_checkpoint_into(model, folder)


def _open_file(path, trust_remote_code, settings):
    """(config, a function that puts the weights into a model) of a ``.pth``."""
    state = load_plain(path, map_location="cpu")
    config = _config(state["config"], trust_remote_code, settings)

    def put_weights(model):
        model.load_state_dict(state["state_dict"])
        model.load_other_parameter(to_device(state["other_parameter"], config["device"]))

    return config, put_weights


def _config(values, trust_remote_code, settings):
    """The Config of a checkpoint's `values`, a user's `settings` over them."""
    from recbole_llm.config.loader import config_from_values

    if "trust_remote_code" in values:
        values = {**values, "trust_remote_code": trust_remote_code}
    return config_from_values(values, _moved(values, settings))


def _moved(values, settings):
    """A user's settings as they go over a checkpoint's `values`.

    Raises:
        ConfigError: one of them is unknown, the checkpoint fixes it, or its value breaks its rule.
    """
    from recbole.utils import get_model

    from recbole_llm.config.known_keys import known_keys, unknown_problems
    from recbole_llm.config.rules import RULES
    from recbole_llm.config.values import NON_RESULT_KEYS, ConfigError

    allowed = {*MOVABLE, *NON_RESULT_KEYS} - {"resume", "config_files"}
    if wrong := sorted(settings.keys() - allowed):
        known, can = known_keys(values["model"], values["dataset"]) | {"config_files"}, ", ".join(sorted(allowed))
        fixed = [f"{key}: the checkpoint fixes it; what can be set is {can}" for key in wrong if key in known]
        raise ConfigError(unknown_problems(wrong, known) + fixed)
    rules = {key: RULES[key] for key in settings if key in RULES}
    if wrong := [f"{key}: {text}, got {settings[key]!r}" for key, (holds, text) in rules.items() if not holds(settings[key])]:
        raise ConfigError(wrong)
    check = getattr(get_model(values["model"]), "check_config", lambda final: [])
    if wrong := [line for line in check(values | settings) if line.partition(":")[0] in settings]:
        raise ConfigError(wrong)
    if "data_path" in settings:  # RecBole's, the folder of datasets
        settings = {**settings, "data_path": os.path.join(settings["data_path"], values["dataset"])}
    return settings
