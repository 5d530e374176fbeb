"""python -m benchmarks.readme [FOLDER]: write README's result table from the ml-100k result files in a folder (results/).

Every figure between the markers comes from those files; Hit@1 carries its 95% Wilson interval over the test rows.
"""

import sys
from pathlib import Path

from statsmodels.stats.proportion import proportion_confint

from recbole_llm.result import read_result

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
HEAD = "| model | Hit@1 (95% interval) | Hit@5 | NDCG@10 | trained weights | CRM + train + evaluate, s |\n|---|---|---|---|---|---|"


def line(record: dict) -> str:
    """One row of the table."""
    metrics, n = record["metrics"], record["n_rows"]
    low, high = proportion_confint(round(metrics["hit@1"] * n), n, method="wilson")
    llm = record["llm"]
    weights = f"{llm['trainable_parameters']:,}" if llm else "-"
    seconds = " + ".join(f"{record['seconds'][part]:.0f}" for part in ("crm", "train", "evaluate"))
    name = record.get("variant") or record["model"]
    return (
        f"| {name} | {metrics['hit@1']:.3f} ({low:.3f} - {high:.3f}) | {metrics['hit@5']:.3f} | {metrics['ndcg@10']:.3f} "
        f"| {weights} | {seconds} |"
    )


def table(records: list[dict]) -> str:
    """Markdown of one dataset's records, best Hit@1 first.

    Raises:
        ValueError: the records were not measured on the same candidates.
    """
    if len({record["candidates"]["sha256"] for record in records}) > 1:
        raise ValueError("the result files hold different candidate sets; keep one set in the folder")
    first = records[0]
    records = sorted(records, key=lambda record: -record["metrics"]["hit@1"])
    seeds = sorted({record["seed"] for record in records})
    caption = (
        f"{first['dataset']}, {first['candidates']['count']} candidates (sha256 {first['candidates']['sha256'][:12]}), "
        f"{first['n_rows']} test users, seed {', '.join(map(str, seeds))}; {first['device']}; chance is "
        f"{1 / first['candidates']['count']:.3f}; commit {first['commit'][:7]}. Written by `python -m benchmarks.readme`."
    )
    return "\n".join([caption, "", HEAD, *map(line, records)])


def main(folder: str | None = None) -> None:
    """Replace what stands between README's markers."""
    files = sorted(Path(folder or "results").glob("ml-100k.candidates.*.seed*.json"))
    if not files:
        raise FileNotFoundError(f"no ml-100k result file in {folder or 'results'}; run run_recbole_llm.py first")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table([read_result(file) for file in files])}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
