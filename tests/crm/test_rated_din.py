"""DIN with ratings of the history and user fields, by itself and behind RecLoRA."""

import copy

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.quick_start import run_recbole
from recbole.utils import get_model

from recbole_llm import ConfigError, LLMConfig, run_recbole_llm
from recbole_llm.config.known_keys import without_others
from recbole_llm.crm.training import load_or_train
from recbole_llm.data.click.rows import labelled_rows
from recbole_llm.data.click.timelines import HISTORY_RATINGS
from recbole_llm.evaluation.preparation import prepare_data
from recbole_llm.model.reclora import RecLoRA
from tests import tiny
from tests.crm.test_fields import SETTINGS, data  # noqa: F401


@pytest.fixture
def config_for(data, tiny_llm, tmp_path):  # noqa: F811
    def make(model="RecLoRA", **more):
        own = {"crm_model": "RatedDIN", "crm_epochs": 0} if model == "RecLoRA" else {}
        given = tiny.settings(data, tiny_llm, tmp_path, **{**SETTINGS, **own, **more})
        return LLMConfig(model, "tiny", config_dict=without_others(model, "tiny", given))

    return make


def shown(rows, dataset):
    """{(user, item): ((history item, rating's level), ...)} of rows with histories."""
    found = {}
    for i in range(len(rows)):
        n = int((rows["item_id_list"][i] > 0).sum())
        names = [dataset.id2token("item_id", item) for item in rows["item_id_list"][i][:n].tolist()]
        pair = dataset.id2token("user_id", int(rows["user_id"][i])), dataset.id2token("item_id", int(rows["item_id"][i]))
        found[pair] = tuple(zip(names, rows[HISTORY_RATINGS][i][:n].tolist(), strict=True))
    return found


@pytest.mark.parametrize("history", ["recent", "relevant"])
def test_it_learns_from_the_histories_and_ratings_that_it_is_asked_with(history, config_for):
    """A rating's level is its place among 1 to 5; a row's own rating is in no history of its own."""
    config = config_for(crm_history=history)
    dataset, train, _, test = prepare_data(config)
    crm = load_or_train(config, train._dataset)
    every = labelled_rows(config).interactions
    ratings = {(user, item): int(rating) for user, item, rating in zip(every.users, every.items, every.ratings, strict=True)}
    asked = {pair: lines for batch in test for pair, lines in shown(batch, dataset).items()}
    assert all(level == ratings[user, item] for (user, _), lines in asked.items() for item, level in lines)
    assert all(own not in [item for item, _ in lines] for (_, own), lines in asked.items())
    assert len({level for lines in asked.values() for _, level in lines}) == 5
    if history == "recent":
        own = config_for("RatedDIN", MAX_ITEM_LIST_LENGTH=config["crm_history_len"])
        _, learned, _, tested = prepare_data(own)
        assert shown(tested._dataset.inter_feat, dataset) == asked
        assert shown(learned._dataset.inter_feat, dataset).keys().isdisjoint(asked)
    model, batch = RecLoRA(config, train._dataset).eval(), next(iter(test))
    assert model.crm.sha256 == crm.sha256
    scores = model.score_candidates(batch)
    torch.testing.assert_close(model.score_candidates(batch[[1]])[0], scores[1], rtol=1e-4, atol=1e-5)
    other = copy.deepcopy(batch)
    other.interaction[HISTORY_RATINGS] = torch.where(batch[HISTORY_RATINGS] > 0, 6 - batch[HISTORY_RATINGS], 0)
    assert not torch.allclose(model.gate(other[[0]]).weights, model.gate(batch[[0]]).weights, atol=1e-7)


def test_user_fields_and_ratings_enter_its_score_and_padding_does_not(config_for):
    config = config_for("RatedDIN", embedding_size=4, mlp_hidden_size=[8])
    dataset, train, *_ = prepare_data(config)
    model = get_model("RatedDIN")(config, train._dataset).eval()
    rows = train._dataset.inter_feat[:20]
    before = model.predict(rows)
    assert torch.isfinite(model.calculate_loss(rows)) and (before > 0).all() and (before < 1).all()
    beyond = copy.deepcopy(rows)
    place = torch.arange(rows["item_id_list"].shape[1])[None]
    beyond.interaction[HISTORY_RATINGS] = torch.where(place < rows["item_length"][:, None], rows[HISTORY_RATINGS], 3)
    torch.testing.assert_close(model.predict(beyond), before)
    for name in ("user_id", HISTORY_RATINGS):
        other = copy.deepcopy(rows)
        other.interaction[name] = torch.where(rows[name] > 0, 1 + rows[name] % 5, 0)
        changed = (model.predict(other) - before).abs() > 1e-7
        assert changed[(other[name] != rows[name]).view(len(rows), -1).any(1)].float().mean() > 0.9


def test_it_runs_as_a_row_and_names_what_it_needs(config_for):
    settings = {**config_for("RatedDIN").external_config_dict, "embedding_size": 4, "mlp_hidden_size": [8], "epochs": 1, "train_batch_size": 64}
    keys = ("data_path", "checkpoint_dir", "result_dir", "load_col", "protocol", "embedding_size", "mlp_hidden_size", "epochs", "train_batch_size")
    found = run_recbole_llm("RatedDIN", "tiny", config_dict={key: settings[key] for key in keys} | {"show_progress": False, "state": "ERROR"})
    assert 0 <= found["test_result"]["auc"] <= 1 and np.isfinite(found["test_result"]["logloss"])
    with pytest.raises(ConfigError, match="crm_model: RatedDIN learns from labelled rows.*protocol: candidates has none; choose DIN"):
        config_for(protocol="candidates")


@pytest.mark.parametrize("make", [LLMConfig, Config])
def test_it_has_the_settings_of_the_din_beside_it(make, monkeypatch):
    """RecBole gives DIN its columns of ml-100k by name."""
    monkeypatch.setattr("sys.argv", ["test"])
    rated, din = (LLMConfig(model, "ml-100k", config_dict={"protocol": "ctr"}) for model in ("RatedDIN", "DIN"))
    if make is Config:
        rated = Config("RatedDIN", "ml-100k", config_dict={"protocol": "ctr"})
    assert rated["load_col"]["user"] == ["user_id", "age", "gender", "occupation"] and rated["load_col"]["item"] == ["item_id", "release_year"]
    differ = {key for key in din.final_config_dict if key != "model" and rated[key] != din[key]}
    assert not differ


def test_plain_recbole_is_told_what_it_lacks(config_for, monkeypatch, tmp_path):
    """RecBole prepares no labelled rows with ratings of histories."""
    monkeypatch.setattr("sys.argv", ["test"])
    monkeypatch.chdir(tmp_path)
    given = config_for("RatedDIN").external_config_dict
    plain = {key: given[key] for key in ("data_path", "checkpoint_dir", "load_col", "show_progress")} | {"mlp_hidden_size": [8], "epochs": 1}
    for protocol in ("candidates", None):
        with pytest.raises(ConfigError, match=f"model: RatedDIN learns from labelled rows.*protocol: {protocol} has none; choose DIN, or protocol: ctr"):
            run_recbole("RatedDIN", "tiny", config_dict={**plain, "protocol": protocol})
    with pytest.raises(ValueError, match="RatedDIN: training rows without ratings of their histories.*call run_recbole_llm"):
        run_recbole("RatedDIN", "tiny", config_dict={**plain, "protocol": "ctr"})
