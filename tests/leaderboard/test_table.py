"""Which numbers of two rows are compared."""

import numpy as np
import pytest
from scipy import stats

from recbole_llm.leaderboard.board import Options, build_board
from tests.leaderboard import fake


def test_rows_with_other_seeds_are_compared_on_the_seeds_they_share(tmp_path):
    """The first seed's exam result is the reference's best by far: against its mean, a row of that seed would look good."""
    rng = np.random.default_rng(0)
    right = np.zeros((3, 400), dtype=bool)
    right[0, :280], right[1, :120], right[2, :80] = True, True, True
    for seed, hits in zip((2020, 2021, 2022), right, strict=True):
        fake.write_run(tmp_path, "SASRec", np.where(hits, 1, 3), seed)
        fake.write_run(tmp_path, "GRU4Rec", np.where(hits[::-1], 1, 4), seed)
    own = right[0].copy()
    own[:60], own[300:320] = False, True  # 60 lost, 20 won
    fake.write_run(tmp_path, "LLaRA", np.where(own, 1, 2), 2020, llm=True)
    fake.write_run(tmp_path, "iLoRA", fake.ranks(rng, 400, 1.0), 2023, llm=True)  # shares no seed with any
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=500, reference="SASRec"))
    row = {row["name"]: row for row in board["rows"]}
    assert row["LLaRA"]["metrics"]["hit@1"]["mean"] == 0.6 > row["SASRec"]["metrics"]["hit@1"]["mean"] == 0.4
    test = row["LLaRA"]["vs_reference"]["hit@1"]
    assert test["difference"] == pytest.approx(-0.1) and test["test"] == "mcnemar"
    assert test["p"] == pytest.approx(2 * stats.binom.cdf(20, 80, 0.5))
    assert row["LLaRA"]["users_against_reference"] == {"wins": 20, "ties": 320, "losses": 60}
    assert row["LLaRA"]["rank"] > row["SASRec"]["rank"]
    assert row["GRU4Rec"]["vs_reference"]["hit@1"]["test"] == "bootstrap"  # three seeds each
    assert row["iLoRA"]["vs_reference"]["hit@1"]["difference"] == pytest.approx(row["iLoRA"]["metrics"]["hit@1"]["mean"] - 0.4)
    assert "Two rows are compared on the seeds that both have" in " ".join(board["warnings"])
