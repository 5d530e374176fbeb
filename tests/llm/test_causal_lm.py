"""One forward of a causal LM: the logits that are wanted, and greedy decoding."""

import pytest
import torch
from transformers import GenerationConfig

from recbole_llm.llm import causal_lm
from tests.architectures import build, make_batch


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
    out = causal_lm.generate(llm, embeds, mask, max_new_tokens=6, eos_token_id=eos, pad_token_id=0)
    assert out.shape[0] == 3 and out.shape[1] <= 6
    for row in range(3):
        new = greedy(llm, batch.ids[row][mask[row]], 6, eos)
        assert out[row].tolist() == new + [0] * (out.shape[1] - len(new))


def logits_of(llm, tokens, batch):
    embeds, mask = batch.inputs[0].clone().requires_grad_(), batch.inputs[1]
    logits = causal_lm.forward(llm, embeds, mask.long(), causal_lm.positions_of(mask), keep=3, tokens=tokens, use_cache=False).logits
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


@pytest.mark.parametrize("autocast", [False, True])
def test_chosen_tokens_are_multiplied_in_float32(autocast):
    """In bfloat16 logits near 2 are multiples of 2^-6, so that items of one row would have equal scores."""
    llm = build("llama").bfloat16()
    embeds, mask = make_batch(llm).inputs[:2]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        out = causal_lm.forward(
            llm, embeds, mask.long(), causal_lm.positions_of(mask), keep=3, tokens=TOKENS, use_cache=False, output_hidden_states=True
        )
    last = out.hidden_states[-1][:, -3:].float()  # the body stays in bfloat16
    assert out.logits.dtype == torch.float32 and not torch.equal(out.logits, out.logits.bfloat16().float())
    torch.testing.assert_close(out.logits, last @ llm.get_output_embeddings().weight[TOKENS].float().T)


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
        causal_lm.forward(llm, embeds[..., :5], mask.long(), causal_lm.positions_of(mask), keep=1, tokens=TOKENS)
    assert "forward" not in vars(llm.get_output_embeddings())
