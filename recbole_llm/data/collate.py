"""Examples of prompts as a batch of tensors."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llm.data.prompt_rows import PromptRows
from recbole_llm.data.rows import ROW_FIELD
from recbole_llm.llm.constrained_vocabulary import rivals
from recbole_llm.llm.packing import LIST_FIELD, SHARED_FIELD, shared_tokens


def padded(rows: list[list[int]], fill: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists -> ``([B, L] ids, [B, L] mask)``."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids, mask


class Collate:
    """Examples -> RecBole :class:`Interaction` (tensors only).

    Adds to the split's own columns: ``prompt_ids, prompt_mask, prompt_items`` [B, P] (left-padded), ``candidates``
    [B, C], ``target_position`` [B]; in training ``answer_ids, answer_mask`` [B, A] (right-padded) and, where
    ``constrained``, ``rival_ids, rival_mask`` [B, A, C] (:mod:`recbole_llm.llm.constrained_vocabulary`); in evaluation
    ``branch_ids, branch_mask`` [B, C, T], every candidate's answer tokens, and ``candidate_row`` [B], the row's number in
    the candidate set.
    """

    def __init__(self, rows: PromptRows, training: bool, canonical: dict[int, int] | None = None):
        self.rows, self.training, self.canonical = rows, training, canonical or {}
        self.constrained = training and rows.config["likelihood_over"] == "candidates"

    def __call__(self, examples: list[dict]) -> Interaction:
        keys = [example["key"] for example in examples]
        tokens = self.rows.tokens
        batch = self.rows.split.inter_feat[np.array([key.row for key in keys])]
        columns: dict[str, torch.Tensor] = dict(batch.interaction)
        columns["prompt_ids"], columns["prompt_mask"] = padded([e["ids"] for e in examples], tokens.pad_token_id, True)
        columns["prompt_items"], _ = padded([e["items"] for e in examples], 0, True)
        columns["candidates"] = torch.tensor([key.candidates for key in keys], dtype=torch.long)
        columns["target_position"] = torch.tensor([key.target_position for key in keys])
        columns["hybrid"] = torch.tensor([key.hybrid for key in keys])
        if self.training:
            answers = [example["answer"] for example in examples]
            columns["answer_ids"], columns["answer_mask"] = padded(answers, tokens.pad_token_id, False)
            if self.rows.config["users_per_list"] > 1:
                columns[LIST_FIELD], columns[SHARED_FIELD] = self._lists(examples)
            if self.constrained:
                columns["rival_ids"], columns["rival_mask"] = self._rivals(examples, columns["answer_ids"].shape[1])
        else:
            columns["branch_ids"], columns["branch_mask"] = self._branches(examples)
            columns[ROW_FIELD] = torch.tensor([self.canonical[key.row] for key in keys])
        return Interaction(columns)

    def _branches(self, examples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """``([B, C, T] ids, [B, C, T] mask)``: the answer tokens of every candidate, right-padded."""
        answers = [answer for example in examples for answer in example["answers"]]
        ids, mask = padded(answers, self.rows.tokens.pad_token_id, False)
        return ids.view(len(examples), -1, ids.shape[1]), mask.view(len(examples), -1, mask.shape[1])

    def _rivals(self, examples: list[dict], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``([B, length, C] ids, [B, length, C] mask)``: the rivals of the answers' tokens."""
        keys = [example["key"] for example in examples]
        ids, mask = (part[..., :length] for part in self._branches(examples))  # a token's rivals depend on no later one
        if keys[0].unseen is not None:
            mask = mask & torch.tensor([key.unseen for key in keys]).unsqueeze(-1)
        rows, targets = torch.arange(len(keys)), torch.tensor([key.target_position for key in keys])
        return tuple(part[rows, targets] for part in rivals(ids, mask))  # each was [B, C, length, C]


    def _lists(self, examples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B]`` group of each row, and ``[B]`` how many tokens its prompt has in common with the group's others."""
        groups = [example["key"].group for example in examples]
        members: dict[int, list] = {}
        for group, example in zip(groups, examples, strict=True):
            members.setdefault(group, []).append((example["ids"], example["items"]))
        common = {group: shared_tokens(rows) for group, rows in members.items()}
        return torch.tensor(groups), torch.tensor([common[group] for group in groups])
