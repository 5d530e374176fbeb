"""MovieLens releases from made-up files in the published formats."""

from pathlib import Path

import pytest
import recbole
from recbole.data import create_dataset

from recbole_llm import LLMConfig
from recbole_llm.data.convert.convert import convert
from tests.data.convert.published import PUBLISHED, ml_csv, write, zipped


def text(folder, ending):
    return (folder / f"{folder.name}.{ending}").read_text(encoding="utf-8").splitlines()


def test_ml_100k_is_as_recbole_ships_it(tmp_path):
    """The same columns as RecBole's own files, so that a configuration fits both."""
    folder = convert("ml-100k", write(tmp_path / "raw", PUBLISHED["ml-100k"]()), tmp_path / "data")
    shipped = Path(recbole.__file__).parent / "dataset_example/ml-100k"
    for ending in ("inter", "item", "user"):
        with open(shipped / f"ml-100k.{ending}", encoding="utf-8") as file:
            assert text(folder, ending)[0] == file.readline().rstrip("\n")
    assert text(folder, "inter")[1] == "1\t1\t2\t881250960"
    assert text(folder, "item")[2] == "2\tUsual Suspects, The\t1995\tComedy Sci-Fi"
    assert text(folder, "user")[1] == "1\t21\tM\ttechnician\t85711"


def test_ml_1m_from_its_archive(tmp_path):
    folder = convert("ml-1m", zipped(tmp_path / "ml-1m.zip", PUBLISHED["ml-1m"](), "ml-1m/"), tmp_path / "data")
    assert text(folder, "inter")[:2] == ["user_id:token\titem_id:token\trating:float\ttimestamp:float", "1\t1\t2\t978300771"]
    assert text(folder, "item")[1:5] == [
        "1\tToy Story\t1995\tChildren's Comedy",
        "2\tUsual Suspects, The\t1995\tChildren's Comedy",
        "3\tMisérables, Les\t1995\tChildren's Comedy",
        '4\tWeird "Al",\t1996\tChildren\'s Comedy',
    ]
    assert text(folder, "item")[5:9] == [
        "5\tBabylon 5\t\tChildren's Comedy",
        "6\tunknown\t\tChildren's Comedy",
        "7\tShanghai Triad (Yao a yao)\t1995\tChildren's Comedy",
        "8\tDeath Note (2006-2007)\t\tChildren's Comedy",
    ]
    assert text(folder, "user") == [
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        *(f"{user}\t25\tF\t10\t48067" for user in range(1, 7)),
    ]


@pytest.mark.parametrize("dataset", ["ml-20m", "ml-25m", "ml-32m"])
def test_csv_releases(tmp_path, dataset, capsys):
    folder = convert(dataset, zipped(tmp_path / "a.zip", ml_csv(dataset), f"{dataset}/"), tmp_path / "data")
    assert text(folder, "inter")[1] == "1\t1\t1.0\t1147880055"
    assert text(folder, "item")[4:6] == ['4\tWeird "Al",\t1996\tDrama Sci-Fi', "5\tBabylon 5\t\t"]
    assert not (folder / f"{dataset}.user").exists()
    assert "ratings.csv has 42 ratings, the release " + dataset in capsys.readouterr().out


def test_a_release_without_its_readme_is_known_by_its_movies(tmp_path):
    files = ml_csv("ml-20m")
    del files["README.txt"]
    files["movies.csv"] += "".join(f"{number},Title {number},Drama\n" for number in range(100, 100 + 27_278 - 8))
    with pytest.raises(ValueError, match="holds the files of ml-20m, not of ml-25m"):
        convert("ml-25m", write(tmp_path / "raw", files), tmp_path / "data")
    assert convert("ml-20m", tmp_path / "raw", tmp_path / "data").is_dir()
    with pytest.raises(ValueError, match="holds the files of ml-latest, not of ml-25m; it has no converter here"):
        convert("ml-25m", write(tmp_path / "latest", ml_csv("ml-latest")), tmp_path / "data")


@pytest.mark.parametrize(
    ("dataset", "file", "line", "message"),
    [
        ("ml-1m", "ratings.dat", "1::2::x::4\n", "ratings.dat, line 43: expected user, movie, rating and timestamp separated by '::'"),
        ("ml-25m", "ratings.csv", "1,2,3.5\n", "ratings.csv, line 44: expected .* separated by ',', found '1,2,3.5'"),
        ("ml-100k", "u.data", "1 2 3 4\n", "u.data, line 43: expected"),
        ("ml-1m", "movies.dat", "Toy Story::1::x\n", "movies.dat, row 9: expected id, title and genres"),
        ("ml-1m", "users.dat", "1::F::25\n", "users.dat, line 7: 3 columns, expected 5"),
        ("ml-25m", "movies.csv", "9,caf\xe9,x\n", "movies.csv, line 10: not utf-8 text"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_written(tmp_path, dataset, file, line, message):
    files = PUBLISHED[dataset]()
    old = files[file] if isinstance(files[file], bytes) else files[file].encode()
    files[file] = old + line.encode("latin-1")
    with pytest.raises(ValueError, match=message):
        convert(dataset, write(tmp_path / "raw", files), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_empty_file_is_refused(tmp_path):
    files = PUBLISHED["ml-25m"]() | {"ratings.csv": "userId,movieId,rating,timestamp\r\n"}
    with pytest.raises(ValueError, match="ratings.csv has no rows"):
        convert("ml-25m", write(tmp_path / "raw", files), tmp_path / "data")


@pytest.mark.parametrize(
    "dataset, profile", [("ml-1m", "This user's profile: gender female, occupation K-12 student, age 25-34. "), ("ml-25m", "")]
)
def test_reclora_recipes_show_and_learn_fields_that_the_converters_write(dataset, profile, tmp_path, tiny_llm):
    raw = zipped(tmp_path / "raw.zip", PUBLISHED[dataset](), f"{dataset}/")
    convert(dataset, raw, tmp_path / "data")
    given = {"recipe": "paper", "data_path": str(tmp_path / "data"), "llm_path": str(tiny_llm), "state": "ERROR"}
    dataset = create_dataset(LLMConfig("RecLoRA", dataset, config_dict=given))
    items = dataset.field2token_id["item_id"]
    assert dataset.profiles[dataset.field2token_id["user_id"]["1"]] == profile
    assert (dataset.details[items["1"]], dataset.details[items["6"]]) == (" (year 1995)", " (year unknown)")
    assert "genre" in dataset.item_feat.columns and ("occupation" in dataset.user_feat.columns if profile else dataset.user_feat is None)
