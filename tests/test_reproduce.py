"""A paper's table beside ours: which rows are run, what a published number's interval is, and the verdict."""

import json
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from recbole_llm import reproduce
from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.values import ConfigError, read_yaml
from recbole_llm.leaderboard import published
from recbole_llm.leaderboard.entries import parse_entries
from tests import tiny


def test_published_numbers_are_whole_and_of_rows_that_there_are():
    contents = published.contents()
    for table in ("ranking", "click"):
        columns = contents[table]["datasets"].keys()
        assert all(row["source"] and row.keys() - {"model", "source"} <= columns for row in contents[table]["rows"])
        assert all(0 < row[column] < 1 for row in contents[table]["rows"] for column in columns)
    hits = {column: about["rows"] for column, about in contents["ranking"]["datasets"].items()}
    assert hits == {"movielens": 95, "steam": 1186, "lastfm": 122}
    for row in contents["ranking"]["rows"]:
        if row["model"] not in ("GRU4Rec", "Caser", "SASRec"):  # which are means over several runs
            for column, n in hits.items():  # a share of that many rows, rounded to four places
                assert abs(row[column] * n - round(row[column] * n)) < n * 6e-5, (row["model"], column)


def test_a_papers_rows_are_models_with_figures_that_exist():
    contents = published.contents()
    for plan in contents["reproduce"].values():
        known = {row["model"] for row in contents[plan["table"]]["rows"]}
        assert {row["published"] for row in plan["models"]} - {None} <= known
        entries = parse_entries([{key: value for key, value in row.items() if key != "published"} for row in plan["models"]])
        assert len({entry.name for entry in entries}) == len(plan["models"])


def test_the_leaderboards_block_comes_from_the_file():
    block = published.published("steam-llara", "candidates")
    assert ["TALLRec", 0.4637] in block["rows"] and "1,186 test rows" in block["note"] and "about a hundred" not in block["note"]
    assert published.published("ml-1m", "ctr")["rows"][0] == ["Vicuna-13B (ReLLa)", 0.8033]
    assert published.published("tiny", "candidates") is None and published.published("lastfm", "full") is None


def board(**generation):
    def row(name, hit, **more):
        return {"name": name, "files": [f"{name}.json"], "generation": None,
                "metrics": {"hit@1": {"mean": hit, "low": hit - 0.05, "high": hit + 0.05}}, **more}  # fmt: skip

    answers = {"hit@1_all": 0.46, "hit@1_valid": 0.5, "valid_ratio": 0.92, "n": 122}
    rows = [row("SASRec", 0.25), row("GRU4Rec", 0.5), row("LLaRA", 0.99, generation=answers), row("iLoRA", 0.4)]
    return {"dataset": "lastfm-llara", "protocol": "candidates", "n_rows": 122, "rows": rows}


def test_verdicts_follow_wilsons_interval_of_the_published_test_set():
    contents = published.contents()
    key, about = published.of_dataset("ranking", "lastfm-llara")
    report = reproduce.beside("ilora", "paper", board(), contents["reproduce"]["ilora"], contents["ranking"], key, about)
    lines = {row["row"]: row for row in report.rows}
    low, high = proportion_confint(0.2233 * 122, 122, method="wilson")
    sasrec = lines["SASRec"]
    assert (sasrec["published_low"], sasrec["published_high"]) == (pytest.approx(low), pytest.approx(high))
    assert low < 0.25 < high and sasrec["verdict"] == "agrees"
    assert lines["GRU4Rec"]["verdict"] == "differs" and lines["Caser"]["verdict"] == "failed"
    assert lines["LLaRA"]["ours"] == 0.46 and lines["LLaRA"]["verdict"] == "agrees"  # what was generated, not the likelihood's .99
    assert lines["iLoRA"]["verdict"] == "no figure" and "LLaRA (arXiv 2312.02445)" in lines["LLaRA"]["source"]
    assert report.head[0].endswith("Of 7 rows 6 have a published figure; ours agrees with it in 2.")


def test_an_auc_agrees_where_it_lies_inside_ours():
    row = {"metrics": {"auc": {"mean": 0.80, "low": 0.79, "high": 0.81}}, "generation": None}
    assert reproduce._compared(row, "auc", 0.7962, None, click=True)["verdict"] == "agrees"
    assert reproduce._compared(row, "auc", 0.7800, None, click=True)["verdict"] == "differs"


