"""What a board warns of before anyone reads differences into it."""

import json

import numpy as np

from recbole_llm.leaderboard.board import Options, build_board
from tests.leaderboard import fake


def test_seeds_of_other_code_weights_or_packages_are_warned_of_and_stay(tmp_path):
    rng = np.random.default_rng(0)
    for seed in 1, 2:
        path = fake.write_run(tmp_path, "LLaRA", fake.ranks(rng, 50, 1.0), seed, llm=True, code=f"code{seed}")
        record = json.loads(path.read_text())
        record["llm"]["sha256"], record["versions"] = f"weights{seed}", {"python": f"3.{seed}", "torch": f"2.{seed}"}
        path.write_text(json.dumps(record))
        fake.write_run(tmp_path, "BPR", fake.ranks(rng, 50, 1.0), seed, code="code" if seed == 1 else None)
    board = build_board(tmp_path, "made-up", "candidates", Options(resamples=50))
    (warning,) = [one for one in board["warnings"] if "seeds of one row" in one]
    assert warning.endswith("run them again alike: LLaRA (code, LLM weights, torch)")  # BPR's second file does not tell its code
    assert {row["name"]: row["seeds"] for row in board["rows"]} == {"LLaRA": [1, 2], "BPR": [1, 2]} and not board["left_out"]
