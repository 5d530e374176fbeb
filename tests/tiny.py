"""Small made-up data and LLMs for tests, written to a folder and read back by the code under test."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = "amber birch cedar dune ember fjord grove heath isle jade knoll lagoon moor night ocean pine quartz reef".split()


def write_dataset(folder: Path, name: str = "tiny", n_users: int = 40, n_items: int = 60, length: int = 9, seed: int = 0):
    """Atomic files with titles under ``folder/name``; each user walks along a ring of items with small steps."""
    rng = np.random.default_rng(seed)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(n_users):
        start, seen = rng.integers(n_items), []
        for step in range(length):
            item = int((start + 2 * step + rng.integers(2)) % n_items)
            if item not in seen:
                seen.append(item)
                lines.append(f"u{user}\ti{item}\t{1 + (item + user) % 5}\t{1000 + step}")
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n")
    titles = ["item_id:token\ttitle:token_seq"]
    titles += [f"i{i}\t{WORDS[i % len(WORDS)].title()} {WORDS[(i * 5 + i // 18) % len(WORDS)]}" for i in range(n_items)]
    (target / f"{name}.item").write_text("\n".join(titles) + "\n")
    return folder


def write_fields(folder: Path, name: str = "tiny") -> Path:
    """Give a dataset a .user file, of which the second user lacks an occupation, and its .item file years and genres."""
    target = folder / name
    users = dict.fromkeys(line.split("\t")[0] for line in (target / f"{name}.inter").read_text().splitlines()[1:])
    lines = ["user_id:token\tage:token\tgender:token\toccupation:token"]
    lines += [f"{user}\t{20 + i % 7}\t{'FM'[i % 2]}\t{'' if i == 1 else WORDS[i % 5]}" for i, user in enumerate(users)]
    (target / f"{name}.user").write_text("\n".join(lines) + "\n")
    head, *items = (target / f"{name}.item").read_text().splitlines()
    more = [f"{line}\t{1990 + i % 4}\t{WORDS[i % 3]} {WORDS[3 + i % 2]}" for i, line in enumerate(items)]
    (target / f"{name}.item").write_text("\n".join([f"{head}\tyear:token\tgenre:token_seq", *more]) + "\n")
    return folder


def write_llm(folder: Path, architecture: str = "llama", hidden: int = 32, layers: int = 2, **settings) -> Path:
    """A causal LM with random weights and a byte-level BPE tokenizer, in the Hugging Face layout."""
    import torch

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" " + a + " " + b for a in WORDS for b in WORDS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        **{"max_position_embeddings": 1024, **settings},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def settings(data: Path, llm: Path, out: Path, **more) -> dict:
    """A config_dict for a quick run on the tiny dataset."""
    base = {
        "data_path": str(data),
        "llm_path": str(llm),
        "llm_dtype": "float32",  # on every CPU: tests compare scores to float32's rounding
        "checkpoint_dir": str(out / "saved"),
        "result_dir": str(out / "results"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "item_text_field": "title",
        "n_candidates": 8,
        "crm_epochs": 2,
        "crm_config": {"hidden_size": 16, "inner_size": 16, "train_batch_size": 64},
        "epochs": 1,
        "train_sample_size": 64,
        "train_batch_size": 8,
        "accumulation_steps": 1,
        "valid_sample_size": 200,
        "eval_batch_size": 16,
        "latency_rows": 2,
        "show_progress": False,
        "state": "WARNING",
    }
    return {**base, **more}
