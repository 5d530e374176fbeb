import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_llm import LLMConfig
from recbole_llm.data.click import retriever
from recbole_llm.data.click.interactions import Interactions
from recbole_llm.data.click.retriever import item_vectors, most_relevant, unit
from recbole_llm.data.click.timelines import build_timelines, recent, timelines_of_lists
from tests import tiny


class Known:
    """As much of a RecBole dataset as timelines read."""

    iid_field = "item_id"

    def __init__(self, items):
        self.field2token_id = {"item_id": {item: i + 1 for i, item in enumerate(sorted(set(items)))}}


def shuffled(seed, n_users=7, length=30, moments=9):
    """Interactions with many ties, in random order."""
    rng = np.random.default_rng(seed)
    users = np.repeat([f"u{u}" for u in range(n_users)], length)
    items = np.array([f"i{i}" for i in rng.integers(40, size=len(users))])
    times = rng.integers(moments, size=len(users)).astype(float) + 1e9
    order = rng.permutation(len(users))
    data = Interactions(users[order], items[order], times[order], times[order] * 0, rng.integers(2, size=len(users)))
    return data, Known(items), rng


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["recent", "relevant"])
def test_nothing_at_or_after_the_rows_moment_is_ever_seen(seed, mode):
    data, known, rng = shuffled(seed)
    lines = build_timelines(data, known)
    ids = np.array([known.field2token_id["item_id"][item] for item in data.items])
    vectors = unit(rng.standard_normal((len(known.field2token_id["item_id"]) + 1, 6)))
    targets = rng.integers(1, len(vectors), size=len(ids))
    if mode == "recent":
        places = recent(lines.start, lines.end, 4)
    else:
        places = most_relevant(vectors, lines.items, lines.start, lines.end, targets, 4)
    for row in range(len(ids)):
        before = (data.users == data.users[row]) & (data.times < data.times[row])
        shown = lines.items[places[row][places[row] >= 0]]
        assert len(shown) == min(4, before.sum())
        left = list(ids[before])
        for item in shown:
            left.remove(item)  # every item shown is one of an earlier moment, as often as it occurs there


def test_relevant_histories_are_the_largest_cosines_in_order_of_time():
    data, known, rng = shuffled(11, n_users=3, length=80, moments=60)
    lines = build_timelines(data, known)
    vectors = unit(rng.standard_normal((len(known.field2token_id["item_id"]) + 1, 8)))
    targets = rng.integers(1, len(vectors), size=len(lines.start))
    places = most_relevant(vectors, lines.items, lines.start, lines.end, targets, 5)
    for row, (start, end) in enumerate(zip(lines.start, lines.end, strict=True)):
        similar = (vectors @ vectors[targets[row]])[lines.items[start:end]]
        best = np.lexsort((-np.arange(end - start), -similar))[:5]  # of equals the later one
        assert places[row][places[row] >= 0].tolist() == sorted((start + best).tolist())


def test_blocks_change_nothing(monkeypatch):
    data, known, rng = shuffled(3, n_users=2, length=60, moments=50)
    lines = build_timelines(data, known)
    vectors = unit(rng.standard_normal((len(known.field2token_id["item_id"]) + 1, 4)))
    targets = rng.integers(1, len(vectors), size=len(lines.start))
    whole = most_relevant(vectors, lines.items, lines.start, lines.end, targets, 3)
    monkeypatch.setattr(retriever, "_BLOCK", 7)
    assert np.array_equal(most_relevant(vectors, lines.items, lines.start, lines.end, targets, 3), whole)


def test_rows_with_lists_of_their_own_use_them():
    lines = timelines_of_lists(np.array([[5, 6, 0], [7, 0, 0]]), np.array([2, 1]))
    assert [lines.items[s:e].tolist() for s, e in zip(lines.start, lines.end, strict=True)] == [[5, 6], [7]]


@pytest.fixture
def make(tiny_data, tiny_llm, tmp_path):
    def build(**more):
        given = tiny.settings(tiny_data, tiny_llm, tmp_path, **{"crm_config": {}, **more})
        return LLMConfig("RecLoRA", "tiny", config_dict=given)

    return build


