"""The tokenizer that lies beside a causal LM."""

from __future__ import annotations

from recbole_llm.config.values import first_line
from recbole_llm.llm.folder import check_config, resolve_path
from recbole_llm.llm.source import is_converted


def load_tokenizer(config):
    """The tokenizer beside the LM, padding on the left. Padding, always masked, falls back to the end token where it has
    no token, or one that the LM has no embedding for.

    Raises:
        FileNotFoundError: there is no such LM, or no tokenizer.
        ValueError: what is there is no causal LM, or its tokenizer has no end token.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = resolve_path(config)
    trust = bool(config["trust_remote_code"])
    found = check_config(path, trust, config["llm_path"])  # first: the name may be wrong, or no causal LM
    # AutoTokenizer goes by the model's type, and Qwen2's class puts its own rules over those of tokenizer.json; this one reads the
    # file as it is, which is what was made from the GGUF file and checked.
    reader = PreTrainedTokenizerFast if is_converted(path) else AutoTokenizer
    try:
        tokenizer = reader.from_pretrained(path, padding_side="left", trust_remote_code=trust)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise FileNotFoundError(
            f"llm_path {path!r} has no tokenizer that can be read ({first_line(error)}); put its tokenizer.json and "
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
