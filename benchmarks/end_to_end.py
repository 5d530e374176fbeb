"""python -m benchmarks.end_to_end [--key=value ...]: seconds and memory of the README's command, CRM included.

A fresh process in an empty folder, so that nothing is cached; figures come from its result file and the process itself.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recbole_llm.results.result_file import read_result


def main(arguments: list[str]) -> dict:
    """Print and return the parts of one run's wall time, and its peak memory."""
    script = Path(__file__).resolve().parent.parent / "run_recbole_llm.py"
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, str(script), "--model=iLoRA", "--dataset=ml-100k", "--show_progress=False", *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        record = read_result(next(Path(folder, "results").glob("*.json")))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in record["seconds"].items())
    print(f"{record['model']} on {record['dataset']}: {seconds:.0f} s in all ({parts}); peak {peak:,.0f} MB; {record['device']}")
    print(f"hit@1 {record['metrics']['hit@1']:.4f}, ndcg@10 {record['metrics']['ndcg@10']:.4f} on {record['n_rows']} rows")
    return {"seconds": seconds, "parts": record["seconds"], "peak_memory_mb": peak}


if __name__ == "__main__":
    main(sys.argv[1:])
