"""Prompts that the built-in LLM misreads are named; those of the package are not among them."""

from pathlib import Path

import yaml

from recbole_llm.builtin.openers import misread
from recbole_llm.data.prompt import with_words
from recbole_llm.model.llara import RELEASED_TEMPLATES

PROPERTIES = Path(__file__).parents[2] / "properties"


def test_the_packages_templates_with_every_datasets_words_are_read_as_they_are_meant(tokenizer):
    settings = yaml.safe_load((PROPERTIES / "llm.yaml").read_text())
    datasets = [yaml.safe_load(path.read_text()) for path in sorted((PROPERTIES / "dataset").glob("*.yaml"))]
    words = [settings["prompt_words"], *(found["prompt_words"] for found in datasets if "prompt_words" in found)]
    assert len(words) > 2
    templates = [*settings["prompt_templates"], *RELEASED_TEMPLATES, *sum(settings["click_templates"].values(), [])]
    for own in words:
        assert misread(tokenizer, with_words(templates, own)) == []


def test_an_opener_before_the_history_and_a_question_without_one_are_each_a_line(tokenizer):
    liked = "This user has liked these films:{history}. Which one will this user watch next?{candidates}. Answer:"
    (line,) = misread(tokenizer, [liked])
    assert liked in line and "takes what follows 'like' for candidates" in line and "prompt_words: verbed" in line
    (line,) = misread(tokenizer, ["A user saw:{history}. Pick one of:{candidates}. Answer:"])
    assert "sees no list of candidates begin" in line and "choose" in line
    (line,) = misread(tokenizer, ["A user saw:{history}. Would they see{target}? Answer Yes or No, whichever they like:"])
    assert "sees no list of candidates begin" in line  # an opener behind the item asked about comes too late
    assert len(misread(tokenizer, [liked, "They enjoyed:{history}. Pick:{candidates}."])) == 3
