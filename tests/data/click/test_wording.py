"""Where an answer begins: the first tokens of yes and no behind a prompt."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recbole_llm.data.click.wording import first_token_ids


def bpe(vocabulary, space_first=False):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space_first)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["Answer: Yes Answer: No Answer:(Yes Answer:(No Never"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_first_tokens_of_answers_follow_the_prompt():
    tokenizer = bpe(300)
    yes, no = first_token_ids(tokenizer)
    assert (tokenizer.decode([yes]), tokenizer.decode([no])) == (" Yes", " No")
    assert first_token_ids(tokenizer, context="", separator="") == tuple(
        tokenizer(word)["input_ids"][0] for word in ("Yes", "No")
    )
    spaced = bpe(300, space_first=True)  # puts a space before a text that has none
    assert spaced.decode(spaced("Yes")["input_ids"]) == " Yes"
    yes, no = first_token_ids(spaced, context="Answer:(", separator="")
    assert (spaced.decode([yes]), spaced.decode([no])) == ("Yes", "No")
    merged = first_token_ids(
        tokenizer, "es", "No", context="Answer: Y", separator=""
    )  # "Y" + "es" is one token
    assert merged == tuple(tokenizer(word)["input_ids"][0] for word in ("es", "No"))
    with pytest.raises(ValueError, match="same token"):
        first_token_ids(bpe(256))  # no merges: both begin with the space
    with pytest.raises(ValueError, match="no token"):
        first_token_ids(tokenizer, yes="", separator="")
