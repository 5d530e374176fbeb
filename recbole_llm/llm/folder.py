"""What `llm_path` stands for: a folder or hub name that holds a causal LM, or why it cannot be used.

`llm_path` is a short name, a GGUF file, a local folder, or a name on the Hugging Face hub (:mod:`recbole_llm.llm.source`).
"""

from __future__ import annotations

from recbole_llm.config.properties import short_name_file, short_names
from recbole_llm.config.values import first_line
from recbole_llm.llm import source as llm_source
from recbole_llm.runtime.files import expanded

EXAMPLES = "use one of the families Llama, Qwen, Mistral, Gemma, GPT-2 ..."
CONVERT = (
    "if you trust pickled weights, convert them once: "
    "AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False).save_pretrained(new_folder)"
)


def resolve_path(config):
    """Folder or hub name that `llm_path` stands for, as a string; a GGUF file is converted first.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without config.json or weights.
        ValueError: a folder with a PEFT adapter, or with pickled weights only; a GGUF file that cannot be used.
    """
    name = llm_source.locate(str(config["llm_path"]))
    folder = expanded(name)
    if not folder.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
            raise FileNotFoundError(f"llm_path {name!r} does not exist; give a folder, a hub name (owner/name), {_others()}")
        return name
    if (folder / "config.json").is_file():
        _check_weights(folder)
        return str(folder)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"llm_path {name!r} is a PEFT adapter; merge it into its base model, or name the base model")
    ggufs = sorted(folder.glob("*.gguf"))
    remedy = f"give its GGUF file, llm_path={ggufs[0]}" if ggufs else "give a folder saved by save_pretrained"
    raise FileNotFoundError(f"llm_path {name!r} ({folder}) holds no config.json; {remedy}")


def check_config(path, trust_remote_code, name):
    """Refuses what is no decoder-only causal LM before its weights are read; the LM's configuration."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        found = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise FileNotFoundError(
            f"llm_path {name!r}{'' if name == path else f' ({path})'} is neither a folder here nor a model that the Hugging Face hub "
            f"gave ({first_line(error)}); check the name, the network, HF_HUB_OFFLINE and, for gated models, the login; or download "
            f"it elsewhere (hf download {path} --local-dir DIR), copy DIR here and give llm_path=DIR{_with_settings(name)}; or use {_others()}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"llm_path {path!r}: its config.json names no model that transformers knows ({first_line(error)}); "
            f"trust_remote_code: true runs code that a checkpoint brings"
        ) from error
    remote = trust_remote_code and "AutoModelForCausalLM" in (getattr(found, "auto_map", None) or {})
    if getattr(found, "is_encoder_decoder", False) or not (remote or type(found) in MODEL_FOR_CAUSAL_LM_MAPPING):
        raise ValueError(f"llm_path {path!r} is a {found.model_type} model, not a causal LM; {EXAMPLES}")
    if getattr(found.get_text_config(), "hidden_size_per_layer_input", 0):
        raise ValueError(
            f"llm_path {path!r}: a {found.model_type} model looks token ids up in every layer, and behaviour "
            f"tokens have none; {EXAMPLES}"
        )
    return found


def _check_weights(folder):
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"llm_path {str(folder)!r} holds only pickled weights ({pickled[0]}), which can run code when opened; "
            f"{CONVERT}"
        )
    raise FileNotFoundError(f"llm_path {str(folder)!r} holds no *.safetensors; give a folder saved by save_pretrained")


def _with_settings(name) -> str:
    """What keeps the settings that suit a short name where its folder stands for it."""
    return f" with settings_of={name}" if short_name_file(name) else ""


def _others():
    return f"a .gguf file, or a short name ({', '.join(short_names())})"
