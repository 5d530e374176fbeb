"""The built-in model's tokenizer: byte-level BPE, trained on made-up titles and on prompt words.

All 256 bytes are in the vocabulary, so every text can be written and read back. Digits stand alone. ``<|item|>``
and ``<|user|>`` are never produced by this package from text (:mod:`recbole_llm.data.tokens`): the one's embedding is the
constant part of a behaviour slot, the other is reserved.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recbole_llm.builtin import phrases, titles

BOS, EOS, PAD, ITEM, USER = "<|bos|>", "<|eos|>", "<|pad|>", "<|item|>", "<|user|>"
VOCAB_SIZE = 4096


def training_texts(seed: int, count: int = 30_000) -> list[str]:
    """Titles with a leading space, and every phrase of the prompts several times."""
    words = [" " + word for group in (titles.ADJECTIVES, titles.NOUNS, titles.VERBS) for word in group]
    texts = [" " + title for title in titles.make_titles(seed, count, pseudo=0.2)]
    return texts + 20 * (words + [word.title() for word in words]) + 200 * phrases.all_phrases()


def train_tokenizer(seed: int = 2020, vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Train the tokenizer from nothing; deterministic in ``seed``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD, ITEM, USER],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        additional_special_tokens=[ITEM, USER], padding_side="left", clean_up_tokenization_spaces=False,
    )
