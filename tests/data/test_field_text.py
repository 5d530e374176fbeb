import pytest
import torch
from recbole.data import create_dataset
from recbole.data import utils as recbole_data

from recbole_llm import LLMConfig, load, run_recbole_llm
from recbole_llm.config.properties import llm_settings
from recbole_llm.data.field_text import field_texts
from recbole_llm.data.prompt import parse_template, with_profile
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.llm.packing import SHARED_FIELD
from tests import tiny

FIELDS = {"user": ["age", "gender", "occupation"], "item": [{"year": "from"}, "genre"]}
DEFAULT = llm_settings("smollm2-135m", [])[0]["prompt_templates"]
CLICK = {
    "behaviour_tokens": "none", "num_experts": 2, "crm_history_len": 6, "text_history_len": 4, "crm_epochs": 0,
    "crm_config": {"train_batch_size": 64, "embedding_size": 4, "mlp_hidden_size": [8]},
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return tiny.write_fields(tiny.write_dataset(tmp_path / "data"))


@pytest.fixture
def build(data, tiny_llm, tmp_path):
    """(config, dataset) of a model, the dataset not yet built."""

    def make(model="LLaRA", **more):
        given = tiny.settings(data, tiny_llm, tmp_path, **{"prompt_fields": FIELDS, **more})
        config = LLMConfig(model, "tiny", config_dict=given)
        return config, create_dataset(config)

    return make


def text_of(batch, i, tokenizer):
    """The text of a batch's prompt i."""
    ids, items = batch["prompt_ids"][i], batch["prompt_items"][i]
    return tokenizer.decode(ids[batch["prompt_mask"][i] & (items == 0)], skip_special_tokens=True)


def line(data, side, token):
    """The fields of one user or item, from the file."""
    return next(row.split("\t")[1:] for row in (data / f"tiny/tiny.{side}").read_text().splitlines() if row.split("\t")[0] == token)


def test_texts_are_the_files_values_in_the_words_asked_for(build, data):
    config, dataset = build(value_words={"gender": {"F": "female"}, "age": {20: "twenty"}})
    texts = field_texts(config, dataset, "user")
    users = dataset.field2token_id["user_id"]
    assert texts[users["u0"]] == "This user's profile: age twenty, gender female, occupation amber. "
    assert texts[users["u1"]] == "This user's profile: age 21, gender M, occupation unknown. "  # no value in the file
    assert texts[0] == "This user's profile: age unknown, gender unknown, occupation unknown. "
    assert dataset.details[dataset.field2token_id["item_id"]["i5"]] == " (from 1991, genre cedar ember)"
    assert dataset.user_feat is None and dataset.item_feat is None  # ids are as without the fields


@pytest.mark.parametrize("model", ["LLaRA", "LlamaRec"])
def test_a_listwise_prompt_shows_them_and_its_answer_is_the_title_alone(model, build, data):
    config, dataset = build(model)
    plain = build(model, prompt_fields=None)[1].prompt_tokenizer
    dataset, _, _, test = prepare_data(config)
    tokens, batch = dataset.prompt_tokenizer, next(iter(test))
    for i in range(3):
        user = dataset.id2token("user_id", int(batch["user_id"][i]))
        age, gender, occupation = line(data, "user", user)
        text = text_of(batch, i, tokens.tokenizer)
        assert text.startswith(f"This user's profile: age {age}, gender {gender}, occupation {occupation or 'unknown'}. ")
        for item in batch["candidates"][i].tolist():
            title, year, genre = line(data, "item", dataset.id2token("item_id", item))
            assert f"{title} (from {year}, genre {genre})" in text
    assert [tokens.answer(i) for i in range(1, 9)] == [plain.answer(i) for i in range(1, 9)]
    assert all((tokens.lengths() > plain.lengths())[1:])


def test_yes_no_prompts_share_a_profile_with_their_history(build, data):
    config, _ = build("RecLoRA", protocol="ctr", **CLICK)
    dataset, train, _, test = prepare_data(config)
    tokens = dataset.prompt_tokenizer
    train.set_epoch(0)
    for batch in (next(iter(test)), next(iter(train))):
        for i in range(len(batch)):
            age, gender, _ = line(data, "user", dataset.id2token("user_id", int(batch["user_id"][i])))
            assert text_of(batch, i, tokens.tokenizer).startswith(f"This user's profile: age {age}, gender {gender}, ")
    batch = next(iter(test))
    branch = tokens.tokenizer.decode(batch["branch_ids"][0, 0][batch["branch_mask"][0, 0]])
    title, year, genre = line(data, "item", dataset.id2token("item_id", int(batch["candidates"][0, 0])))
    assert f"{title} (from {year}, genre {genre})?" in branch and "profile" not in branch


def test_a_template_says_where_the_profile_stands():
    template = parse_template("Seen:{history}.{profile} Choose:{candidates}.", ("history", "candidates"))
    assert with_profile(template, " Old {history}.")[2] == ". Old {history}. Choose:"
    assert with_profile(template, "")[2] == ". Choose:"
    first = parse_template("Seen:{history}. Choose:{candidates}.", ("history", "candidates"))
    assert with_profile(first, "Old. ")[0] == "Old. Seen:" and with_profile(first, "") == first


@pytest.fixture
def batch_of(build):
    """A training batch of shared lists under the default LLM's templates, or others."""

    def make(fields=None, templates=DEFAULT):
        given = {"prompt_fields": fields, "prompt_templates": templates, "users_per_list": 4, "user_token": True, "curriculum": "none"}
        config, dataset = build(**given)
        loader = recbole_data.get_dataloader(config, "train")(config, dataset.build()[0], None)
        loader.set_epoch(0)
        return next(iter(loader)), dataset

    return make


def test_without_fields_a_template_with_a_profile_gives_the_same_tokens(batch_of):
    (template,) = DEFAULT
    assert template.count("{profile}") == 1
    (with_place, _), (without, _) = batch_of(), batch_of(templates=[template.replace("{profile}", "")])
    assert all(torch.equal(with_place[name], without[name]) for name in ("prompt_ids", "prompt_items", "prompt_mask", "answer_ids"))


def test_rows_of_a_list_share_its_candidates_in_front_of_their_profiles(batch_of, data):
    batch, dataset = batch_of({"user": ["age", "gender"]})
    tokenizer, titles = dataset.prompt_tokenizer.tokenizer, dataset.titles
    users = [dataset.id2token("user_id", user) for user in batch["user_id"].tolist()]
    assert len(set(users[:4])) > 1
    for i, user in enumerate(users):
        age, gender, _ = line(data, "user", user)
        before, place, behind = text_of(batch, i, tokenizer).partition(f"\nThis user's profile: age {age}, gender {gender}. items that a user has")
        assert place and titles[int(batch["item_id"][i])] in before and behind.startswith(" chosen, oldest first:\n")
        shared = tokenizer.decode(batch["prompt_ids"][i][batch["prompt_mask"][i]][: batch[SHARED_FIELD][i]], skip_special_tokens=True)
        assert shared.startswith(before)


def test_a_run_answers_users_new_users_and_new_items_with_their_fields(data, tiny_llm, tmp_path):
    with open(data / "tiny/tiny.item", "a") as file:
        file.write("new1\tBrand new thing\t2024\tquartz\n")
    more = {"prompt_fields": FIELDS, "train_sample_size": 4, "valid_sample_size": 4, "test_sample_size": 4, "latency_rows": 0, "crm_epochs": 0}
    result = run_recbole_llm("LLaRA", "tiny", config_dict=tiny.settings(data, tiny_llm, tmp_path, **more))
    recommender = load(result["result_file"])
    known = recommender.explain(users="u0", candidates=["i1", "new1"])
    assert "profile: age 20, gender F, occupation amber." in known
    assert "Brand new thing (from 2024, genre quartz)" in known and "(from 1991, genre" in known
    new = recommender.explain(history=["i1", "i2"], candidates=["i3"])
    assert "profile: age unknown, gender unknown, occupation unknown." in new


def test_users_without_a_line_are_counted(build, data, caplog):
    file = data / "tiny/tiny.user"
    file.write_text("\n".join(row for row in file.read_text().splitlines() if not row.startswith("u1\t")) + "\n")
    _, dataset = build()
    assert "unknown" in dataset.profiles[dataset.field2token_id["user_id"]["u1"]]
    assert "1 of 40 users are not in" in caplog.text and ": u1" in caplog.text


def test_a_missing_file_field_or_id_says_what_to_do(build, data):
    _, dataset = build(prompt_fields={"item": ["director"]})
    with pytest.raises(ValueError, match=r"prompt_fields: .*tiny\.item has no column 'director'; it has item_id, title, year, genre"):
        dataset.build()
    file = data / "tiny/tiny.user"
    file.write_text(file.read_text().replace("\nu", "\nuser"))
    with pytest.raises(ValueError, match="prompt_fields: no user of the interactions is in .*e.g. 'u0', the file has e.g. 'user0'"):
        build()[1].build()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"prompt_fields: .*tiny\.user not found.*header user_id:token<TAB>age:token, or leave user"):
        build()[1].build()


def test_item_fields_are_refused_where_prompts_hold_no_title(build):
    with pytest.raises(ValueError, match="prompt_fields: E4SRec's prompts hold no titles"):
        build("E4SRec")
    assert build("E4SRec", prompt_fields={"user": ["age"]})[1].profiles[1].startswith("This user's profile: age ")
