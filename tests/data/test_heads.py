"""A model's head says which dataset, loaders and prompts it is given."""

import numpy as np
import pytest
from recbole.utils import get_model

from recbole_llm import registry
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError
from recbole_llm.data import heads
from recbole_llm.data.click.dataset import ClickDataset
from recbole_llm.data.dataset import PromptDataset


@pytest.mark.parametrize("name", registry.available_models()[0])
def test_each_plugin_model_has_a_head_and_its_loaders(name):
    head = registry.head(name)
    assert head in (heads.TITLE, heads.LETTERS, heads.CATALOGUE, heads.YES_NO)
    assert registry.dataset_class(name) is (ClickDataset if head is heads.YES_NO else PromptDataset)
    for phase in ("train", "valid", "test"):
        assert heads.prompt_dataloader({"model": name, "protocol": "candidates"}, phase) is head.loaders[phase]


def test_under_full_only_what_ranks_by_prompts_is_given_a_retriever():
    full = registry.protocol("full")
    assert full.prompt_loader("test", heads.CATALOGUE) is None
    assert all(full.prompt_loader("test", head) for head in (heads.TITLE, heads.LETTERS, heads.YES_NO))
    assert full.prompt_loader("train", heads.TITLE) is None


def test_a_registered_subclass_has_its_base_classs_dataset(monkeypatch):
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.register(type("Asks", (get_model("TALLRec"),), {}))
    assert registry.dataset_class("Asks") is ClickDataset and registry.head("Asks") is heads.YES_NO
    registry.register(type("Asks", (get_model("TALLRec"),), {}), dataset=PromptDataset)
    assert registry.dataset_class("Asks") is PromptDataset


class Rows:
    """Histories as their own arguments."""

    def __init__(self, per_item):
        self.per_item = per_item

    def histories(self, lines, items):
        return [(int(line), int(item)) for line, item in zip(lines, items, strict=True)], [(int(item),) for item in items]


def test_questions_of_one_history_share_it():
    shared = heads.YES_NO.key(Rows(per_item=False), 7, np.array([4, 2, 9]), 1)
    assert shared.candidates == (4, 2, 9) and shared.target_position == 1
    assert shared.text == ((7, 4),) and shared.long == ((4,),)
    apart = heads.YES_NO.key(Rows(per_item=True), 7, np.array([4, 2, 9]), hybrid=False)
    assert apart.text == ((7, 4), (7, 2), (7, 9)) and apart.long == ((4,), (2,), (9,)) and not apart.hybrid
    listed = heads.TITLE.key(None, 7, np.array([4, 2, 9]), 2)
    assert (listed.row, listed.candidates, listed.target_position, listed.hybrid) == (7, (4, 2, 9), 2, True)


@pytest.mark.parametrize("name, own, message", [
    ("LLaRA", {"prompt_templates": ["What next? {candidates}"]}, r"prompt_templates: prompt template .*missing fields \['history'\]"),
    ("TALLRec", {"click_templates": {"ctr": ["{liked}{disliked}{target}"], "candidates": []}}, "click_templates: must hold one or more templates for candidates"),
    ("RecLoRA", {"click_templates": {"ctr": ["{history}{target}"]}}, "click_templates: must hold one or more templates for candidates"),
    ("TALLRec", {"click_templates": {"ctr": ["{liked}{disliked}{target}"], "candidates": ["{liked} {oops} {target}"]}},
     r"click_templates, candidates: prompt template .*unknown fields \['oops'\]"),
    ("RecLoRA", {"click_templates": {"ctr": ["{target} {history}"], "candidates": ["{target} after {history}?"]}},
     r"click_templates, candidates: click template .*\{history\} must stand before \{target\}"),
])  # fmt: skip
def test_templates_without_their_fields_are_problems_of_the_configuration(name, own, message):
    with pytest.raises(ConfigError, match=message):
        LLMConfig(name, "ml-100k", config_dict={"protocol": "candidates", **own})
