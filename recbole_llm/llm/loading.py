"""Loads any causal LM of the Hugging Face family and its tokenizer, frozen, or says why it cannot be used.

`llm_path` is a short name, a GGUF file, a local folder, or a name on the Hugging Face hub (:mod:`recbole_llm.llm.source`).
Weights are read from safetensors only: a pickle can run code when it is opened. transformers is imported on first use.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from recbole_llm.config.properties import short_names
from recbole_llm.llm import source as llm_source
from recbole_llm.runtime import distributed, hardware

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("eager", "sdpa", "flash_attention_2")
_EXAMPLES = "use one of the families Llama, Qwen, Mistral, Gemma, GPT-2 ..."
_CONVERT = (
    "if you trust pickled weights, convert them once: "
    "AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False).save_pretrained(new_folder)"
)


def load_llm(config):
    """The causal LM that `llm_path` names: frozen, in eval mode, on the CPU (quantised: on `device`).

    Reads llm_path, llm_random_weights, llm_dtype and attn_implementation (auto and null: :mod:`recbole_llm.runtime.hardware`),
    llm_quantization (null, 8bit, 4bit) and trust_remote_code.

    Raises:
        FileNotFoundError: no such folder, file or distribution, or a hub name that cannot be fetched.
        ValueError: a key's value is unknown, or what is there is no complete causal LM in safetensors.
        ImportError: a quantisation or attention package is missing.
    """
    from transformers import GenerationConfig

    options = _options(config)
    path = resolve_path(config)
    found = _check_config(path, options["trust_remote_code"], config["llm_path"])
    llm = _untrained(found, options, config) if config["llm_random_weights"] else _pretrained(path, options)
    llm.requires_grad_(False).eval()
    if not is_causal(llm):
        raise ValueError(
            f"llm_path {path!r} is a {type(llm).__name__} whose tokens see later tokens: not a causal LM; {_EXAMPLES}"
        )
    llm.generation_config = GenerationConfig()  # greedy by our own arguments, whatever sampling the checkpoint suggests
    return llm


def _untrained(found, options, config):
    """A model of the same shape whose weights are drawn from `seed`."""
    from transformers import AutoModelForCausalLM

    if "quantization_config" in options:
        raise ValueError("llm_random_weights: random weights are not quantised; set llm_quantization: null")
    dtype = found.dtype if options["dtype"] == "auto" else options["dtype"]
    attention = {name: value for name, value in options.items() if name == "attn_implementation"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        return AutoModelForCausalLM.from_config(found, dtype=dtype, trust_remote_code=options["trust_remote_code"], **attention)


def _pretrained(path, options):
    from transformers import AutoModelForCausalLM

    try:
        llm, loaded = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, output_loading_info=True, **options
        )
    except OSError as error:
        raise FileNotFoundError(
            f"llm_path {path!r}: no weights in safetensors could be read ({_first_line(error)}); {_CONVERT}"
        ) from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ValueError(
            f"llm_path {path!r} lacks the weights {missing[:5]} of a {type(llm).__name__}: use one saved from a "
            f"causal LM, not from its base model"
        )
    return llm


def load_tokenizer(config):
    """The tokenizer beside the LM, padding on the left. Padding, always masked, falls back to the end token where it has
    no token, or one that the LM has no embedding for.

    Raises:
        FileNotFoundError: there is no such LM, or no tokenizer.
        ValueError: what is there is no causal LM, or its tokenizer has no end token.
    """
    from transformers import AutoTokenizer

    path = resolve_path(config)
    trust = bool(config["trust_remote_code"])
    found = _check_config(path, trust, config["llm_path"])  # first: the name may be wrong, or no causal LM
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, padding_side="left", trust_remote_code=bool(config["trust_remote_code"])
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise FileNotFoundError(
            f"llm_path {path!r} has no tokenizer that can be read ({_first_line(error)}); put its tokenizer.json and "
            f"tokenizer_config.json beside the weights"
        ) from error
    first, second = tokenizer(["The Matrix", "Toy Story"], add_special_tokens=False)["input_ids"]
    if first == second:  # made up by transformers from the model's name, without a vocabulary
        raise FileNotFoundError(f"llm_path {path!r} has no tokenizer; put its tokenizer.json beside the weights")
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"llm_path {path!r}: its tokenizer has no end token, which ends every answer; name one as eos_token in "
            f"tokenizer_config.json"
        )
    rows = getattr(found.get_text_config(), "vocab_size", None)
    if tokenizer.pad_token_id is None or rows and tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def resolve_path(config):
    """Folder or hub name that `llm_path` stands for, as a string; a GGUF file is converted first.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without config.json or weights.
        ValueError: a folder with a PEFT adapter, or with pickled weights only; a GGUF file that cannot be used.
    """
    name = llm_source.locate(str(config["llm_path"]))
    folder = Path(name).expanduser()
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


def check_tokenizer(llm, tokenizer, used=()):
    """Refuse a tokenizer that gives ids for which the LM has no embedding.

    A token that no prompt holds needs none: Gemma 3 of one billion names an image token one beyond its table.

    Args:
        used: ids of titles and templates, beside those of the start, end and padding tokens.

    Raises:
        ValueError: names the tokens.
    """
    rows = llm.get_input_embeddings().num_embeddings
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, *used} - {None}
    if beyond := sorted(token for token in needed if token >= rows):
        shown = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in beyond[:5])
        raise ValueError(
            f"llm_path: the tokenizer has {len(tokenizer)} tokens and the LM {rows} embeddings, none for {shown}, which "
            f"prompts hold; use those saved together"
        )


def context_length(llm):
    """Longest sequence in tokens that the LM takes, or None where its positions have no end (ALiBi, recurrent)."""
    config = llm.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def count_parameters(module, trainable=False):
    """Number of parameters of a module, or of its trainable ones; a 4-bit weight holds two in each stored byte."""
    chosen = (p for p in module.parameters() if p.requires_grad or not trainable)
    return sum(p.numel() * (2 * p.element_size() if type(p).__name__ == "Params4bit" else 1) for p in chosen)


@torch.no_grad()
def is_causal(llm):
    """Whether a change of the last token leaves the logits before it alone: BERT too loads as a causal LM."""
    rows = min(100, llm.get_input_embeddings().num_embeddings)
    ids = torch.arange(rows - 4, rows, device=llm.device).repeat(2, 1)
    ids[1, -1] = rows - 5
    logits = llm(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1].float()
    rounding = 1e-4 if llm.dtype == torch.float32 else 5e-2
    return bool((logits[0] - logits[1]).abs().max() <= rounding * logits.std())


def _options(config):
    """Keyword arguments of from_pretrained for the llm keys."""
    device = str(config["device"] or "cpu")
    dtype = DTYPES[_choice(config, "llm_dtype", DTYPES, default="auto")]
    if dtype == "auto":
        dtype = hardware.llm_dtype(device)
    options = {
        "dtype": dtype,
        "trust_remote_code": bool(config["trust_remote_code"]),
    }
    attention = _choice(config, "attn_implementation", ATTENTION, default=hardware.attention(device, dtype))
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ImportError(
            "attn_implementation: flash_attention_2 needs the package flash-attn; install it, or use sdpa"
        )
    if attention is not None:
        options["attn_implementation"] = attention
    bits = _choice(config, "llm_quantization", ("8bit", "4bit"))
    if bits is not None:
        if distributed.sharded():
            raise ValueError(
                f"llm_quantization: {bits} weights cannot be cut into FSDP's shards here; set it to null, or start with "
                "torchrun, where each GPU holds all of them"
            )
        options["quantization_config"] = _quantization(bits, options["dtype"])
        options["device_map"] = {"": device}
    return options


def _quantization(bits, dtype):
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(f"llm_quantization: {bits} needs bitsandbytes; pip install 'recbole_llm[quantized]'")
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _choice(config, key, allowed, default=None):
    value = config[key] if config[key] is not None else default
    if value is not None and value not in allowed:
        raise ValueError(f"{key}: {value!r} is not one of {', '.join(allowed)}")
    return value


def _check_config(path, trust_remote_code, name):
    """Refuses what is no decoder-only causal LM before its weights are read; the LM's configuration."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        found = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise FileNotFoundError(
            f"llm_path {name!r}{'' if name == path else f' ({path})'} is neither a folder here nor a model that the Hugging Face hub "
            f"gave ({_first_line(error)}); check the name, the network, HF_HUB_OFFLINE and, for gated models, the login; or download "
            f"it elsewhere (hf download {path} --local-dir DIR), copy DIR here and give llm_path=DIR; or use {_others()}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"llm_path {path!r}: its config.json names no model that transformers knows ({_first_line(error)}); "
            f"trust_remote_code: true runs code that a checkpoint brings"
        ) from error
    remote = trust_remote_code and "AutoModelForCausalLM" in (getattr(found, "auto_map", None) or {})
    if getattr(found, "is_encoder_decoder", False) or not (remote or type(found) in MODEL_FOR_CAUSAL_LM_MAPPING):
        raise ValueError(f"llm_path {path!r} is a {found.model_type} model, not a causal LM; {_EXAMPLES}")
    if getattr(found.get_text_config(), "hidden_size_per_layer_input", 0):
        raise ValueError(
            f"llm_path {path!r}: a {found.model_type} model looks token ids up in every layer, and behaviour "
            f"tokens have none; {_EXAMPLES}"
        )
    return found


def _check_weights(folder):
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"llm_path {str(folder)!r} holds only pickled weights ({pickled[0]}), which can run code when opened; "
            f"{_CONVERT}"
        )
    raise FileNotFoundError(f"llm_path {str(folder)!r} holds no *.safetensors; give a folder saved by save_pretrained")


def _others():
    return f"a .gguf file, or a short name ({', '.join(short_names())})"


def _first_line(error):
    return str(error).strip().split("\n")[0][:200]
