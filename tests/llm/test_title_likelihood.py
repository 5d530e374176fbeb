"""Candidate scores against one plain forward per row and candidate, without batch or padding."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from recbole_llm.llm import title_likelihood
from recbole_llm.llm.branch_forward import METHODS, choose_scorer
from tests.architectures import MODEL_TYPES, build, make_batch

ATTENTIONS = ("sdpa", "eager")


@torch.no_grad()
def reference(llm, batch):
    """[B, C] one candidate at a time, from token ids."""
    embeds, mask, branches, branch_mask = batch.inputs
    out = torch.zeros(branches.shape[:2])
    for b in range(branches.shape[0]):
        for c in range(branches.shape[1]):
            answer = branches[b, c][branch_mask[b, c]]
            sequence = torch.cat([batch.ids[b][mask[b]], answer])[None]
            logits = llm(input_ids=sequence, use_cache=False).logits[0, -len(answer) - 1 : -1]
            out[b, c] = logits.double().log_softmax(-1).gather(1, answer[:, None]).sum()
    return out


def score(llm, batch, method, **options):
    with torch.no_grad():
        return title_likelihood.score_candidates(llm, *batch.inputs, method=method, **options)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_methods_equal_plain_forwards(model_type, attention):
    llm = build(model_type, attention)
    if llm is None:
        pytest.skip(f"{model_type} has no {attention}")
    batch = make_batch(llm)
    expected = reference(llm, batch)
    assert expected.std() > 1
    assert choose_scorer(llm, 20)[0] == "tree"
    for method in METHODS:
        for size in (None, 3):
            torch.testing.assert_close(
                score(llm, batch, method, candidates_per_forward=size), expected, atol=1e-4, rtol=0
            )


@torch.no_grad()
def constrained_reference(llm, batch):
    """[B, C]: at each token, only the tokens with which a candidate of the row goes on from here."""
    embeds, mask, branches, branch_mask = batch.inputs
    out = torch.zeros(branches.shape[:2])
    for b in range(branches.shape[0]):
        row = [branches[b, c][branch_mask[b, c]].tolist() for c in range(branches.shape[1])]
        for c, answer in enumerate(row):
            sequence = torch.cat([batch.ids[b][mask[b]], torch.tensor(answer)])[None]
            logits = llm(input_ids=sequence, use_cache=False).logits[0, -len(answer) - 1 : -1].double()
            for t, token in enumerate(answer):
                children = sorted({other[t] for other in row if len(other) > t and other[:t] == answer[:t]})
                out[b, c] += logits[t, children].log_softmax(0)[children.index(token)]
    return out


@pytest.mark.parametrize("method", METHODS)
def test_constrained_scores_are_those_of_decoding_that_can_only_name_candidates(method):
    llm = build("llama")
    batch = make_batch(llm, n_candidates=6)
    ids, mask = batch.inputs[2:]
    ids[:, 1, :2], ids[:, 2, :1], ids[:, 4] = ids[:, 0, :2], ids[:, 0, :1], ids[:, 3]  # shared beginnings, one title twice
    mask[..., :3], mask[:, 4] = True, mask[:, 3]
    ids.scatter_(2, mask.sum(2, keepdim=True) - 1, 2)  # the end token: no title inside a title
    expected = constrained_reference(llm, batch)
    different = expected[:, [0, 1, 2, 3, 5]].exp().sum(1)
    torch.testing.assert_close(different, torch.ones(3), atol=1e-5, rtol=0)
    for size in (None, 2):
        found = score(llm, batch, method, candidates_per_forward=size, constrained=True)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (expected - score(llm, batch, method)).abs().min() > 1


TITLES = {  # token ids, 2 ends a title
    "all apart": [[5, 6, 7, 8, 2], [9, 6, 7, 2], [10, 2], [11, 12, 13, 2]],
    "one is another's beginning": [[5, 6, 2], [5, 6, 7, 8, 2], [5, 9, 9, 9, 2], [10, 6, 7, 2]],
    "the same twice": [[5, 6, 7, 2], [5, 6, 7, 2], [5, 6, 8, 9, 2], [12, 2]],
    "the same only": [[5, 6, 7, 2], [5, 6, 7, 2]],
    "one only": [[5, 6, 7, 2]],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first, second", [("all apart", "one is another's beginning"), ("the same twice", "all apart"),
                                           ("the same only", "the same only"), ("one only", "one only")])  # fmt: skip
def test_tokens_after_the_last_choice_are_not_fed_and_change_no_score(method, first, second, monkeypatch):
    llm = build("llama")
    batch = make_batch(llm, prompts=(9, 6), n_candidates=len(TITLES[first]))
    ids = torch.full((2, len(TITLES[first]), 5), -100)
    for b, name in enumerate((first, second)):
        for c, title in enumerate(TITLES[name]):
            ids[b, c, : len(title)] = torch.tensor(title)
    batch.inputs = (*batch.inputs[:2], ids, ids >= 0)
    fed = []
    llm.model.register_forward_hook(lambda module, args, out: fed.append(out.last_hidden_state.shape[:2].numel()))
    expected = constrained_reference(llm, batch)
    fed.clear()
    for size in (None, 1):
        found = score(llm, batch, method, candidates_per_forward=size, constrained=True)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    trimmed = sum(fed)
    fed.clear()
    monkeypatch.setattr(title_likelihood, "until_last_choice", lambda mask: torch.ones_like(mask[..., 0]))
    for size in (None, 1):
        whole = score(llm, batch, method, candidates_per_forward=size, constrained=True)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    assert trimmed < sum(fed)


def test_a_set_without_shared_beginnings_feeds_prompts_alone():
    llm, seen = build("llama"), []
    batch = make_batch(llm, n_candidates=4)
    batch.inputs[2][..., 0] = torch.tensor([5, 6, 7, 8])
    llm.model.register_forward_hook(lambda module, args, out: seen.append(out.last_hidden_state.shape[1]))
    score(llm, batch, "tree", constrained=True)
    assert seen == [batch.inputs[1].shape[1]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_candidates, tokens", [(1, 4), (3, 1), (1, 1), (4, 2)])
def test_small_shapes(method, n_candidates, tokens):
    llm = build("llama")
    batch = make_batch(llm, prompts=(1, 6), n_candidates=n_candidates, tokens=tokens)
    torch.testing.assert_close(score(llm, batch, method), reference(llm, batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_padding_and_batch_mates_do_not_matter(method, attention):
    llm = build("llama", attention)
    embeds, mask, branches, branch_mask = make_batch(llm).inputs
    together = title_likelihood.score_candidates(llm, embeds, mask, branches, branch_mask, method)
    for row, length in enumerate(mask.sum(1).tolist()):
        one = slice(row, row + 1)
        alone = title_likelihood.score_candidates(
            llm, embeds[one, -length:], mask[one, -length:], branches[one], branch_mask[one], method
        )
        torch.testing.assert_close(alone, together[one], atol=1e-4, rtol=0)
    wider = torch.nn.functional.pad(embeds, (0, 0, 3, 0), value=-7.0), torch.nn.functional.pad(mask, (3, 0))
    longer = torch.nn.functional.pad(branches, (0, 2), value=-100), torch.nn.functional.pad(branch_mask, (0, 2))
    padded = title_likelihood.score_candidates(llm, *wider, *longer, method)
    torch.testing.assert_close(padded, together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_order_and_company_of_branches_do_not_matter(method):
    llm = build("qwen2")
    embeds, mask, branches, branch_mask = make_batch(llm, n_candidates=6).inputs
    scores = title_likelihood.score_candidates(llm, embeds, mask, branches, branch_mask, method)
    order = torch.tensor([4, 2, 0, 5])
    some = title_likelihood.score_candidates(llm, embeds, mask, branches[:, order], branch_mask[:, order], method)
    torch.testing.assert_close(some, scores[:, order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_tree_feeds_each_token_once_and_projects_only_what_it_reads(attention):
    llm, seen = build("llama", attention), []
    batch = make_batch(llm)
    llm.model.register_forward_hook(lambda module, args, out: seen.append(out.last_hidden_state.shape[1]))
    llm.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    score(llm, batch, "tree")
    fed = int((batch.lengths - 1).sum(1).max())
    assert seen == [9 + fed, 1 + fed]


@pytest.mark.parametrize(
    "model_type, changes",
    [
        ("mistral", {"sliding_window": 8}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}),
        ("gemma2", {"sliding_window": 8}),
        ("gemma3_text", {"sliding_window": 8}),
        ("llama4_text", {"attention_chunk_size": 8, "intermediate_size_mlp": 48, "num_local_experts": 2}),
        ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 8}),
        ("bloom", {}),
        ("mpt", {}),
    ],
)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_cache_where_the_tree_does_not_hold(model_type, changes, attention):
    llm = build(model_type, attention, **changes)
    if llm is None:
        pytest.skip(f"{model_type} has no {attention}")
    batch = make_batch(llm)
    expected = reference(llm, batch)
    assert choose_scorer(llm, 13)[0] == "cache"
    for method in ("auto", "cache", "separate"):
        torch.testing.assert_close(score(llm, batch, method), expected, atol=1e-4, rtol=0)


def test_a_window_that_no_path_leaves_keeps_the_tree():
    llm = build("mistral", sliding_window=13)  # the packed sequence is longer than that
    batch = make_batch(llm)
    assert choose_scorer(llm, 13)[0] == "tree"
    assert choose_scorer(llm, 14)[0] == "cache"
    torch.testing.assert_close(score(llm, batch, "tree"), reference(llm, batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "model_type, changes",
    [("mamba", {}), ("recurrent_gemma", {}), ("lfm2", {"layer_types": ["conv", "full_attention"]})],
)
def test_separate_forwards_for_running_states(model_type, changes):
    llm = build(model_type, "eager", **changes)
    batch = make_batch(llm)
    assert choose_scorer(llm, 13)[0] == "separate"
    torch.testing.assert_close(score(llm, batch, "auto"), reference(llm, batch), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gate_by_batch_row_and_peft(method):
    """An adapter that scales its output by a gate [B] of the batch row, repeated where rows are."""
    llm, gate = build("llama"), torch.tensor([0.2, -1.0, 3.0])
    llm = get_peft_model(llm, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    for name, weight in llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))

    def scale(module, args, out):
        return out * gate.repeat_interleave(out.shape[0] // len(gate))[:, None, None]

    hooks = [m.register_forward_hook(scale) for n, m in llm.named_modules() if n.endswith("lora_B.default")]
    batch = make_batch(llm)
    embeds, mask, branches, branch_mask = batch.inputs
    for size in (None, 2):
        scores = score(llm, batch, method, candidates_per_forward=size)
        for row in range(3):
            one = slice(row, row + 1)
            whole, gate = gate, gate[one]
            alone = SimpleNamespace(
                inputs=(embeds[one], mask[one], branches[one], branch_mask[one]), ids=batch.ids[one]
            )
            expected = reference(llm, alone)
            gate = whole
            torch.testing.assert_close(scores[one], expected, atol=1e-4, rtol=0)
    assert hooks


def test_gradients_agree():
    llm = build("llama")
    embeds, mask, branches, branch_mask = make_batch(llm, garbage=0.0).inputs
    gradients = []
    for method in METHODS:
        leaf = embeds.clone().requires_grad_()
        title_likelihood.score_candidates(llm, leaf, mask, branches, branch_mask, method)[:, 1].sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 0.1
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("half", ["weights", "autocast"])
def test_half_precision_stays_close_and_scores_are_float32(half, attention):
    llm = build("llama", attention)
    batch = make_batch(llm)
    expected = reference(llm, batch)
    if half == "weights":
        llm = llm.bfloat16()
    for method in METHODS:
        with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
            scores = score(llm, batch, method)
        assert scores.dtype == torch.float32
        assert (scores - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_log_probabilities_in_blocks(monkeypatch):
    logits, labels = torch.randn(2, 7, 11), torch.randint(11, (2, 7))
    expected = logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    for block in (1, 50, 2**24):
        monkeypatch.setattr(title_likelihood, "_BLOCK", block)
        torch.testing.assert_close(title_likelihood._label_log_probs(logits, labels), expected)


@pytest.mark.parametrize("method", METHODS)
def test_non_finite_scores_name_their_rows(method):
    llm = build("llama")
    embeds, mask, branches, branch_mask = make_batch(llm).inputs
    embeds[1, -1, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        title_likelihood.score_candidates(llm, embeds, mask, branches, branch_mask, method)


def test_bad_input_is_refused():
    llm = build("llama")
    embeds, mask, branches, branch_mask = make_batch(llm).inputs
    with pytest.raises(ValueError, match="'trees' is unknown"):
        title_likelihood.score_candidates(llm, embeds, mask, branches, branch_mask, "trees")
    with pytest.raises(ValueError, match="left only"):
        title_likelihood.score_candidates(llm, embeds, mask.flip(1), branches, branch_mask)
    with pytest.raises(ValueError, match="left only"):
        title_likelihood.score_candidates(llm, embeds, torch.zeros_like(mask), branches, branch_mask)
    with pytest.raises(ValueError, match="right only"):
        title_likelihood.score_candidates(llm, embeds, mask, branches, branch_mask.flip(2))
    with pytest.raises(ValueError, match="prompt_mask"):
        title_likelihood.score_candidates(llm, embeds[:, 1:], mask, branches, branch_mask)
    with pytest.raises(ValueError, match="B = 3"):
        title_likelihood.score_candidates(llm, embeds, mask, branches[:2], branch_mask[:2])
    empty = branch_mask.clone()
    empty[1, 2] = False
    with pytest.raises(ValueError, match="at least one token"):
        title_likelihood.score_candidates(llm, embeds, mask, branches, empty)
