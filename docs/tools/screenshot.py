"""README's picture of a leaderboard page: `python -m docs.tools.screenshot RESULTS` writes docs/assets/leaderboard.png by Chromium."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "assets" / "leaderboard.png"
LARGEST = 300_000  # bytes


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.tools.screenshot", description=__doc__)
    parser.add_argument("results", type=Path, help="folder of result files; its page is made anew")
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--size", default="1280,760", help="of the window, pixels")
    options = parser.parse_args(arguments)
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        parser.error("chromium is missing: apt-get install chromium")
    subprocess.run([sys.executable, "-m", "recbole_llm", "report", str(options.results)], check=True, stdout=subprocess.DEVNULL)
    (page,) = options.results.glob("*.leaderboard.html")
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=8000".split()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        command = [browser, *flags, f"--user-data-dir={folder}/profile", f"--window-size={options.size}", f"--screenshot={shot}"]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True, timeout=240)
        if shot.stat().st_size > LARGEST:
            parser.error(f"the picture has {shot.stat().st_size:,} bytes, more than {LARGEST:,}; give a smaller --size")
        options.target.write_bytes(shot.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