def test_the_whole_at_small_scale(tiny_data, tiny_llm, tmp_path, monkeypatch, capsys):
    """Every row of iLoRA's table on made-up data under a published dataset's name, in one command."""
    data = tiny.write_dataset(tmp_path / "data", name="lastfm", n_users=30)
    given = tiny.settings(data, tiny_llm, tmp_path)
    for key in ("epochs", "train_sample_size", "crm_epochs", "crm_config", "valid_sample_size"):
        del given[key]
    small = {"llm": {"train_sample_size": 16, "valid_sample_size": 8, "epochs": 1, "crm_epochs": 1,
                     "likelihood_over": "candidates"}, "baselines": {"epochs": 1, "train_batch_size": 64},
             "settings": {"test_sample_size": 20}}  # fmt: skip
    monkeypatch.setitem(reproduce.SCALES, "small", small)
    arguments = ["ilora", "--dataset=lastfm", "--scale=small", *(f"--{key}={value}" for key, value in given.items())]
    assert reproduce.main(arguments) == 0
    assert "Small scale" in capsys.readouterr().out
    (path,) = (tmp_path / "results").glob("reproduce-ilora-small-*/lastfm.candidates.reproduce.ilora-*.json")
    report = json.loads(path.read_text())
    rows = report["rows"]
    assert report["origin"]["training_rows"] == [16] and str(tmp_path) not in path.read_text()
    plan = published.contents()["reproduce"]["ilora"]["models"]
    assert [row["row"] for row in rows] == [row["name"] for row in plan] and all(row["verdict"] != "failed" for row in rows)
    for row, entry in zip(rows, plan, strict=True):
        (result,) = path.parent.glob(f"lastfm.candidates.{reproduce_name(entry['name'])}.seed2020.json")
        record = json.loads(result.read_text())
        ours = record["generation"]["hit@1_all"] if record["llm"] else record["metrics"]["hit@1"]
        assert row["ours"] == pytest.approx(ours, abs=1e-4) and record["n_rows"] == 20
        assert not record["llm"] or record["config"]["likelihood_over"] == "vocabulary"  # what is generated is learnt
        assert (row["valid_ratio"] is not None) == bool(record["llm"])
    assert path.with_suffix(".html").is_file() and (path.parent / "lastfm.candidates.leaderboard.html").is_file()


def reproduce_name(name):
    from recbole_llm.results.result_file import file_name

    return file_name(name).replace("[", "[[]")


def test_the_papers_scale_is_the_recipe():
    assert reproduce.SCALES["paper"]["llm"] == {"recipe": "paper"}
    for file in ("ilora-lastfm", "llara-steam"):
        assert read_yaml(Path(reproduce.__file__).parents[1] / f"properties/recipe/{file}.yaml")["llm_eval"] == "generate"


def test_what_is_wrong_is_named(capsys):
    assert reproduce.main([]) == 2
    capsys.readouterr()
    assert reproduce.main(["tallrec", "--dataset=lastfm"]) == 2 and "there are the papers llara, ilora, reclora" in capsys.readouterr().err
    assert reproduce.main(["ilora", "--dataset=ml-1m"]) == 2 and "ilora's table has no ml-1m; choose movielens-llara" in capsys.readouterr().err
    assert reproduce.main(["ilora"]) == 2 and "write PAPER --dataset=NAME" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="scale 'big'"):
        reproduce.reproduce("ilora", "lastfm", "big")


@pytest.mark.parametrize("paper", ["llara", "ilora"])
def test_rows_of_text_alone_are_so_with_every_llm(paper):
    rows = [row for row in published.contents()["reproduce"][paper]["models"] if row.get("behaviour_tokens") == "none"]
    assert len(rows) == 2
    for row in rows:
        entry = parse_entries([{key: value for key, value in row.items() if key != "published"}])[0]
        config = LLMConfig(entry.model, "ml-100k", command_line={**entry.settings, "llm_path": "smollm2-135m"})
        assert not config["user_token"] and config["history_from"] == 0.0 and config["behaviour_tokens"] == "none"
