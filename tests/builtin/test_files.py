"""The shipped model: it is there, small, quick to load with plain transformers, and says who made it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import recbole_llm.builtin

FOLDER = Path(recbole_llm.builtin.__file__).parent
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def test_files_are_there_and_small():
    assert all((FOLDER / name).is_file() for name in (*FILES, "README.md"))
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) <= 40 * 2**20


def test_loads_in_two_seconds():
    code = (
        "import time\nfrom transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM\n"
        f"t = time.process_time()\nm = AutoModelForCausalLM.from_pretrained({str(FOLDER)!r})\n"
        f"AutoTokenizer.from_pretrained({str(FOLDER)!r})\nassert isinstance(m, LlamaForCausalLM)\n"
        "print(time.process_time() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 2  # CPU seconds: a busy machine says nothing about the files


def test_projectors_fit_the_model():
    from recbole_llm.builtin.slots import pretrained_projector

    hidden = json.loads((FOLDER / "config.json").read_text())["hidden_size"]
    for d in (32, 50, 64, 128):
        weights = pretrained_projector(FOLDER, d)
        assert weights["0.weight"].shape == (hidden, d) and weights["2.bias"].shape == (hidden,)
        assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize("skill", ["lookup", "user", "history"])
def test_the_weights_have_the_skills_that_are_published(skill, tokenizer):
    """Some 40 held-out questions with 20 candidates, other ones than those of skills.json; chance .05."""
    from recbole_llm.builtin import probe
    from recbole_llm.builtin.slots import pretrained_projector

    def project(vectors, which):
        weights = pretrained_projector(FOLDER, vectors.shape[1])
        inner = torch.nn.functional.gelu(torch.nn.functional.linear(vectors, weights["0.weight"], weights["0.bias"]))
        return torch.nn.functional.linear(inner, weights["2.weight"], weights["2.bias"])

    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    batch = probe.held_out(tokenizer, seed=7).batch(probe.HARD.only(skill), 9000)
    _, chosen = probe.accuracy(model, project, batch, 0, torch.device("cpu"))
    published = json.loads((FOLDER / "skills.json").read_text())[skill]["chosen"]
    assert len(chosen) >= 30 and abs(chosen.mean() - published) < 0.2, (len(chosen), chosen.mean(), published)


def test_weights_are_bf16_and_finite():
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert model.dtype == torch.bfloat16
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.config.max_position_embeddings >= 1024


def test_special_tokens(tokenizer):
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert None not in special and len(special) == 3
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id and config["vocab_size"] == len(tokenizer)


@pytest.mark.parametrize("text", [
    " Toy Story", " Star Trek: First Contact", ' "Weird Al" Yankovic', " Björk", " 宇多田ヒカル", " \U0001f600", " NA",
    " {history}, [slot]\n", " 2001", "\u202eabc", " <|eos|" + "",
])
def test_every_text_survives(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert max(ids) < len(tokenizer)


def test_real_titles_stay_short(tokenizer):
    """The pieces are English enough: a title costs few tokens although the tokenizer never saw one."""
    titles = [" The Silence of the Lambs", " Toy Story", " Radiohead", " The Smashing Pumpkins"]
    counts = [len(ids) for ids in tokenizer(titles, add_special_tokens=False)["input_ids"]]
    assert max(counts) <= 12