TITLES, IDS = ["", "Amber birch", "Cedar dune", "Ember"], [[], [5, 6, 7], [8, 9], [10]]


def test_llm_vectors_are_mean_pooled_states_kept_under_a_content_hash(make, tmp_path, monkeypatch):
    from recbole_llm.llm.loading import load_llm

    config = make()
    vectors = item_vectors(config, TITLES, IDS)
    llm = load_llm(config)
    for i in (1, 2, 3):
        states = llm.base_model(input_ids=torch.tensor([IDS[i]])).last_hidden_state[0].mean(0).detach().numpy()
        np.testing.assert_allclose(vectors[i], states / np.linalg.norm(states), atol=1e-5)
    assert not vectors[0].any()
    monkeypatch.setattr(retriever, "_llm_vectors", lambda *_: pytest.fail("computed twice"))
    assert np.array_equal(item_vectors(config, TITLES, IDS), vectors)
    with pytest.raises(pytest.fail.Exception):
        item_vectors(config, [*TITLES[:3], "Fjord"], IDS)


def test_a_damaged_cache_is_rebuilt(make, tmp_path, caplog):
    config = make()
    vectors = item_vectors(config, TITLES, IDS)
    (file,) = (tmp_path / "saved" / "text_vectors").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert np.array_equal(item_vectors(config, TITLES, IDS), vectors) and "damaged" in caplog.text


@pytest.fixture
def sentence_encoder(tmp_path):
    """A folder with a sentence-transformers model of random weights: BERT, mean of its states."""
    pytest.importorskip("sentence_transformers")  # in the extra "test"
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for title in TITLES for word in title.lower().split()})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=5 + len(words), **sizes)).save_pretrained(tmp_path / "bert")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    words = models.Transformer(str(tmp_path / "bert"))
    folder = tmp_path / "encoder"
    SentenceTransformer(modules=[words, models.Pooling(16, pooling_mode="mean")], device="cpu").save(str(folder))
    return folder


def test_a_sentence_encoder_gives_its_pooled_states_once(sentence_encoder, make, monkeypatch):
    from transformers import AutoModel, AutoTokenizer

    config = make(retrieval_encoder=str(sentence_encoder))
    vectors = item_vectors(config, TITLES, IDS)
    tokenizer, bert = AutoTokenizer.from_pretrained(sentence_encoder), AutoModel.from_pretrained(sentence_encoder)
    for i in (1, 2, 3):
        with torch.no_grad():
            states = bert(**tokenizer(TITLES[i], return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vectors[i], states / np.linalg.norm(states), atol=1e-5)
    monkeypatch.setattr(retriever, "_sentence_vectors", lambda *_: pytest.fail("computed twice"))
    assert np.array_equal(item_vectors(config, TITLES, IDS), vectors)


def test_a_sentence_encoder_with_pickled_weights_alone_is_refused(sentence_encoder, make):
    (weights,) = sentence_encoder.glob("*.safetensors")
    torch.save(load_file(weights), sentence_encoder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        item_vectors(make(retrieval_encoder=str(sentence_encoder)), TITLES, IDS)


def test_an_encoder_that_is_not_installed_names_the_extra(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'recbole_llm\[encoder\]'"):
        item_vectors(make(retrieval_encoder="all-MiniLM-L6-v2"), TITLES, IDS)


def test_missing_item_text_is_named(make):
    with pytest.raises(ValueError, match="needs item text: set item_text_field"):
        item_vectors(make(), ["", "", ""], [[], [], []])


def test_vectors_without_direction_are_refused():
    with pytest.raises(ValueError, match="no direction for 1 items, first internal id 2"):
        unit(np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 1.0]]))


def test_vectors_of_random_weights_are_other_vectors(make):
    hashes = [retriever.vectors_hash(make(**more), ["", "Amber birch"]) for more in (
        {}, {"llm_random_weights": True}, {"llm_random_weights": True, "seed": 7}, {"seed": 7})]  # fmt: skip
    assert len(set(hashes)) == 3 and hashes[0] == hashes[3]
