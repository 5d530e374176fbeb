"""Fetching on first use: a server of this machine plays the publishers."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from recbole.quick_start import run_recbole

from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import ConfigError, read_yaml
from recbole_llm.data.convert import ensure_dataset, sources
from recbole_llm.data.convert.__main__ import main
from recbole_llm.quick_start import run_recbole_llm
from tests.data.convert.published import PUBLISHED, amazon, ml_1m, zipped

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("RECBOLE_LLM_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["test"])


@pytest.fixture
def ml_1m_served(server, tmp_path):
    """`source` of ml-1m at the server, with the archive's digest."""
    server.files["ml-1m.zip"] = zipped(tmp_path / "made.zip", ml_1m(), "ml-1m/").read_bytes()
    file = {"url": server.url("ml-1m.zip"), "sha256": sha256(server.files["ml-1m.zip"]).hexdigest()}
    return {"converter": "movielens", "licence": "made up", "page": "https://example.org", "files": [file]}


def settings(tmp_path, **more) -> dict:
    places = {name: str(tmp_path / name) for name in ("result_dir", "checkpoint_dir")}
    return {"data_path": str(tmp_path / "data"), "n_candidates": 2, "epochs": 1, "show_progress": False, "state": "ERROR"} | places | more


def test_a_missing_dataset_is_fetched_checked_converted_and_cached(server, tmp_path, ml_1m_served, capsys):
    config = LLMConfig("SASRec", "ml-1m", config_dict=settings(tmp_path, source=ml_1m_served))
    ensure_dataset(config)
    folder = tmp_path / "data/ml-1m"
    assert sorted(path.name for path in folder.iterdir()) == ["ml-1m.inter", "ml-1m.item", "ml-1m.user", "source.json"]
    record = json.loads((folder / "source.json").read_text())
    content = server.files["ml-1m.zip"]
    assert record["files"] == [{"url": server.url("ml-1m.zip"), "size": len(content), "sha256": sha256(content).hexdigest()}]
    assert not (tmp_path / "data/.download/ml-1m").exists()
    shown = capsys.readouterr()
    assert shown.out.count("ml-1m: made up") == 1 and "ml-1m.zip: 100%" in shown.err
    ensure_dataset(config)
    assert len(server.requests) == 1 and capsys.readouterr().out == ""


def test_llm_rows_baselines_and_plain_recbole_alike(tmp_path, ml_1m_served, tiny_llm, server):
    more = {"source": ml_1m_served, "train_sample_size": 8, "crm_epochs": 1, "llm_path": str(tiny_llm), "valid_sample_size": 4}
    for model in ("LLaRA", "SASRec"):
        given = settings(tmp_path / model, **{key: more[key] for key in (more if model == "LLaRA" else ["source"])})
        found = run_recbole_llm(model, "ml-1m", config_dict=given)
        assert json.loads(Path(found["result_file"]).read_text())["dataset"] == "ml-1m"
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    plain = settings(tmp_path / "plain", source=ml_1m_served, eval_args=split, train_neg_sample_args=None,
                     topk=[1], valid_metric="MRR@1")  # fmt: skip
    plain["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    run_recbole(model="SASRec", dataset="ml-1m", config_dict=plain)
    assert len(server.requests) == 3


def test_the_command_line_of_the_issue(server, tmp_path, ml_1m_served):
    """python run_recbole_llm.py --model=... --dataset=NAME, and nothing else about the data."""
    (tmp_path / "served.yaml").write_text(json.dumps({"source": ml_1m_served}))
    command = [sys.executable, str(ROOT / "run_recbole_llm.py"), "--model=Pop", "--dataset=ml-1m", "--config_files=served.yaml"]
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key} | {"PYTHONPATH": str(ROOT)}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    offline = subprocess.run([*command, "--offline"], **run)
    assert offline.returncode == 2 and "downloads are off (offline)" in offline.stderr and "Traceback" not in offline.stderr
    done = subprocess.run([*command, "--n_candidates=2"], **run)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dataset/ml-1m/ml-1m.inter").is_file() and "6 test rows" in done.stdout


