"""A paper's main table on a dataset, baselines included, ours beside the published number.

    python -m recbole_llm.reproduce ilora --dataset=lastfm-llara [--scale=paper|small] [--seeds=3] [--key=value ...]

The rows are `reproduce` of `properties/published.yaml`. `--scale=paper` runs them with the papers' settings (`recipe: paper`, baselines
until validation stops rising); `--scale=small` with the default LLM, a few hundred training prompts and test rows: minutes on two CPU
cores, to see that all of it runs, and no word on the paper. Files go to `<result_dir>/reproduce-<paper>-<scale>/`: the leaderboard, and
`<dataset>.<protocol>.reproduce.<paper>-<hash>.{csv,md,html,json}`.

A published HitRatio@1 has the Wilson interval (95%) of the test set that it was measured on; ours, the share of test rows whose
generated answer names the target, agrees where it lies inside. A published AUC agrees where it lies inside the interval of ours.

Cost: LLaRA's table is three 7B trainings and a zero-shot test besides a few baselines, iLoRA's the same, RecLoRA's two;
`recbole_llm.analysis` says what a training takes.
"""

from __future__ import annotations

import os
import sys
from collections import ChainMap

from recbole_llm.analysis import figures
from recbole_llm.analysis.common import digest
from recbole_llm.analysis.report import Report
from recbole_llm.cli.arguments import parse_command_line, refuse_unread
from recbole_llm.config.properties import properties_dir
from recbole_llm.config.values import ConfigError, read_yaml
from recbole_llm.leaderboard.plan import DEFAULT_SEED, seed_list
from recbole_llm.leaderboard.published import contents, of_dataset
from recbole_llm.leaderboard.run import run_leaderboard
from recbole_llm.leaderboard.statistics import wilson_interval

PROTOCOLS = {"ranking": "candidates", "click": "ctr"}
METRICS = {"ranking": "hit@1", "click": "auc"}
SCALES = {
    "paper": {
        "llm": {"recipe": "paper"},
        "baselines": {"epochs": 200, "stopping_step": 10, "train_batch_size": 256},
    },
    "small": {
        "settings": {"test_sample_size": 200},
        "llm": {"train_sample_size": 400, "valid_sample_size": 50, "epochs": 1, "crm_epochs": 2},
        "baselines": {"epochs": 2, "train_batch_size": 256},
    },
}


def reproduce(paper: str, dataset: str, scale: str = "paper", seeds=None, config_files=None, settings: dict | None = None) -> tuple[Report, str]:
    """Run a paper's table, or reuse what is there; (ours beside the published numbers, the folder of its result files).

    Args:
        paper: ``llara``, ``ilora`` or ``reclora``.
        dataset: a dataset of that paper's table.
        scale: ``paper`` or ``small``.
        seeds: how many, or a list of them.
        config_files: YAML files, under ``settings``.
        settings: over the scale's and the recipe's, not over what a row is named for.

    Raises:
        ConfigError: an unknown paper or scale, a dataset that the paper's table does not have, wrong settings of any row.
    """
    tables = contents()
    if paper not in tables["reproduce"] or scale not in SCALES:
        raise ConfigError([f"reproduce: {paper!r} at scale {scale!r}; there are the papers {', '.join(tables['reproduce'])} and the scales "
                           f"{', '.join(SCALES)}"])  # fmt: skip
    plan = tables["reproduce"][paper]
    found = of_dataset(plan["table"], dataset)
    if found is None:
        names = [name for about in tables[plan["table"]]["datasets"].values() for name in about["names"]]
        raise ConfigError([f"dataset: {paper}'s table has no {dataset}; choose {', '.join(names)}"])
    spec = {group: dict(values) for group, values in SCALES[scale].items()}
    if plan["table"] == "ranking":
        spec["llm"] |= {"llm_eval": "generate", "likelihood_over": "vocabulary"}
    given = dict(settings or {})
    folder = f"reproduce-{paper}-{scale}" + (f"-{digest({k: repr(v) for k, v in given.items()})}" if given else "")
    given["result_dir"] = os.path.join(_result_dir(config_files, given), folder)
    rows = [{key: value for key, value in row.items() if key != "published"} for row in plan["models"]]
    protocol = PROTOCOLS[plan["table"]]
    frame = run_leaderboard(rows, [dataset], [protocol], seeds, config_files, given, spec, metric=METRICS[plan["table"]])
    (board,) = frame.attrs["boards"]
    report = beside(paper, scale, board, plan, tables[plan["table"]], *found)
    report.tell_origin(given["result_dir"])
    return report, given["result_dir"]


