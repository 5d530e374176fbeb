"""A configuration on the tiny data set, and the file of its CRM."""

from pathlib import Path

from recbole_llm import LLMConfig
from tests import tiny


def config_for(tiny_data, tiny_llm, out, **more):
    return LLMConfig("LLaRA", "tiny", config_dict=tiny.settings(tiny_data, tiny_llm, out, **more))


def weights_file(config):
    (path,) = (Path(config["checkpoint_dir"]) / "crm").glob("*.safetensors")
    return path
