"""What holds for every converter, on made-up files in the published form."""

import shutil
import subprocess
import sys

import pytest

from recbole_llm.config.loader import LLMConfig
from recbole_llm.config.properties import family_of
from recbole_llm.data.candidate_sets import candidate_sets
from recbole_llm.data.convert.__main__ import main
from recbole_llm.data.convert.convert import convert
from recbole_llm.data.convert.sources import dataset_names
from tests.data.convert.published import PUBLISHED, write, zipped

DATASETS = list(PUBLISHED)


def test_every_dataset_is_published_here():
    assert {family_of(name) or name for name in PUBLISHED} == {family_of(name) or name for name in dataset_names()}


@pytest.mark.parametrize("dataset", DATASETS)
def test_folder_and_archive_give_the_same_files(tmp_path, dataset):
    files = PUBLISHED[dataset]()
    folder = convert(dataset, write(tmp_path / "raw", files), tmp_path / "a")
    assert folder == tmp_path / "a" / dataset
    write(tmp_path / "zip", {})
    plain = {name.removesuffix(".gz"): content for name, content in files.items()}
    archive = zipped(tmp_path / "zip/some.zip", plain, inside="some/")
    for source, target in ((archive, "b"), (archive.parent, "c")):
        other = convert(dataset, source, tmp_path / target)
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in other.iterdir()}
    assert [path.name for path in (tmp_path / "a").iterdir()] == [dataset]
    for file in folder.iterdir():
        header, *rows = file.read_text(encoding="utf-8").splitlines()
        assert rows and all(row.count("\t") == header.count("\t") for row in rows)


@pytest.mark.parametrize("dataset", DATASETS)
def test_another_dataset_s_folder_is_refused_by_name(tmp_path, dataset):
    source = write(tmp_path / "raw", PUBLISHED[dataset]())
    for other in DATASETS:
        if other != dataset:
            with pytest.raises(ValueError, match=f"holds the files of {dataset}, not of {other}; run: .*convert {dataset} --source"):
                convert(other, source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name not in ("lastfm", "ml-100k")])
def test_the_plugin_s_yaml_reads_what_was_converted(tmp_path, monkeypatch, dataset):
    """Rows and titles under the dataset's own settings; lastfm has too few rows here, ml-100k is read from RecBole's package."""
    convert(dataset, write(tmp_path / "raw", PUBLISHED[dataset]()), tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    settings = {"data_path": str(tmp_path / "data"), "n_candidates": 2, "checkpoint_dir": str(tmp_path / "saved")}
    config = LLMConfig("SASRec", dataset, config_dict=settings)
    assert config["threshold"] is None and config["prompt_words"] is not None
    sets = candidate_sets(config)
    assert len(sets.test) == 6 and len(sets.catalogue) in (6, 8)


@pytest.mark.parametrize("dataset", ["ml-1m", "ml-25m", "goodreads", "amazon-2023-Video_Games"])
def test_labels_of_click_prediction_are_the_dataset_s(dataset):
    wanted = {"ml-25m": 3.5}.get(dataset, 4)
    assert LLMConfig("RecLoRA", dataset, config_dict={"protocol": "ctr"})["threshold"] == {"rating": wanted}
    assert LLMConfig("RecLoRA", dataset)["threshold"] is None
    assert LLMConfig("RecLoRA", dataset, config_dict={"threshold": {"rating": 2}})["threshold"] == {"rating": 2}


def test_a_category_has_its_own_words():
    words = {name: LLMConfig("LLaRA", f"amazon-2023-{name}")["prompt_words"]["items"] for name in ("Books", "Software")}
    assert words == {"Books": "books", "Software": "products"}


def test_a_wrong_name_says_which_was_meant(tmp_path, capsys):
    for name, meant in (("ml1m", "ml-1m"), ("llara", "lastfm-llara"), ("amazon-2023-books", "amazon-2023-Books"), ("LASTFM", "lastfm")):
        assert main([name, "--source", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert f"no converter for {name!r}; did you mean" in error and meant in error and "Available: amazon-2023," in error
    assert main(["zzz", "--source", str(tmp_path)]) == 1
    assert "no converter for 'zzz'. Available" in capsys.readouterr().err


def test_missing_files_are_named_with_their_place(tmp_path, capsys):
    files = PUBLISHED["ml-1m"]()
    del files["movies.dat"], files["users.dat"]
    assert main(["ml-1m", "--source", str(write(tmp_path / "raw", files)), "--target", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "lacks movies.dat, users.dat (it holds ratings.dat). They are published at https://grouplens.org/datasets" in error
    assert "python -m recbole_llm.data.convert ml-1m --source DIR" in error
    assert main(["ml-1m", "--source", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist; give the folder or archive" in capsys.readouterr().err


def test_a_folder_of_two_releases_is_refused(tmp_path):
    for name in ("ml-20m", "ml-25m"):
        zipped(tmp_path / f"{name}.zip", PUBLISHED[name](), inside=f"{name}/")
    with pytest.raises(ValueError, match="holds README.txt more than once: .*ml-20m.zip:ml-20m/README.txt.*Give --source the one"):
        convert("ml-25m", tmp_path, tmp_path / "data")
    assert convert("ml-25m", tmp_path / "ml-25m.zip", tmp_path / "data").is_dir()


@pytest.mark.parametrize("dataset", ["ml-1m", "amazon-2023-Video_Games", "steam"])
def test_items_without_a_title_are_counted_and_kept(tmp_path, dataset, capsys):
    folder = convert(dataset, write(tmp_path / "raw", PUBLISHED[dataset]()), tmp_path / "data")
    titles = dict(line.split("\t")[:2] for line in (folder / f"{dataset}.item").read_text().splitlines()[1:])
    shown = capsys.readouterr().out
    if dataset == "ml-1m":
        assert len(titles) == 8 and all(titles.values()) and "no title" not in shown
    else:
        lost = "B008" if dataset.startswith("amazon") else "80"
        assert titles[lost] == "" and sum(map(bool, titles.values())) == 7
        assert f"note: 1 of 8 items have no title, prompts name them by their id: {lost}" in shown


def test_titles_of_another_release_are_refused(tmp_path):
    files = PUBLISHED["amazon-2023-Video_Games"]()
    files["meta_Video_Games.jsonl.gz"] = '{"parent_asin": "X1", "title": "Other"}\n'
    with pytest.raises(ValueError, match="none of the 8 items has a title: .* is 'B001', one of the titles 'X1'"):
        convert("amazon-2023-Video_Games", write(tmp_path / "raw", files), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_command_runs_as_documented(tmp_path):
    source = write(tmp_path / "raw", PUBLISHED["lastfm"]())
    command = [sys.executable, "-m", "recbole_llm.data.convert", "lastfm", "--source", str(source), "--target", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and f"wrote {tmp_path / 'd/lastfm'}; use it with --data_path={tmp_path / 'd'} --dataset=lastfm" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "holds files already; pass --force" in again.stderr and "Traceback" not in again.stderr
    shutil.rmtree(source)
    assert main(command[3:] + ["--force"]) == 1
    assert (tmp_path / "d/lastfm/lastfm.inter").is_file()
