"""Loading LLMs of several families and their tokenizers from folders, and what is refused with which remedy."""

import contextlib
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from recbole_llm import LLMConfig
from recbole_llm.config.values import ConfigError
from recbole_llm.llm import loading as loading
from recbole_llm.llm import title_likelihood
from recbole_llm.llm.tokenizer import check_tokenizer, load_tokenizer
from recbole_llm.runtime import hardware
from tests.architectures import MODEL_TYPES, build


class Settings(dict):
    """Like RecBole's Config: a missing key is None."""

    def __missing__(self, key):
        return None


def settings(path, **others):
    return Settings(llm_path=str(path), **{"llm_dtype": "float32", **others})


def save_tokenizer(folder, **special):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The Matrix The Usual Suspects Toy Story"] * 9, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    build("llama").save_pretrained(folder)
    save_tokenizer(folder, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return folder


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_families_load_frozen_and_score(model_type, tmp_path):
    original = build(model_type, "eager")
    original.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, eos_token="</s>", pad_token="<pad>")
    llm, tokenizer = loading.load_llm(settings(tmp_path)), load_tokenizer(settings(tmp_path))
    check_tokenizer(llm, tokenizer)
    assert not llm.training and not any(p.requires_grad for p in llm.parameters())
    assert loading.context_length(llm) == 128
    ids = torch.tensor(tokenizer("The Matrix")["input_ids"])[None]
    torch.testing.assert_close(llm(input_ids=ids).logits, original(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    embeds, mask = llm.get_input_embeddings()(ids), torch.ones_like(ids)
    branches = torch.tensor([[tokenizer(title)["input_ids"][:2] for title in ("Toy Story", "The Usual")]])
    scores = title_likelihood.score_candidates(llm, embeds, mask, branches, torch.ones_like(branches))
    assert scores.shape == (1, 2) and (scores < 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa", None])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16", None])
def test_dtype_and_attention(llama_folder, dtype, attention):
    llm = loading.load_llm(settings(llama_folder, llm_dtype=dtype, attn_implementation=attention))
    assert llm.dtype == (hardware.llm_dtype("cpu") if dtype in ("auto", None) else getattr(torch, dtype))
    assert attention is None or llm.config._attn_implementation == attention


def test_random_weights_keep_the_shape_and_come_from_the_seed(llama_folder):
    trained = loading.load_llm(settings(llama_folder))
    before = torch.random.get_rng_state()
    first, again, other = (loading.load_llm(settings(llama_folder, llm_random_weights=True, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    states = [llm.state_dict() for llm in (trained, first, again, other)]
    assert [{n: w.shape for n, w in state.items()} for state in states[1:]] == [{n: w.shape for n, w in states[0].items()}] * 3
    assert all(torch.equal(weight, states[2][name]) for name, weight in states[1].items())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(states[1][name], states[0][name]) and not torch.equal(states[1][name], states[3][name])
    assert not any(weight.requires_grad for weight in first.parameters()) and not first.training
    with pytest.raises(ValueError, match="llm_random_weights: random weights are not quantised"):
        loading.load_llm(settings(llama_folder, llm_random_weights=True, llm_quantization="4bit"))


def test_a_checkpoint_with_sampling_settings_decodes_greedily(llama_folder, tmp_path):
    llm = build("llama")
    llm.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=2.0)
    llm.save_pretrained(tmp_path)
    loaded = loading.load_llm(settings(tmp_path))
    assert not loaded.generation_config.do_sample and loaded.generation_config.temperature in (None, 1.0)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"llm_dtype": "half"}, "llm_dtype: 'half' is not one of auto, float32, bfloat16, float16"),
        ({"attn_implementation": "flash"}, "attn_implementation: 'flash' is not one of eager, sdpa"),
        ({"llm_quantization": 4}, "llm_quantization: 4 is not one of 8bit, 4bit"),
    ],
)
def test_unknown_values(llama_folder, keys, message):
    with pytest.raises(ValueError, match=message):
        loading.load_llm(settings(llama_folder, **keys))


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantisation_without_its_package_names_the_extra(llama_folder, bits, monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"recbole_llm\[quantized\]"):
        loading.load_llm(settings(llama_folder, llm_quantization=bits))
    with pytest.raises(ConfigError, match="flash-attn"):
        loading.load_llm(settings(llama_folder, attn_implementation="flash_attention_2"))


def test_what_cannot_be_loaded_here_is_told_with_the_configuration(monkeypatch):
    """Before a recommender is trained, all of it at once."""
    find = loading.importlib.util.find_spec
    missing = ("flash_attn", "bitsandbytes")
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name, *package: None if name in missing else find(name, *package))
    given = {"llm_quantization": "4bit", "attn_implementation": "flash_attention_2", "llm_random_weights": True}
    with pytest.raises(ConfigError) as caught:
        LLMConfig("LLaRA", "ml-100k", config_dict=given)
    assert [line.partition(":")[0] for line in caught.value.problems] == ["attn_implementation", "llm_quantization", "llm_random_weights"]


