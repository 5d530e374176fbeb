"""What all scorers share: the choice of a method, the tree's mask, prompts joined with branches."""

import logging

import torch

from recbole_llm.llm import branch_forward
from tests.architectures import build


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


def test_joined_branches_are_padded_on_the_right():
    prompt = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])[..., None]
    prompt_mask = torch.tensor([[False, True, True], [True, True, True]])
    branch = torch.tensor([[[6.0, 7.0], [8.0, 0.0]], [[9.0, 0.0], [10.0, 11.0]]])[..., None]
    branch_mask = torch.tensor([[[True, True], [True, False]], [[True, False], [True, True]]])
    embeds, seen = branch_forward.join(prompt, prompt_mask, branch, branch_mask)
    shown = [row[keep][:, 0].tolist() for row, keep in zip(embeds, seen, strict=True)]
    assert shown == [[1, 2, 6, 7], [1, 2, 8], [3, 4, 5, 9], [3, 4, 5, 10, 11]]
    assert (seen[:, :-1] >= seen[:, 1:]).all() and seen[:, 0].all()
