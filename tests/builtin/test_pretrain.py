"""Pretraining: an interrupted run equals an uninterrupted one, files load, what is practised is what is shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_llm.builtin import build, circuits, layout, openers, phrases, pretrain, probe, slots
from recbole_llm.builtin.pretrain import Pretraining, Settings, learning_rate, stage_at

MICRO = Settings(size="tiny", steps=12, tokens=150, warmup=2, titles=300)
MICRO_PLAN = replace(probe.HARD, items=(3, 3), history=(2, 2), questions=1)


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
    assert run.curve == uninterrupted.curve
    torch.manual_seed(5)
    before = torch.get_rng_state()
    probe.probe(run.model, run.projectors, tokenizer, MICRO_PLAN, skills=("lookup",), tokens=100, batches=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command_gives_one_model_whatever_it_logs_and_where_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "probe", lambda *arguments: {})
    monkeypatch.setattr(pretrain, "validate", lambda *arguments: {"repeat": 0.5})
    step = Pretraining.train_step

    def run(name, *arguments):
        pretrain.main(["--out", str(tmp_path / name), "--size", "tiny", "--steps", "12", "--tokens", "150", *arguments])
        return [(tmp_path / name / file).read_bytes() for file in ("model.safetensors", "curve.csv")]

    def killed(self):
        if self.step == 11:
            raise KeyboardInterrupt
        return step(self)

    plain = run("plain", "--validate-every", "4")
    assert (tmp_path / "plain" / "validation.csv").read_text().split() == ["step,repeat", "0,0.5", "4,0.5", "8,0.5"]
    assert run("logged", "--log-every", "1", "--validate-every", "0") == plain
    monkeypatch.setattr(Pretraining, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run("killed", "--log-every", "1")
    monkeypatch.setattr(Pretraining, "train_step", step)
    assert run("killed", "--log-every", "1", "--resume") == plain


def test_resume_refuses_other_settings_and_empty_folders(tokenizer, tmp_path):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    with pytest.raises(FileNotFoundError, match="without --resume"):
        run.resume(tmp_path)
    run.save(tmp_path)
    with pytest.raises(ValueError, match="was written with"):
        Pretraining(replace(MICRO, seed=1), tokenizer=tokenizer).resume(tmp_path)


def test_command_writes_a_folder_that_loads(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pretrain, "probe", lambda model, *rest: asked.append(model) or {"repeat": {"trained": 0.0}})
    common = ["--out", str(tmp_path), "--size", "tiny", "--tokens", "150", "--log-every", "1"]
    pretrain.main([*common, "--steps", "2"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16 and len(tokenizer) == model.config.vocab_size
    assert json.loads((tmp_path / "pretraining.json").read_text())["steps"] == 2
    assert (tmp_path / "curve.csv").read_text().count("\n") == 3
    assert not list(tmp_path.rglob("*.tmp"))
    (probed,) = asked  # skills are those of what was written, not of what was rounded to it
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(probed.state_dict()[name], weight.float(), rtol=0, atol=0)
    assert (tmp_path / "skills.json").is_file()
    pretrain.main([*common, "--steps", "4", "--minutes", "0", "--validate-every", "0"])
    assert json.loads((tmp_path / "pretraining.json").read_text())["steps"] == 1 and len(asked) == 1
    assert not (tmp_path / "skills.json").exists()  # those of the run before


def test_answers_compete_with_their_rivals_and_a_little_with_the_vocabulary():
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    targets, rivals = torch.tensor([2, 5, 1]), torch.tensor([[2, 4, 6], [5, -1, -1], [1, 3, -1]])
    chosen = -(logits[0, [2, 4, 6]].log_softmax(0)[0] + logits[2, [1, 3]].log_softmax(0)[0])
    copied = pretrain.COPY * torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    expected = (chosen + copied) / (2 + 3 * pretrain.COPY)
    torch.testing.assert_close(pretrain.answer_loss(logits, targets, rivals), expected)


def test_stages_cover_all_steps_and_the_rate_falls():
    assert abs(sum(share for share, *_ in pretrain.STAGES) - 1) < 1e-9
    assert [stage_at(step, 1000) for step in (0, 999)] == [0, len(pretrain.STAGES) - 1]
    rates = [learning_rate(step, replace(MICRO, steps=100, warmup=5)) for step in range(100)]
    assert rates[0] < rates[4] and rates[-1] < 0.03 * max(rates)


def test_unknown_size():
    with pytest.raises(ValueError, match="choose one of"):
        build.build_model("huge", None, 0)


def test_settled_layers_keep_their_attention(uninterrupted, tokenizer):
    start = Pretraining(MICRO, tokenizer=tokenizer).model.state_dict()
    moved = {name for name, weight in uninterrupted.model.state_dict().items() if not torch.equal(weight, start[name])}
    attention = {name for name in start if ".self_attn." in name}
    assert not {name for name in moved & attention if name.split(".")[2] in "12"}
    assert {name.split(".")[2] for name in moved & attention} == {"0", "3", "4"}


def test_a_finished_run_goes_back_to_the_start_in_part(uninterrupted, tokenizer):
    start = Pretraining(MICRO, tokenizer=tokenizer).model.state_dict()
    trained = {name: weight.clone() for name, weight in uninterrupted.model.state_dict().items()}
    run = Pretraining(MICRO, tokenizer=tokenizer)
    run.model.load_state_dict(trained)
    run.go_back()
    for name, weight in run.model.state_dict().items():
        layer, part = ([*name.split("."), "", "", ""][i] for i in (2, 4))
        back = (layer, part) in {("0", "o_proj"), ("3", "v_proj"), ("3", "o_proj")} or "norm" in name or "embed" in name
        assert torch.equal(weight, start[name] if back or name == "lm_head.weight" else trained[name]), name
        assert not back or name.endswith("bias") or not torch.equal(weight, trained[name])


def test_half_of_the_answers_are_yes_after_a_run(tokenizer):
    """A threshold far off is found again, on other questions than it was set on; how titles compare stays."""
    run = Pretraining(replace(MICRO, size="base", tokens=3000), tokenizer=tokenizer)
    bias, batch = run.model.model.layers[-1].self_attn.o_proj.bias, probe.held_out(tokenizer).batch(probe.HARD.only("yes_no"), 6000)
    titles = run.generator.batch(probe.HARD.only("history"), 2000)

    @torch.no_grad()
    def state() -> tuple[float, torch.Tensor]:
        logits, _, rivals, _ = probe.forward(run.model, run.projectors, titles, 0, run.device)
        return float(run._yes(batch).float().mean()), logits.gather(1, rivals.clamp_min(0)).masked_fill(rivals < 0, -torch.inf)

    with torch.no_grad():
        bias += 0.8 * circuits.LENGTH * layout.layout(run.model.config, MICRO.seed).answer
    off, before = state()
    run.balance(batches=2)
    mended, after = state()
    assert off > 0.85 and 0.3 < mended < 0.7, (off, mended)
    assert (after.argmax(1) == before.argmax(1)).float().mean() > 0.97


def test_flags_are_words_that_open_a_candidate_list(tokenizer):
    """Every template has one before its candidates, and none before its history."""
    flags = set(openers.flag_tokens(tokenizer))
    for before, ask, _ in phrases.FRAMES:
        for domain in phrases.DOMAINS:
            tokens = [set(tokenizer(phrases.fill(text, domain))["input_ids"]) for text in (before, ask)]
            assert not flags & tokens[0] and flags & tokens[1]
    for question in phrases.YES_NO:
        assert flags & set(tokenizer(phrases.fill(question, phrases.DOMAINS[0]))["input_ids"])


def test_the_shipped_templates_are_practised_word_for_word():
    """`prompt_templates` and `click_templates` of properties/llm.yaml, with the words of every domain of `phrases`."""
    settings = _properties("llm.yaml")
    frames = {tuple(phrases.fill(part, domain) for part in frame) for frame in phrases.FRAMES for domain in phrases.DOMAINS}
    openings = {before for before, _, _ in frames}
    for past, verb, noun in phrases.DOMAINS:
        words = {"verb": verb, "verbed": past, "item": noun, "items": noun + "s"}
        for template in settings["prompt_templates"]:
            parts = template.replace("{history}", "|").replace("{candidates}", "|")
            assert tuple(parts.format(**words).split("|")) in frames
        for protocol, templates in settings["click_templates"].items():
            for template in templates:
                before, question = template.split("{history}")
                ask, end = question.replace("{target}", "|").format(**words).split("|")
                assert ask in phrases.YES_NO and end in phrases.YES_NO_ENDS
                assert before.format(**words) in (phrases.YES_NO_LEADS if protocol == "ctr" else openings)


def test_the_words_of_every_shipped_yaml_are_practised():
    """What `prompt_words`, `note_words` and RecLoRA's `behaviour_token_words` say under properties/."""
    files = sorted((Path(build.__file__).parents[2] / "properties").rglob("*.yaml"))
    spoken = [settings["prompt_words"] for file in files if "prompt_words" in (settings := yaml.safe_load(file.read_text()))]
    assert len(spoken) == 8  # llm.yaml, three datasets, four words/
    for words in spoken:
        assert (words["verbed"], words["verb"], words["item"]) in phrases.DOMAINS and words["items"] == words["item"] + "s"
    notes = _properties("llm.yaml")["note_words"]
    (disliked, liked), stars = phrases.NOTES[0], sum(phrases.NOTES[1], ())
    assert (disliked, liked) == ((" " + notes["disliked"],), (" " + notes["liked"],))
    assert list(stars) == [" " + notes["rating"].format(rating=rating) for rating in range(1, 6)]
    assert list(phrases.APART) == _properties("model/RecLoRA.yaml")["behaviour_token_words"]


def _properties(file: str) -> dict:
    return yaml.safe_load((Path(build.__file__).parents[2] / "properties" / file).read_text())


def test_every_skill_is_validated(tokenizer):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    shares = probe.validate(run.model, run.projectors, tokenizer, MICRO_PLAN, tokens=100, batches=1)
    assert set(shares) == set(probe.SKILLS) and all(0 <= share <= 1 for share in shares.values())


def test_fresh_projectors_stand_where_their_vectors_are():
    projectors = slots.Projectors(16, torch.zeros(16), torch.eye(16), 1.0)
    assert projectors(torch.empty(5, 32, device="meta"), projectors.copies).device.type == "meta"


def test_fresh_projectors_are_not_trained(tokenizer):
    run = Pretraining(MICRO, tokenizer=tokenizer)
    vectors = torch.randn(5, 32)
    assert not run.projectors(vectors, run.projectors.copies).requires_grad
    assert run.projectors(vectors, 0).requires_grad