def test_quantisation_settings(monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())
    options = loading._options(settings("x", llm_quantization="4bit", device="cuda:1", llm_dtype="float16"))
    assert options["quantization_config"].load_in_4bit and options["device_map"] == {"": "cuda:1"}
    assert options["quantization_config"].bnb_4bit_compute_dtype == torch.float16
    assert loading._options(settings("x", llm_quantization="8bit"))["quantization_config"].load_in_8bit


def test_shards_of_quantised_weights_are_refused(monkeypatch):
    monkeypatch.setattr(loading.distributed, "sharded", lambda: True)
    with pytest.raises(ValueError, match=r"llm_quantization: 8bit .* FSDP"):
        loading._options(settings("x", llm_quantization="8bit"))


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_does_not_exist(path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a folder, a hub name"):
        loading.load_llm(settings(path))


def test_the_hub_out_of_reach(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
        loading.load_llm(settings("nobody/no-such-model"))
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a model .* HF_HUB_OFFLINE"):
        load_tokenizer(settings("nobody/no-such-model"))  # what a run asks for first


def test_folders_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        loading.load_llm(settings(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="PEFT adapter"):
        loading.load_llm(settings(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    llm = build("llama")
    llm.config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no \\*.safetensors"):
        loading.load_llm(settings(tmp_path))
    torch.save(llm.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="only pickled weights .*convert them once"):
        loading.load_llm(settings(tmp_path))
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="convert them once"):
        loading.load_llm(settings(tmp_path))


def test_what_is_not_causal(tmp_path):
    tiny = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    BertForMaskedLM(BertConfig(num_attention_heads=4, **tiny)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="not a causal LM"):
        loading.load_llm(settings(tmp_path / "bert"))
    t5 = T5Config(vocab_size=300, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="t5 model, not a causal LM"):
        loading.load_llm(settings(tmp_path / "t5"))


def test_unknown_and_incomplete_models(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made-up"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="trust_remote_code"):
        loading.load_llm(settings(tmp_path))
    LlamaModel(build("llama").config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the weights \['lm_head.weight'\]"):
        loading.load_llm(settings(tmp_path))


def test_code_in_a_checkpoint_does_not_run_unless_trusted(tmp_path):
    build("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.update(model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError('ran')\n")
    with pytest.raises(ValueError, match="trust_remote_code: true"):
        loading.load_llm(settings(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_tokenizer_padding_falls_back_to_the_end_token(tmp_path, llama_folder):
    tokenizer = load_tokenizer(settings(llama_folder))
    assert tokenizer.pad_token == "<pad>" and tokenizer.padding_side == "left"
    build("llama").config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    save_tokenizer(tmp_path, eos_token="</s>")
    tokenizer = load_tokenizer(settings(tmp_path))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_tokenizers_that_cannot_be_used(tmp_path):
    llm = build("llama")
    llm.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        load_tokenizer(settings(tmp_path))
    empty = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=empty, eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        load_tokenizer(settings(tmp_path))
    save_tokenizer(tmp_path, pad_token="<pad>")
    with pytest.raises(ValueError, match="no end token.*eos_token in tokenizer_config.json"):
        load_tokenizer(settings(tmp_path))
    extra = [f"<{i}>" for i in range(20)]  # the last ones have no embedding
    save_tokenizer(tmp_path, eos_token="</s>", additional_special_tokens=extra)
    tokenizer = load_tokenizer(settings(tmp_path))
    beyond = tokenizer.convert_tokens_to_ids(extra[-1])
    assert beyond >= 300
    check_tokenizer(llm, tokenizer, used=range(300))  # as Gemma 3, whose image token has no embedding
    with pytest.raises(ValueError, match="30[0-9] tokens and the LM 300 embeddings, none for '<19>', which prompts hold"):
        check_tokenizer(llm, tokenizer, used=[beyond])
    for name, fits in (("pad_token", True), ("bos_token", False)):
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: extra[-1]}))
        tokenizer = load_tokenizer(settings(tmp_path))
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="300 embeddings, none for '<19>'"):
            check_tokenizer(llm, tokenizer)


def test_context_length_and_parameters():
    llm = build("llama")
    assert loading.context_length(build("bloom", "eager")) is None
    assert loading.count_parameters(llm) == sum(p.numel() for p in llm.parameters())
    assert loading.count_parameters(llm, trainable=True) == 0
    llm.lm_head.weight.requires_grad_(True)
    assert loading.count_parameters(llm, trainable=True) == llm.lm_head.weight.numel()
