"""P(Yes) of branches against one plain forward per question, without batch or padding."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from recbole_llm.llm import causal_lm, yes_no
from recbole_llm.llm.branch_forward import METHODS, choose_scorer
from tests.architectures import build, make_batch

YES, NO = 17, 4


def asked(llm, **options):
    """Prompts and branches as embeddings, garbage in the padding of both."""
    batch = make_batch(llm, **options)
    embeds, mask, branches, branch_mask = batch.inputs
    vectors = llm.get_input_embeddings()(branches).detach()
    vectors = torch.where(branch_mask[..., None], vectors, torch.full_like(vectors, 50.0))
    return SimpleNamespace(ids=batch.ids, branches=branches, inputs=(embeds, mask, vectors, branch_mask))


@torch.no_grad()
def reference(llm, batch):
    """[B, C] one question at a time, from token ids and the whole vocabulary's logits."""
    _, mask, _, branch_mask = batch.inputs
    out = torch.zeros(branch_mask.shape[:2])
    for b, branches in enumerate(batch.branches):
        for c, branch in enumerate(branches):
            sequence = torch.cat([batch.ids[b][mask[b]], branch[branch_mask[b, c]]])[None]
            out[b, c] = llm(input_ids=sequence, use_cache=False).logits[0, -1, [YES, NO]].softmax(-1)[0]
    return out


@torch.no_grad()
def score(llm, batch, method, **options):
    return yes_no.branch_scores(llm, *batch.inputs, (YES, NO), method=method, **options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2", "gpt2"])
def test_methods_equal_plain_forwards(model_type, attention):
    llm = build(model_type, attention)
    if llm is None:
        pytest.skip(f"{model_type} has no {attention}")
    batch = asked(llm)
    expected = reference(llm, batch)
    assert expected.std() > 0.1 and choose_scorer(llm, 20)[0] == "tree"
    for method in METHODS:
        for size in (None, 3):
            found = score(llm, batch, method, candidates_per_forward=size)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type, picked", [("bloom", "cache"), ("mamba", "separate")])
def test_models_that_no_tree_fits(model_type, picked):
    llm = build(model_type, "eager")
    batch = asked(llm)
    assert choose_scorer(llm, 14)[0] == picked
    torch.testing.assert_close(score(llm, batch, "auto"), reference(llm, batch), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("peft", [False, True])
def test_only_two_logits_are_computed(method, peft):
    llm, widths = build("llama"), set()
    batch = asked(llm)
    expected = reference(llm, batch)
    if peft:
        llm = get_peft_model(llm, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    head = llm.get_output_embeddings()
    before = head.weight
    head.register_forward_hook(lambda module, args, out: widths.add(out.shape[-1]))
    torch.testing.assert_close(score(llm, batch, method), expected, atol=1e-5, rtol=1e-4)
    assert 2 in widths and (method == "cache" or widths == {2})  # the cache's prompt keeps one position of the whole head
    assert head.weight is before and len(before) == 300 and "forward" not in vars(head)


def test_yes_and_no_sum_to_one():
    llm = build("llama")
    batch = asked(llm)
    other = yes_no.branch_scores(llm, *batch.inputs, (NO, YES))
    torch.testing.assert_close(score(llm, batch, "auto") + other, torch.ones(3, 4))


def test_no_mask_is_needed_where_nothing_is_shared(monkeypatch):
    """As in recurrent models that read padding whatever a mask says: there is none before an answer."""
    llm = build("llama")
    batch = asked(llm)
    expected, inputs_of = reference(llm, batch), causal_lm.inputs_of
    monkeypatch.setattr(causal_lm, "inputs_of", lambda *given, **more: inputs_of(*given, **more) | {"attention_mask": None})
    torch.testing.assert_close(score(llm, batch, "separate"), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_scores_name_their_rows(method):
    llm = build("llama")
    batch = asked(llm)
    batch.inputs[0][1, -1, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"P\(yes\) is not finite in batch rows \[1\]"):
        score(llm, batch, method)


def test_bad_input_is_refused():
    llm = build("llama")
    embeds, mask, branches, branch_mask = asked(llm).inputs
    for method, inputs, message in (
        ("trees", (embeds, mask, branches, branch_mask), "'trees' is unknown"),
        ("auto", (embeds, mask.flip(1), branches, branch_mask), "left only"),
        ("auto", (embeds, mask, branches, branch_mask.flip(2)), "right only"),
        ("auto", (embeds, mask, branches[:2], branch_mask[:2]), "B = 3"),
    ):
        with pytest.raises(ValueError, match=message):
            yes_no.branch_scores(llm, *inputs, (YES, NO), method=method)