@pytest.mark.parametrize("how", ["key", "RECBOLE_LLM_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_names_address_file_and_command(tmp_path, monkeypatch, how):
    if how != "key":
        monkeypatch.setenv(how, "1")
    config = LLMConfig("iLoRA", "lastfm", config_dict=settings(tmp_path, offline=how == "key", users_per_list=1))
    with pytest.raises(FileNotFoundError) as raised:
        ensure_dataset(config)
    text = str(raised.value)
    for part in (str(tmp_path / "data/lastfm/lastfm.inter"), "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
                 "https://grouplens.org/datasets/hetrec-2011/", f"convert lastfm --source DIR --target {tmp_path / 'data'}"):  # fmt: skip
        assert part in text
    assert not (tmp_path / "data").exists()


def test_no_network_names_them_too(server, tmp_path, ml_1m_served):
    server.files.clear()
    config = LLMConfig("SASRec", "ml-1m", config_dict=settings(tmp_path, source=ml_1m_served))
    with pytest.raises(ConnectionError, match=r"ml-1m.inter is missing, and cannot download .*404.*Fetch http.*convert ml-1m --source DIR"):
        ensure_dataset(config)
    assert not (tmp_path / "data/ml-1m").exists()


def test_an_interrupted_download_is_no_data_and_goes_on(server, tmp_path, ml_1m_served):
    server.cut, server.cut_at = 3, 100
    config = LLMConfig("SASRec", "ml-1m", config_dict=settings(tmp_path, source=ml_1m_served))
    with pytest.raises(ConnectionError, match="broke off at 300 bytes"):
        ensure_dataset(config)
    assert not (tmp_path / "data/ml-1m").exists()
    ensure_dataset(config)
    assert server.requests[-1] == ("/ml-1m.zip", "bytes=300-") and (tmp_path / "data/ml-1m/ml-1m.inter").is_file()


def test_a_changed_archive_is_refused(server, tmp_path, ml_1m_served):
    server.files["ml-1m.zip"] += b"more"
    config = LLMConfig("SASRec", "ml-1m", config_dict=settings(tmp_path, source=ml_1m_served))
    with pytest.raises(ValueError, match="ml-1m.zip: sha256 is .*expected .*damaged or the publisher replaced"):
        ensure_dataset(config)
    assert not (tmp_path / "data/ml-1m").exists() and not list((tmp_path / "data/.download/ml-1m").iterdir())


def test_without_a_published_digest_the_first_one_counts(server, tmp_path, ml_1m_served, monkeypatch, capsys):
    ml_1m_served["files"][0]["sha256"] = None
    monkeypatch.setattr(sources, "dataset_sources", lambda: {"ml-1m": ml_1m_served})
    assert main(["ml-1m", "--target", "d"]) == 0
    server.files["ml-1m.zip"] = zipped(tmp_path / "other.zip", ml_1m(), "other/").read_bytes()
    assert main(["ml-1m", "--target", "d", "--force"]) == 1
    digest = sha256(server.files["ml-1m.zip"]).hexdigest()
    assert f"sha256 is {digest}, expected" in capsys.readouterr().err
    assert main(["ml-1m", "--target", "d", "--force", f"--sha256={digest.upper()}"]) == 0


def test_a_category_s_addresses(server, tmp_path):
    files = {name.removesuffix(".gz"): content.encode() for name, content in amazon("Books").items()}
    server.files |= files
    source = {"converter": "amazon", "category_files": [{"url": server.url(f"{name}{{category}}.{ending}"), "sha256": None}
              for name, ending in (("", "csv"), ("meta_", "jsonl"))]}  # fmt: skip
    ensure_dataset(LLMConfig("SASRec", "amazon-2023-Books", config_dict=settings(tmp_path, source=source)))
    assert len((tmp_path / "data/amazon-2023-Books/amazon-2023-Books.inter").read_text().splitlines()) == 43


def test_an_optional_file_may_be_absent(server, tmp_path):
    files = PUBLISHED["steam-llara"]()
    server.files |= {name: content if isinstance(content, bytes) else content.encode() for name, content in files.items()}
    del server.files["Val_data.df"]
    source = {"converter": "llara", "files": [{"url": server.url(name), "optional": name == "Val_data.df"} for name in files]}
    ensure_dataset(LLMConfig("SASRec", "steam-llara", config_dict=settings(tmp_path, source=source)))
    assert (tmp_path / "data/steam-llara/steam-llara.valid.inter").is_file()


def test_recbole_s_own_archives_come_the_same_way(server, tmp_path, monkeypatch):
    atomic = {"Amazon_Books.inter": "user_id:token\titem_id:token\ttimestamp:float\na\tb\t1\n", "Amazon_Books.item": "item_id:token\nb\n"}
    server.files["Amazon_Books.zip"] = zipped(tmp_path / "made.zip", atomic).read_bytes()
    monkeypatch.setattr(sources, "_recbole_table", lambda: {"amazon-books": server.url("Amazon_Books.zip")})
    ensure_dataset(LLMConfig("SASRec", "amazon-books", config_dict=settings(tmp_path)))
    folder = tmp_path / "data/amazon-books"
    assert {path.name for path in folder.iterdir()} == {"amazon-books.inter", "amazon-books.item", "source.json"}
    assert (folder / "amazon-books.inter").read_text() == atomic["Amazon_Books.inter"]


def test_recbole_s_own_models_are_told_of_the_dataset_that_was_meant(tmp_path):
    from recbole.data import create_dataset

    with pytest.raises(FileNotFoundError, match=r"dataset folder .*ml100k not found. Set data_path .*; did you mean 'ml-100k'\?"):
        create_dataset(LLMConfig("BPR", "ml100k", config_dict=settings(tmp_path)))


def test_unknown_datasets_are_left_to_the_caller(tmp_path):
    ensure_dataset(LLMConfig("SASRec", "nobody-knows", config_dict=settings(tmp_path)))
    assert sources.how_to_get("nobody-knows", "x").startswith("Set data_path to the folder that holds nobody-knows/nobody-knows.inter; or make one")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"converter": "movielense"}, "converter, one of lastfm, movielens"),
        ({"converter": "movielens", "urls": []}, "unknown key 'urls'; it has categories"),
        ({"converter": "movielens", "files": ["http://x"]}, "each of files is {url: https"),
        ({"converter": "movielens", "files": [{"url": "ftp://x"}]}, "each of files is {url: https"),
    ],
)
def test_a_source_that_is_none(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        ensure_dataset(LLMConfig("SASRec", "ml-1m", config_dict=settings(tmp_path, source=source)))
    with pytest.raises(ConfigError, match="source: must be a mapping"):
        LLMConfig("SASRec", "ml-1m", config_dict=settings(tmp_path, source="here"))


def test_every_shipped_source_is_well_formed():
    for file in properties_dir().glob("dataset/*.yaml"):
        if source := read_yaml(file).get("source"):
            assert not sources.source_problems(source) and source["page"].startswith("https://") and source["licence"]
            listed = [*source.get("files", ()), *source.get("category_files", ())]
            assert listed and all("sha256" in one for one in listed)
            assert all(one["sha256"] is None or len(one["sha256"]) == 64 for one in listed)