def _result_dir(config_files, settings: dict) -> str:
    layers = [properties_dir() / "overall.yaml", *(config_files or ())]
    return ChainMap(settings, *(read_yaml(file) for file in reversed(layers)))["result_dir"]


def beside(paper: str, scale: str, board: dict, plan: dict, table: dict, key: str, about: dict) -> Report:
    """Ours beside the published numbers, from a finished board.

    Args:
        paper: ``llara``, ``ilora`` or ``reclora``.
        scale: ``paper`` or ``small``.
        board: the finished leaderboard.
        plan: the paper's rows in ``published.yaml``.
        table: the published table there.
        key: the dataset's column in it.
        about: what is said of that column.
    """
    click, metric = plan["table"] == "click", METRICS[plan["table"]]
    ours = {row["name"]: row for row in board["rows"]}
    known = {row["model"]: row for row in table["rows"]}
    lines = []
    for entry in plan["models"]:
        other = known.get(entry["published"], {})
        lines.append({"row": entry["name"], **_compared(ours.get(entry["name"]), metric, other.get(key), about["rows"], click),
                      "source": f"{entry['published']}: {other['source']}" if key in other else None})  # fmt: skip
    head = [f"{table['metric']} on {about['title']}, {board['n_rows']:,} test rows of {board['dataset']}. Of {len(lines)} rows "
            f"{sum(line['published'] is not None for line in lines)} have a published figure; ours agrees with it in "
            f"{sum(line['verdict'] == 'agrees' for line in lines)}."]  # fmt: skip
    if about["rows"] is not None:
        head.append(f"Published numbers have the 95% Wilson interval of their {about['rows']:,} test rows; ours agrees where it lies inside. "
                    "Candidates are frozen here, and drawn anew at every evaluation there.")  # fmt: skip
    if scale != "paper":
        head.append("Small scale: another LLM, few training prompts, some of the test rows. It shows that the table can be made, not what the paper's is.")
    shown = {"ours": [(r["row"], r["ours"], r["low"], r["high"]) for r in lines if r["ours"] is not None]}
    if there := [(r["row"], r["published"], r["published_low"], r["published_high"]) for r in lines if r["published"] is not None]:
        shown["published"] = [(name, value, value if low is None else low, value if high is None else high) for name, value, low, high in there]
    drawn = [figures.intervals("Ours and published", head[-1], {k: v for k, v in shown.items() if v}, table["metric"])]
    runs = [name for row in board["rows"] for name in row["files"]]
    return Report("reproduce", board["dataset"], board["protocol"], [paper], head, lines, drawn, runs, {"scale": scale})


def _compared(row: dict | None, metric: str, published: float | None, n: int | None, click: bool) -> dict:
    """One line: ours and its interval, the published value and its, and the verdict."""
    low = high = None
    if published is not None and n is not None:
        low, high = wilson_interval(published * n, n)
    line = {"ours": None, "low": None, "high": None, "valid_ratio": None, "published": published, "published_low": low, "published_high": high}
    if row is None:
        return line | {"verdict": "failed"}
    cell, answers = row["metrics"][metric], row["generation"]
    if answers and not click:
        hits, rows = answers["hit@1_all"], answers["n"]
        own_low, own_high = wilson_interval(hits * rows, rows)
        line |= {"ours": hits, "low": own_low, "high": own_high, "valid_ratio": answers["valid_ratio"]}
    else:
        line |= {"ours": cell["mean"], "low": cell["low"], "high": cell["high"]}
    if published is None:
        return line | {"verdict": "no figure"}
    inside = line["low"] <= published <= line["high"] if click else low <= line["ours"] <= high
    return line | {"verdict": "agrees" if inside else "differs"}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 1 where a row failed, 2 for bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0 if arguments else 2
    try:
        line = parse_command_line(arguments[1:])
        refuse_unread(line, "reproduce", ["seeds"])
        if not line.dataset or line.model:
            raise ConfigError(["reproduce: write PAPER --dataset=NAME; the paper says which models there are"])
        scale = line.options.pop("scale", "paper")
        seeds = seed_list(line.seeds, line.options.get("seed", DEFAULT_SEED)) if line.seeds is not None else None
        report, folder = reproduce(arguments[0].lower(), line.dataset, scale, seeds, line.config_files, line.options)
        files = report.write(folder)
    except (ConfigError, ValueError, FileNotFoundError, FloatingPointError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n" + report.text() + "\nwritten: " + ", ".join(map(str, files)))
    return 1 if any(row["verdict"] == "failed" for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
