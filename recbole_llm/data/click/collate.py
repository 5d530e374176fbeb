"""Questions as a batch of tensors."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llm.data.click.questions import ClickRows, Question
from recbole_llm.data.click.timelines import HISTORY_RATINGS
from recbole_llm.data.collate import padded
from recbole_llm.data.columns import history_field
from recbole_llm.data.rows import ROW_FIELD


class ClickCollate:
    """Questions -> Interaction.

    Columns: user, `item_id` and `label` [B]; `item_id_list` [B, L] and `item_length` [B], the CRM's history;
    `candidates` [B, C]; `prompt_ids, prompt_mask, prompt_items` [B, P]. In training it is whole, with `answer_ids` and
    `answer_mask` [B, 1] (and under `likelihood_over: candidates` both answers as `rival_ids, rival_mask` [B, 1, 2]); in
    evaluation it is the prefix, with `branch_ids, branch_mask, branch_items` [B, C, T] and
    `candidate_row`, [B] or, for labelled rows, [B, C] (-1: padding). With a history per item, prompts are [B, C, P] and
    the CRM's columns [B, C, L] and [B, C].
    """

    def __init__(self, rows: ClickRows, canonical: dict[int, int] | None = None):
        self.rows, self.canonical = rows, canonical or {}

    def __call__(self, examples: list[dict]) -> Interaction:
        rows, keys = self.rows, [example["key"] for example in examples]
        split, pad = rows.split, rows.tokens.pad_token_id
        feat, index = split.inter_feat, torch.tensor([key.row for key in keys])
        columns = {split.uid_field: feat[split.uid_field][index]}
        columns["candidates"] = torch.tensor([key.candidates for key in keys])
        columns["target_position"] = torch.tensor([key.target_position for key in keys])
        columns["hybrid"] = torch.tensor([key.hybrid for key in keys])
        ranked = not rows.training and not keys[0].rows  # a candidate set; else a labelled row, whose item stands first
        columns[split.iid_field] = feat[split.iid_field][index] if ranked else columns["candidates"][:, 0]
        columns[rows.config["LABEL_FIELD"]] = torch.tensor([float(key.label) for key in keys])
        columns |= self._history(keys)
        prompts = [prompt for example in examples for prompt in example["prompts"]]
        columns["prompt_ids"], columns["prompt_mask"] = padded([ids for ids, _ in prompts], pad, True)
        columns["prompt_items"], _ = padded([items for _, items in prompts], 0, True)
        if len(keys[0].text) > 1:
            for name in ("prompt_ids", "prompt_mask", "prompt_items"):
                columns[name] = columns[name].view(len(keys), -1, columns[name].shape[1])
        columns |= self._answers(keys) if rows.training else self._branches(keys, examples)
        return Interaction(columns)

    def _history(self, keys: list[Question]) -> dict[str, torch.Tensor]:
        """The CRM's histories; an empty one is one padding item, which no model refuses."""
        split, width, timelines = self.rows.split, self.rows.config["crm_history_len"], self.rows.timelines
        lines = [places for key in keys for places in key.long]
        read = {history_field(split.config): timelines.items}
        if self.rows.levels is not None:
            read[HISTORY_RATINGS] = self.rows.levels
        shape = (len(keys), -1) if len(keys[0].long) > 1 else (len(keys),)
        lengths = torch.tensor([max(1, len(places)) for places in lines])
        columns = {split.item_list_length_field: lengths.view(shape)}
        for name, values in read.items():
            shown = np.zeros((len(lines), width), dtype=np.int64)
            for line, places in zip(shown, lines, strict=True):
                line[: len(places)] = values[list(places)]
            columns[name] = torch.from_numpy(shown).view(*shape, width)
        return columns

    def _answers(self, keys: list[Question]) -> dict[str, torch.Tensor]:
        yes, no = self.rows.answers
        ids = torch.tensor([[yes if key.label else no] for key in keys])
        columns = {"answer_ids": ids, "answer_mask": torch.ones_like(ids, dtype=torch.bool)}
        if self.rows.config["likelihood_over"] == "candidates":
            both = torch.tensor([yes, no]).expand(len(keys), 1, 2)
            columns |= {"rival_ids": both, "rival_mask": torch.ones_like(both, dtype=torch.bool)}
        return columns

    def _branches(self, keys: list[Question], examples: list[dict]) -> dict[str, torch.Tensor]:
        branches = [branch for example in examples for branch in example["branches"]]
        ids, mask = padded([ids for ids, _ in branches], self.rows.tokens.pad_token_id, False)
        items, _ = padded([items for _, items in branches], 0, False)
        named = {"branch_ids": ids, "branch_mask": mask, "branch_items": items}
        columns = {name: column.view(len(keys), -1, column.shape[1]) for name, column in named.items()}
        rows = [key.rows if key.rows else self.canonical[key.row] for key in keys]
        return columns | {ROW_FIELD: torch.tensor(rows)}
