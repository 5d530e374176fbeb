"""A GGUF file as a causal LM and tokenizer of transformers, dequantised: what :mod:`recbole_llm.llm.source` keeps.

transformers does the work. It leaves out what a header says in places that it does not read, so that the LLM would compute
something else than it was trained to, silently; that is put right, or refused, here:

- stretched positions: Llama 3's, which GGUF keeps as the tensor ``rope_freqs.weight``, and linear ones (Gemma 3 from 4B on);
- Qwen3's width of a head, Gemma 3's attention scale;
- tensors that the model has no place for (biases, experts);
- SmolLM's digits, which its tokenizer cuts apart before anything else;
- Llama 3's words that are a token, which it does not look up merges for (``ignore_merges``);
- Qwen's composed characters (NFC), and the start token that Qwen's own tokenizers do not have;
- SentencePiece without a blank before the first word;
- a token that GPT-2 has and the file has not, for which there is no embedding.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch

from recbole_llm.config.values import first_line
from recbole_llm.llm.gguf_check import ROPE_FACTORS, check_header, linear_stretch
from recbole_llm.llm.gguf_header import GGUFError, Header, read_header
from recbole_llm.llm.gguf_tokenizer import gguf_tokenizer

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
GEMMA3_27B_LAYERS = 62  # the one Gemma 3 whose attention scale is not that of its heads' width


def load_gguf(path):
    """The LLM (float32 where every tensor of the file is, else bfloat16) and the tokenizer of a GGUF file.

    Raises:
        GGUFError: the file cannot be read, or would not be read exactly.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path = path.resolve()
    header = read_header(path)
    check_header(header)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    with _quiet(), _named(path):
        config = completed(AutoConfig.from_pretrained(**where), header)
        _check_places(config, header)
        llm, loaded = AutoModelForCausalLM.from_pretrained(**where, config=config, dtype=_dtype(header), output_loading_info=True)
        if loaded["missing_keys"]:
            raise GGUFError(path, f"lacks weights of a {type(llm).__name__}: {sorted(loaded['missing_keys'])[:3]}", "choose another file")
        _check_values(llm, path)
        return llm, gguf_tokenizer(where, header)


def completed(config, header: Header):
    """``config`` with what transformers does not take from a GGUF header."""
    if header.architecture == "qwen3" and header.own("attention.key_length"):
        config.head_dim = header.own("attention.key_length")
    if header.architecture == "gemma3":
        large = header.own("block_count") == GEMMA3_27B_LAYERS
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if large else config.head_dim
    if ROPE_FACTORS in header.tensors:
        config.rope_parameters = {**config.rope_parameters, **_llama3_positions(config, header)}
    elif (stretch := linear_stretch(header)) != 1.0:
        ropes, linear = config.rope_parameters, {"rope_type": "linear", "factor": stretch}
        far = "full_attention"  # Gemma 3's layers that look at all positions; the others' are not stretched
        config.rope_parameters = {**ropes, far: {**ropes[far], **linear}} if far in ropes else {**ropes, **linear}
    return config


def _llama3_positions(config, header: Header) -> dict:
    """Llama 3's RoPE settings, if they give the factors that the file holds for each frequency.

    Raises:
        GGUFError: the factors are those of no Llama 3.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    tensor = header.tensors[ROPE_FACTORS]
    factors = np.fromfile(header.path, np.float32, count=tensor.shape[-1], offset=tensor.start)
    found = {**LLAMA3, "factor": float(factors.max())}
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(len(factors)) / len(factors))
    probe = type(config)(**{**config.to_dict(), "rope_parameters": {**config.rope_parameters, **found}})
    expected = ROPE_INIT_FUNCTIONS["llama3"](probe, "cpu")[0].numpy()
    if expected.shape != factors.shape or not np.allclose(plain / factors, expected, rtol=1e-3):
        raise GGUFError(header.path, f"stretches its positions by a {ROPE_FACTORS} that is not Llama 3's", "choose another file")
    return found


def _dtype(header: Header) -> torch.dtype:
    return torch.float32 if all(tensor.kind.name == "F32" for tensor in header.tensors.values()) else torch.bfloat16


def _check_values(llm, path) -> None:
    """Whether weights are numbers and matrices were written: what an interrupted download has not filled reads as zeros.

    Raises:
        GGUFError: some are not.
    """
    for name, weight in llm.named_parameters():
        if not torch.isfinite(weight).all():
            raise GGUFError(path, f"is damaged: {name} holds values that are no numbers", "download it again")
        if weight.ndim > 1 and not weight.any():
            raise GGUFError(path, f"is damaged or cut short: {name} holds zeros alone", "download it again")


def _check_places(config, header: Header) -> None:
    """Whether the file's tensors are the model's, in their shapes, before memory is taken for what a damaged header says.

    Raises:
        GGUFError: some are not.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config)
    (arch,) = [arch for arch, name in MODEL_ARCH_NAMES.items() if name == header.architecture]
    names = get_tensor_name_map(arch, header.own("block_count"))
    placed = {names.get_name(name, try_suffixes=(".weight", ".bias")): tuple(weight.shape) for name, weight in llm.state_dict().items()}
    if unplaced := sorted(header.tensors.keys() - placed.keys() - {ROPE_FACTORS}):
        raise GGUFError(
            header.path, f"holds {unplaced[:3]}, for which a {type(llm).__name__} of transformers has no place",
            "choose another file, or give a folder with the model's safetensors",
        )  # fmt: skip
    for name in sorted(placed.keys() & header.tensors.keys()):
        if (found := header.tensors[name].shape) != placed[name]:
            raise GGUFError(
                header.path, f"holds {name} of shape {list(found)}, where its own settings make it {list(placed[name])}", "download it again"
            )


def savable(llm):
    """The weights of :func:`load_gguf` in a model that transformers will save; one that was dequantised it does not."""
    from transformers import AutoModelForCausalLM

    config = llm.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=llm.dtype)
    plain.load_state_dict(llm.state_dict(), assign=True)
    plain.tie_weights()
    return plain


@contextmanager
def _quiet():
    """transformers advises here how to keep weights quantised."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _named(path):
    """What transformers or the tokenizer's library cannot make of a header, with the file's name: they raise errors of many types."""
    try:
        yield
    except (GGUFError, ImportError, MemoryError):
        raise
    except Exception as error:
        rule = f"cannot be read by transformers ({type(error).__name__}: {first_line(error)})"
        raise GGUFError(path, rule, "download it again, or choose another file") from error
