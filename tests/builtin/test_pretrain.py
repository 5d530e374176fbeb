"""Pretraining: an interrupted run equals an uninterrupted one, files load, the structured start looks where it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_llm.builtin import build, phrases, pretrain, probe, slots
from recbole_llm.builtin.pretrain import Pretraining, Settings, learning_rate, stage_at
from recbole_llm.builtin.tokenizer import train_tokenizer

MICRO = Settings(size="tiny", steps=12, tokens=150, warmup=2, settle=1, titles=300)
MICRO_PLAN = replace(probe.HARD, items=(3, 3), history=(2, 2), questions=1)


@pytest.fixture(scope="module", autouse=True)
def fresh_projectors_every_other_step():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "STAGES", tuple((share, 0.5, scale, plan) for share, _, scale, plan in pretrain.STAGES))
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def uninterrupted(tokenizer):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    while run.step < MICRO.steps:
        run.train_step()
    return run


def test_resumed_run_is_the_same(uninterrupted, tokenizer, tmp_path):
    first = Pretraining(MICRO, tokenizer=tokenizer)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path)
    torch.manual_seed(77)
    second = Pretraining(MICRO, tokenizer=tokenizer)
    second.resume(tmp_path)
    while second.step < MICRO.steps:
        second.train_step()
    assert any(row["fresh"] for row in second.curve[3:])  # torch's generator was needed after the interruption
    assert second.curve == uninterrupted.curve
    for name, weight in uninterrupted.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], weight, rtol=0, atol=0)


def test_bfloat16_learns_from_the_same_batches(uninterrupted, tokenizer):
    run = Pretraining(replace(MICRO, bf16=True), tokenizer=tokenizer)
    while run.step < MICRO.steps:
        run.train_step()
    assert [row["tokens"] for row in run.curve] == [row["tokens"] for row in uninterrupted.curve]
    losses = [[row["loss"] for row in each.curve] for each in (run, uninterrupted)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.1)  # the same weights still
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.2)  # rounding in scores of 40 and more
    assert all(weight.dtype == torch.float32 for weight in run.model.parameters())


def test_a_run_that_is_probed_half_way_is_the_same(uninterrupted, tokenizer):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    while run.step < MICRO.steps:
        if run.step == 3:
            probe.probe(run.model, run.projectors, tokenizer, MICRO_PLAN, skills=("lookup",), tokens=100, batches=1)
        run.train_step()
    assert any(row["fresh"] for row in run.curve[3:]) and run.curve == uninterrupted.curve


def test_resume_refuses_other_settings_and_empty_folders(tokenizer, tmp_path):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    with pytest.raises(FileNotFoundError, match="without --resume"):
        run.resume(tmp_path)
    run.save(tmp_path)
    with pytest.raises(ValueError, match="was written with"):
        Pretraining(replace(MICRO, seed=1), tokenizer=tokenizer).resume(tmp_path)


def test_command_writes_a_folder_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "probe", lambda *arguments: {"repeat": {"trained": 0.0, "fresh": 0.0}})
    pretrain.main(["--out", str(tmp_path), "--size", "tiny", "--steps", "2", "--tokens", "150", "--log-every", "1"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16 and len(tokenizer) == model.config.vocab_size
    assert json.loads((tmp_path / "pretraining.json").read_text())["steps"] == 2
    assert (tmp_path / "curve.csv").read_text().count("\n") == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_stages_cover_all_steps_and_the_rate_falls():
    assert abs(sum(share for share, *_ in pretrain.STAGES) - 1) < 1e-9
    assert [stage_at(step, 1000) for step in (0, 999)] == [0, len(pretrain.STAGES) - 1]
    rates = [learning_rate(step, replace(MICRO, steps=100, warmup=5)) for step in range(100)]
    assert rates[0] < rates[4] and rates[-1] < 0.03 * max(rates)


def test_unknown_size():
    with pytest.raises(ValueError, match="choose one of"):
        build.build_model("huge", None, 0)


@pytest.mark.parametrize("size", ["base", "large"])
def test_structured_start_finds_the_shown_vector(tokenizer, size):
    """Untrained: the taste head reads the shown slot, and a match head prefers the candidate with the same vector."""
    run = Pretraining(replace(MICRO, size=size), tokenizer=tokenizer)
    run.model.set_attn_implementation("eager")
    generator, found, looked = run.generator, [], []
    batch = generator.batch(pretrain.Plan(items=(5, 5), questions=1).only("lookup"), 900)
    projected = run.projectors(torch.as_tensor(batch.vectors), 0)
    embedded = slots.embed(run.model, torch.as_tensor(batch.ids), torch.as_tensor(batch.slots), projected)
    with torch.no_grad():
        attentions = run.model.model(inputs_embeds=embedded, output_attentions=True).attentions
    for row in range(len(batch.ids)):
        start = int(np.argmax(batch.answers[row] > 0))
        where = np.flatnonzero(batch.slots[row, :start])
        candidates = attentions[3][row, :2, start - 1, where[1:]].mean(0)
        right = batch.slots[row, where[1:]] == batch.slots[row, where[0]]
        found.append(bool(right[int(candidates.argmax())]))
        looked.append(float(attentions[2][row, 0, start - 1, where[0]]))
    assert np.mean(looked) > 0.6
    assert np.mean(found) > 0.7  # chance .2


def test_structured_start_copies_by_two_tokens(tokenizer):
    """Untrained: after "a b" comes what came after "a b" before, not what came after another "b"."""
    run = Pretraining(replace(MICRO, size="base"), tokenizer=tokenizer)
    a, b, c, d, e, f = range(600, 606)
    ids = torch.tensor([[tokenizer.bos_token_id, a, b, c, d, b, e, f, a, b]])
    with torch.no_grad():
        logits = run.model(ids).logits[0, -1]
    assert logits[c] > logits[e] + 2 and logits[c] > logits[[a, b, d, f]].max()


def test_flags_are_words_that_open_a_candidate_list(tokenizer):
    """Every template has one before its candidates, and none before its history."""
    flags = set(build.flag_tokens(tokenizer))
    for before, ask, _ in phrases.FRAMES:
        for domain in phrases.DOMAINS:
            tokens = [set(tokenizer(phrases.fill(text, domain))["input_ids"]) for text in (before, ask)]
            assert not flags & tokens[0] and flags & tokens[1]
    for question in phrases.YES_NO:
        assert flags & set(tokenizer(phrases.fill(question, phrases.DOMAINS[0]))["input_ids"])


def test_the_shipped_templates_are_practised_word_for_word():
    """`prompt_templates` and `click_templates` of properties/llm.yaml, in every domain that has the words."""
    settings = yaml.safe_load((Path(build.__file__).parents[2] / "properties" / "llm.yaml").read_text())
    frames = {tuple(phrases.fill(part, domain) for part in frame) for frame in phrases.FRAMES for domain in phrases.DOMAINS}
    for past, verb, noun in phrases.DOMAINS:
        words = {"verb": verb, "verbed": past, "item": noun, "items": noun + "s"}
        for template in settings["prompt_templates"]:
            parts = template.replace("{history}", "|").replace("{candidates}", "|")
            assert tuple(parts.format(**words).split("|")) in frames
        for templates in settings["click_templates"].values():
            for template in templates:
                _, question = template.split("{history}")
                ask, end = question.replace("{target}", "|").format(**words).split("|")
                assert ask in phrases.YES_NO and end in phrases.YES_NO_ENDS


def test_fresh_projectors_are_not_trained(tokenizer):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    vectors = torch.randn(5, 32)
    assert not run.projectors(vectors, run.projectors.copies).requires_grad
    assert run.projectors(vectors, 0).requires_grad
