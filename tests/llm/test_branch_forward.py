"""What all scorers share: the choice of a method, the tree's mask, greedy decoding."""

import logging

import pytest
import torch
from transformers import GenerationConfig

from recbole_llm.llm import branch_forward
from tests.architectures import build, make_batch


def test_tree_mask_by_hand():
    """Prompt of two after one place of padding; branch 0 of two tokens, branch 1 of one, then a place of padding."""
    prompt, owner = torch.tensor([[False, True, True]]), torch.tensor([[0, 0, 1, 1]])
    offset, valid = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[True, True, True, False]])
    mask = branch_forward.tree_mask(prompt, owner, offset, valid, torch.bfloat16)
    assert mask.dtype == torch.bfloat16 and mask.shape == (1, 1, 7, 7)
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],  # padding sees itself: a row of nothing would be NaN under autocast
        [0, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    assert (mask[mask != 0] == torch.finfo(torch.bfloat16).min).all()


def test_choice_by_attention_implementation_and_origin(caplog):
    llm = build("llama")
    llm.config._attn_implementation = "flash_attention_2"
    method, reason = branch_forward.choose_scorer(llm)
    assert method == "cache" and "flash_attention_2" in reason
    remote = type("Remote", (type(llm),), {"__module__": "transformers_modules.custom"})
    llm.__class__ = remote
    assert branch_forward.choose_scorer(llm)[0] == "separate"
    llm = build("bloom", "eager")
    with caplog.at_level(logging.WARNING):
        branch_forward._log_choice.cache_clear()
        assert branch_forward.pick_method(llm, "auto", 13) == branch_forward.pick_method(llm, "auto", 13) == "cache"
    assert len([r for r in caplog.records if "position_ids" in r.getMessage()]) == 1


@torch.no_grad()
def greedy(llm, ids, steps, eos):
    new = []
    for _ in range(steps):
        new.append(
            int(llm(input_ids=torch.cat([ids, torch.tensor(new, dtype=torch.long)])[None]).logits[0, -1].argmax())
        )
        if new[-1] == eos:
            break
    return new


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "bloom"])
def test_generate_is_greedy_and_ends_at_the_end_token(model_type):
    llm = build(model_type, "eager")
    llm.generation_config = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=3.0, top_k=2)
    batch = make_batch(llm)
    embeds, mask = batch.inputs[:2]
    first = greedy(llm, batch.ids[0][mask[0]], 6, eos=-1)
    eos = first[2]
    out = branch_forward.generate(llm, embeds, mask, max_new_tokens=6, eos_token_id=eos, pad_token_id=0)
    assert out.shape[0] == 3 and out.shape[1] <= 6
    for row in range(3):
        new = greedy(llm, batch.ids[row][mask[row]], 6, eos)
        assert out[row].tolist() == new + [0] * (out.shape[1] - len(new))


def logits_of(llm, tokens, batch):
    embeds, mask = batch.inputs[0].clone().requires_grad_(), batch.inputs[1]
    logits = branch_forward.forward(llm, embeds, mask.long(), branch_forward.positions_of(mask), keep=3, tokens=tokens, use_cache=False).logits
    (gradient,) = torch.autograd.grad(logits[:, -3:, : len(tokens)].sum() if tokens is not None else logits[:, -3:, TOKENS].sum(), embeds)
    return logits[:, -3:], gradient


TOKENS = torch.tensor([7, 3, 250])


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "phi"])  # plain; logits capped after the head; a head with a bias
def test_chosen_tokens_have_the_vocabularys_logits(model_type):
    llm = build(model_type, "eager")
    if llm is None:
        pytest.skip(model_type)
    batch, widths = make_batch(llm), []
    every, gradient = logits_of(llm, None, batch)
    llm.get_output_embeddings().register_forward_hook(lambda module, args, out: widths.append(out.shape[-1]))
    some, other = logits_of(llm, TOKENS, batch)
    assert widths == [3]  # the head multiplied by three rows
    torch.testing.assert_close(some, every[..., TOKENS])
    torch.testing.assert_close(other, gradient)
    assert logits_of(llm, None, batch)[0].shape == every.shape  # the head is whole again


def test_chosen_tokens_of_heads_that_cannot_be_cut(monkeypatch):
    llm = build("llama")
    batch = make_batch(llm)
    expected = logits_of(llm, None, batch)[0][..., TOKENS]
    head = llm.get_output_embeddings()
    head.forward = head.forward  # as Accelerate's hooks replace it
    torch.testing.assert_close(logits_of(llm, TOKENS, batch)[0], expected)
    assert "forward" in vars(head)
    del head.forward
    monkeypatch.setattr(llm, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(logits_of(llm, TOKENS, batch)[0], expected)


def test_the_head_is_whole_after_an_error():
    llm = build("llama")
    embeds, mask = make_batch(llm).inputs[:2]
    with pytest.raises(RuntimeError):
        branch_forward.forward(llm, embeds[..., :5], mask.long(), branch_forward.positions_of(mask), keep=1, tokens=TOKENS)
    assert "forward" not in vars(llm.get_output_embeddings())
