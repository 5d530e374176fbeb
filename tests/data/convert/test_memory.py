"""Conversion streams: its memory does not grow with the file."""

import subprocess
import sys

import numpy as np
import pytest

ROWS = 3_000_000
MOST = 64  # MiB above the same conversion of a thousand rows; the file's rows alone have 75, as Python strings 250
HEADERS = {"ml-25m": "userId,movieId,rating,timestamp\n", "amazon-2023-Books": "user_id,parent_asin,rating,timestamp\n"}

CONVERT = """
import resource, sys
from recbole_llm.data.convert.convert import convert
convert(*sys.argv[1:4])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_ratings(path, header: str, n_rows: int) -> None:
    """`n_rows` rows of 5,000 items, written a million at a time."""
    rng = np.random.default_rng(0)
    words = header.startswith("user_id")
    rows = np.array([f"{'AE' * words}{i},{'B0' * words}{i % 5000},{1 + i % 5}.0,{1_147_880_044 + i}\n" for i in rng.integers(1, 10**6, 1000)])
    block = "".join(rows.tolist()) * 1000
    with open(path, "w") as file:
        file.write(header)
        for _ in range(n_rows // 1_000_000):
            file.write(block)
        file.write("".join(rows[: n_rows % 1_000_000].tolist()))


def peak(tmp_path, dataset: str, n_rows: int) -> int:
    """MiB of a process that converts a file of `n_rows` rows."""
    source = tmp_path / f"raw{n_rows}"
    source.mkdir()
    if dataset == "ml-25m":
        write_ratings(source / "ratings.csv", HEADERS[dataset], n_rows)
        (source / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{i},Title {i},Drama\n" for i in range(5000)))
    else:
        write_ratings(source / "Books.csv", HEADERS[dataset], n_rows)
        (source / "meta_Books.jsonl").write_text("".join(f'{{"parent_asin": "B0{i}", "title": "Title {i}"}}\n' for i in range(5000)))
    command = [sys.executable, "-c", CONVERT, dataset, str(source), str(tmp_path / f"data{n_rows}")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{dataset}.inter: {n_rows:,} rows" in done.stdout
    for file in source.iterdir():
        file.unlink()
    (tmp_path / f"data{n_rows}/{dataset}/{dataset}.inter").unlink()
    return int(done.stdout.rpartition("peak ")[2])


@pytest.mark.parametrize("dataset", ["ml-25m", pytest.param("amazon-2023-Books", marks=pytest.mark.slow)])
def test_three_million_rows_need_no_more_memory_than_a_thousand(tmp_path, dataset):
    pytest.importorskip("resource")
    small, large = peak(tmp_path, dataset, 1000), peak(tmp_path, dataset, ROWS)
    assert large < small + MOST, f"{large} MiB for {ROWS:,} rows, {small} MiB for 1,000"
    assert large < 4096
