"""Loads any causal LM of the Hugging Face family, frozen, or says why it cannot be used.

Weights are read from safetensors only: a pickle can run code when it is opened. transformers is imported on first use.
"""

from __future__ import annotations

import importlib.util

import torch

from recbole_llm.config.values import ConfigError, first_line
from recbole_llm.llm.attention import choose_by_pass
from recbole_llm.llm.folder import CONVERT, EXAMPLES, check_config, resolve_path
from recbole_llm.runtime import distributed, hardware

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("eager", "sdpa", "flash_attention_2")
BITS = ("8bit", "4bit")


def load_llm(config):
    """The causal LM that `llm_path` names: frozen, in eval mode, on the CPU (quantised: on `device`).

    Reads llm_path, llm_random_weights, llm_dtype (auto: :mod:`recbole_llm.runtime.hardware`), attn_implementation (null on a CPU:
    :mod:`recbole_llm.llm.attention`), llm_quantization (null, 8bit, 4bit) and trust_remote_code.

    Raises:
        FileNotFoundError: no such folder, file or distribution, or a hub name that cannot be fetched.
        ConfigError: a package that a setting needs is missing, or two settings exclude each other.
        ValueError: a key's value is unknown, or what is there is no complete causal LM in safetensors.
    """
    from transformers import GenerationConfig

    if lines := loading_problems(config):
        raise ConfigError(lines)
    options = _options(config)
    path = resolve_path(config)
    found = check_config(path, options["trust_remote_code"], config["llm_path"])
    llm = _untrained(found, options, config) if config["llm_random_weights"] else _pretrained(path, options)
    llm.requires_grad_(False).eval()
    if "attn_implementation" not in options and torch.device(config["device"] or "cpu").type == "cpu":
        choose_by_pass(llm)
    if not is_causal(llm):
        raise ValueError(
            f"llm_path {path!r} is a {type(llm).__name__} whose tokens see later tokens: not a causal LM; {EXAMPLES}"
        )
    llm.generation_config = GenerationConfig()  # greedy by our own arguments, whatever sampling the checkpoint suggests
    return llm


def loading_problems(config) -> list[str]:
    """Lines for settings of a configuration, whole or not checked yet, that no LLM can be loaded with here."""
    attention, bits, problems = _get(config, "attn_implementation"), _get(config, "llm_quantization"), []
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        problems.append("attn_implementation: flash_attention_2 needs the package flash-attn; install it, or use sdpa")
    if bits in BITS and importlib.util.find_spec("bitsandbytes") is None:
        problems.append(f"llm_quantization: {bits} needs bitsandbytes; pip install 'recbole_llm[quantized]'")
    if bits and _get(config, "llm_random_weights"):
        problems.append("llm_random_weights: random weights are not quantised; set llm_quantization: null")
    return problems


def _get(config, key):
    return config[key] if key in config else None


def _untrained(found, options, config):
    """A model of the same shape whose weights are drawn from `seed`."""
    from transformers import AutoModelForCausalLM

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
            f"llm_path {path!r}: no weights in safetensors could be read ({first_line(error)}); {CONVERT}"
        ) from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ValueError(
            f"llm_path {path!r} lacks the weights {missing[:5]} of a {type(llm).__name__}: use one saved from a "
            f"causal LM, not from its base model"
        )
    return llm


def context_length(llm):
    """Longest sequence in tokens that the LM takes, or None where its positions have no end (ALiBi, recurrent)."""
    config = llm.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def numbers_in(weight):
    """How many numbers a weight holds; a 4-bit one has two in each stored byte."""
    return weight.numel() * (2 * weight.element_size() if type(weight).__name__ == "Params4bit" else 1)


def count_parameters(module, trainable=False):
    """Number of parameters of a module, or of its trainable ones."""
    return sum(numbers_in(weight) for weight in module.parameters() if weight.requires_grad or not trainable)


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
    attention = _choice(config, "attn_implementation", ATTENTION)
    if attention is not None:
        options["attn_implementation"] = attention
    bits = _choice(config, "llm_quantization", BITS)
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
