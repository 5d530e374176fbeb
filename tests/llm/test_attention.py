"""Attention that is chosen by pass: the same values and gradients as either implementation, and the one that suits."""

import pytest
import torch
from transformers.integrations import sdpa_attention

from recbole_llm.llm import attention, branch_forward, loading
from tests.architectures import MODEL_TYPES, build, make_batch
from tests.llm.test_loading import settings


@pytest.fixture
def calls(monkeypatch):
    """Which implementation computed each layer."""
    seen, eager_of, sdpa = [], attention.eager_of, sdpa_attention.sdpa_attention_forward

    def noted(name, function):
        return lambda *given, **named: seen.append(name) or function(*given, **named)

    monkeypatch.setattr(attention, "eager_of", lambda module: noted("eager", eager_of(module)))
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", noted("sdpa", sdpa))
    return seen


def results(llm, embeds, mask):
    """Logits at real tokens [N, V] and the gradient of the prompts [B, P, d]."""
    embeds = embeds.clone().requires_grad_()
    logits = llm(inputs_embeds=embeds, attention_mask=mask.long(), use_cache=False).logits[mask]
    logits.log_softmax(-1)[:, 7].sum().backward()
    return logits.detach(), embeds.grad * mask[..., None]


@pytest.mark.parametrize("held", [attention.HELD, 0])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_values_and_gradients_are_those_of_eager_attention(model_type, held, monkeypatch):
    monkeypatch.setattr(attention, "HELD", held)
    plain, ours = build(model_type, "eager"), build(model_type)
    if ours is None:
        pytest.skip(f"{model_type} has no sdpa")
    attention.choose_by_pass(ours)
    embeds, mask, _, _ = make_batch(plain).inputs
    for found, expected in zip(results(ours, embeds, mask), results(plain, embeds, mask), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_eager_where_a_gradient_is_wanted_within_the_memory_and_sdpa_elsewhere(calls, monkeypatch):
    llm = build("llama")
    attention.choose_by_pass(llm)
    embeds, mask, _, _ = make_batch(llm).inputs  # [3, 9, 32]
    with torch.no_grad():
        llm(inputs_embeds=embeds, attention_mask=mask.long())
    assert calls == ["sdpa"] * 2  # layers
    results(llm, embeds, mask)
    assert calls[2:] == ["eager"] * 2
    monkeypatch.setattr(attention, "HELD", 2 * 3 * 4 * 9 * 9 * 4)  # layers, rows, heads, weights, bytes
    results(llm, embeds, mask)
    assert calls[4:] == ["eager"] * 2
    monkeypatch.setattr(attention, "HELD", 2 * 3 * 4 * 9 * 9 * 4 - 1)
    results(llm, embeds, mask)
    assert calls[6:] == ["sdpa"] * 2


def test_a_layer_that_does_not_say_how_many_there_are_takes_sdpa(calls):
    layer = build("llama").model.layers[0].self_attn
    query, key = torch.ones(1, 4, 3, 8, requires_grad=True), torch.ones(1, 2, 3, 8)
    given = {"attention_mask": torch.zeros(1, 1, 3, 3), "scaling": 1.0}
    attention.attention(layer, query, key, key, **given)
    layer.config = None
    attention.attention(layer, query, key, key, **given)
    assert calls == ["eager", "sdpa"]


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 6), (torch.float16, 6)])
def test_eager_holds_float32_weights_and_a_copy_in_the_llms_precision(dtype, size):
    query, key = torch.zeros(2, 3, 5, 8, dtype=dtype), torch.zeros(2, 1, 7, 8, dtype=dtype)
    assert attention.held_bytes(4, query, key) == 4 * 2 * 3 * 5 * 7 * size


def test_sparse_attention_that_asks_for_an_implementations_name_keeps_it():
    """DeepSeek-V3.2's indexer keeps 8 of 24 tokens here; under a name that its code does not know it would keep all."""
    pytest.importorskip("transformers.models.deepseek_v32")
    sparse = {
        "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        "index_topk": 8, "index_n_heads": 2, "index_head_dim": 16,
    }  # fmt: skip
    plain, ours = (build("deepseek_v32", **sparse) for _ in range(2))
    attention.choose_by_pass(ours)
    assert ours.config._attn_implementation == "sdpa"
    embeds = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 24, dtype=torch.bool)
    torch.testing.assert_close(results(ours, embeds, mask), results(plain, embeds, mask))


def test_it_is_what_a_cpu_takes_and_what_is_set_stays(tmp_path):
    build("llama").save_pretrained(tmp_path)
    chosen = loading.load_llm(settings(tmp_path)).config._attn_implementation
    assert chosen == attention.BY_PASS
    for given in ("sdpa", "eager"):
        assert loading.load_llm(settings(tmp_path, attn_implementation=given)).config._attn_implementation == given


def test_a_family_without_exchangeable_attention_keeps_its_own_and_the_tree_reads_what_is_chosen():
    llm = build("llama")
    known = type(llm)
    llm.__class__ = type("Other", (known,), {"__module__": __name__})
    attention.choose_by_pass(llm)
    assert llm.config._attn_implementation == "sdpa"
    llm.__class__ = known
    attention.choose_by_pass(llm)
    assert llm.config._attn_implementation == attention.BY_PASS and branch_forward.choose_scorer(llm)[0] == "tree"
