"""Wraps the merging of RecBole's `Config`, so that plugin models have their layers and checks in plain RecBole too."""

import yaml
from recbole.config import Config
from recbole.utils import set_color

from recbole_llm import registry
from recbole_llm.config import checks
from recbole_llm.config.loader import LLMConfig, check_and_complete, place_on_device
from recbole_llm.config.properties import plugin_settings
from recbole_llm.config.values import ConfigError, read_yaml
from recbole_llm.runtime import distributed


def install():
    """Wrap `Config`; runs once."""
    load, merge = Config._load_internal_config_dict, Config._get_final_config_dict
    init_device, show = Config._init_device, Config.__str__

    def _load_internal_config_dict(self, model, model_class, dataset):
        load(self, registry.parent(model) or model, model_class, dataset)  # RecBole gives DIN its user and item fields by name
        self.plugin_config_dict, self.llm_config_dict = {}, {}
        if _is_ours(self, model):
            self.plugin_config_dict, self.llm_config_dict = plugin_settings(model, dataset, self.external_config_dict)
        self.internal_config_dict.update(self.plugin_config_dict)

    def _get_final_config_dict(self):
        final = merge(self)
        if isinstance(final.get("topk"), tuple):  # --topk=1,3, of which RecBole makes a tuple that it then refuses
            final["topk"] = list(final["topk"])
        if _is_ours(self, self.model):
            check_and_complete(self, final)
        elif problems := checks.pickle_problems(final):
            raise ConfigError(problems)
        return final

    def _init_device(self):
        final = self.final_config_dict
        if distributed.place(final):
            return
        if "local_rank" in final:  # RecBole's own processes
            init_device(self)
        else:
            place_on_device(final, "gpu_id" in self.external_config_dict)

    def __str__(self):
        settings = ", ".join(f"{key}={value!r}" for key, value in getattr(self, "llm_config_dict", {}).items())
        return show(self) + (set_color("LLM", "pink") + f": {self['settings_of'] or self['llm_path']} sets {settings}\n\n" if settings else "")

    Config.__str__ = __str__  # which both entry points log, once
    Config._init_device, Config._load_config_files = _init_device, _file_by_file(Config._load_config_files)
    Config._load_internal_config_dict = _load_internal_config_dict
    Config._get_final_config_dict = _get_final_config_dict


def _is_ours(config, model) -> bool:
    """Whether a configuration has the plugin's layers and checks: `run_recbole_llm`'s, and plain RecBole's of a model that the plugin brings."""
    return isinstance(config, LLMConfig) or registry.is_plugin_model(model) or model in registry.RECOMMENDERS


def _file_by_file(load_files):
    """RecBole's reader of config files, one at a time: which of them is no YAML is said, and an empty one sets nothing."""

    def _load_config_files(self, file_list):
        found = {}
        for file in file_list or ():
            try:
                found.update(load_files(self, [file]))
            except (TypeError, ValueError, yaml.YAMLError):
                found.update(read_yaml(file))
        return found

    return _load_config_files
