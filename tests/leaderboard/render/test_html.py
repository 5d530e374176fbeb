"""The page in a real browser: it opens without a console error or a request, sorts, and shows every row."""

import json
import os
import re
import shutil
import subprocess
from html import escape

import numpy as np
import pytest

from recbole_llm.leaderboard.board import Options, build_board
from recbole_llm.leaderboard.published import published
from recbole_llm.leaderboard.render.html import _lead, render_page
from tests.leaderboard import fake

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update "
    "--disable-sync --enable-logging=stderr --v=0 --virtual-time-budget=15000"
).split()
PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const out = {ready: document.documentElement.dataset.ready, errors: window.problems, rows: [], sorted: [], back:
  [], requests: []};
  const lines = () => Array.from(document.querySelectorAll("table.board tbody tr"));
  const names = () => lines().map(r => r.cells[1].querySelector("b").textContent);
  out.rows = names();
  const heads = Array.from(document.querySelectorAll("table.board th"));
  const at = text => heads.find(h => h.textContent.trim() === text);
  at("model").querySelector("button").click(); out.sorted = names();
  at("hit@1").querySelector("button").click(); out.back = names(); out.aria = at("hit@1").getAttribute("aria-sort");
  at("hit@1").querySelector("button").click(); out.up = names();
  const grouped = document.querySelector("input[name=group]");
  grouped.click(); out.grouped = lines().map(r => r.dataset.model);
  grouped.click(); out.ungrouped = names();
  const search = document.querySelector("input[type=search]");
  const shown = text => {
    search.value = text; search.dispatchEvent(new Event("input")); return lines().filter(r => !r.hidden).map(r => r.dataset.model || "");
  };
  out.found = shown("BPR b"); out.none = shown("no such"); out.all = shown("");
  out.legend = Array.from(document.querySelectorAll(".legend dt")).map(e => e.textContent);
  out.heads = heads.map(h => h.textContent.trim());
  out.lead = document.querySelector(".lead").textContent.replace(/\\s+/g, " ");
  out.drawn = document.querySelectorAll(".plot .main-svg").length;
  out.figures = document.querySelectorAll(".plot").length;
  out.overflow = document.documentElement.scrollWidth - window.innerWidth;
  out.ink = getComputedStyle(document.body).color; out.paper = getComputedStyle(document.body).backgroundColor;
  const asked = performance.getEntriesByType("resource").map(e => e.name);
  out.requests = asked.filter(n => !n.startsWith("data:") && !n.startsWith("blob:"));
  const pre = document.createElement("pre");
  pre.id = "probe"; pre.textContent = JSON.stringify(out); document.body.append(pre);
}, 1500));
</script>
"""
WATCH = '<script>window.problems = []; addEventListener("error", e => problems.push(String(e.message)));</script>'


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing; CI installs it: apt-get install -y chromium")
        pytest.skip("chromium is not installed")
    return found


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    fake.write_table(folder, n=200, seeds=(1, 2))
    for seed in (1, 2):
        ranks = fake.ranks(np.random.default_rng(seed), 200, 1.1)
        fake.write_run(folder, "BPR@</script><b>", ranks, seed, dataset="ml-100k")
    failure = {
        "schema": 1,
        "name": "FPMC@<b>",
        "model": "FPMC",
        "dataset": "ml-100k",
        "protocol": "candidates",
        "seed": 9,
        "reason": "ValueError: </script><script>problems.push('injected')</script>",
    }
    (folder / "ml-100k.candidates.FPMC.seed9.failed.json").write_text(json.dumps(failure))
    return build_board(folder, "ml-100k", "candidates", Options(resamples=100))


def look(chromium, page, tmp_path, *flags):
    """What the probe saw, and the browser's console."""
    file = tmp_path / "page.html"
    file.write_text(page.replace("<head>", "<head>" + WATCH, 1).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [chromium, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    text = found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text), console


def test_it_opens_without_errors_sorts_and_shows_every_row(chromium, board, tmp_path):
    seen, console = look(chromium, render_page([board]), tmp_path, "--window-size=1400,1000")
    names = [row["name"] for row in board["rows"]]
    assert seen["ready"] == "yes" and seen["errors"] == [] and console == [] and seen["requests"] == []
    assert seen["rows"] == [*names, "FPMC@<b>"]
    assert seen["sorted"] == [*sorted(names, key=str.lower), "FPMC@<b>"]
    means = {row["name"]: row["metrics"]["hit@1"]["mean"] for row in board["rows"]}
    assert [means[name] for name in seen["back"][:-1]] == sorted(means.values(), reverse=True) and seen[
        "aria"
    ] == "descending"
    assert [means[name] for name in seen["up"][:-1]] == sorted(means.values()) and seen["up"][-1] == "FPMC@<b>"
    assert seen["figures"] == 5 and seen["drawn"] >= 5
    models = seen["grouped"]
    assert len(set(models)) < len(models)
    assert all(models.index(m) + models.count(m) > i for i, m in enumerate(models)), "rows of one model stand together"
    assert seen["ungrouped"] == seen["up"]
    assert set(seen["found"]) == {"BPR"} and seen["none"] == [] and len(seen["all"]) == len(names) + 1
    assert seen["legend"] == seen["heads"]
    first = board["rows"][0]
    assert seen["lead"].startswith(first["name"]) and f"{first['metrics']['hit@1']['mean']:.4f}" in seen["lead"]


def test_what_ties_with_the_first_row_is_named(board):
    tied = {**board, "rows": [row | {"rank": 1 if i < 2 else row["rank"]} for i, row in enumerate(board["rows"])]}
    lead = _lead(tied)
    assert lead["tied"] == [board["rows"][1]["name"]] and _lead(board)["second"] == board["rows"][1]["name"]
    means = [row["metrics"]["hit@1"]["mean"] for row in board["rows"][:2]]
    assert lead["margin"] == pytest.approx(abs(means[0] - means[1])) and lead["word"] == ("above" if means[0] >= means[1] else "below")
    assert "is not told apart from" in render_page([tied]) and _lead({**board, "rows": []}) is None


def test_it_is_readable_on_a_phone_and_follows_the_dark_scheme(chromium, board, tmp_path):
    dark, _ = look(
        chromium, render_page([board]), tmp_path, "--window-size=500,900", "--blink-settings=preferredColorScheme=0"
    )
    assert dark["overflow"] <= 0  # the table scrolls in its own box, the page does not
    assert dark["paper"] == "rgb(13, 17, 23)" and dark["errors"] == []


def test_at_a_real_width_of_390_the_page_does_not_scroll_sideways(chromium, board, tmp_path):
    """In a frame, since Chromium makes no window below 500; with published numbers, whose table is wide."""
    (tmp_path / "inner.html").write_text(render_page([{**board, "published": published("ml-100k", "candidates")}]), encoding="utf-8")
    frame = '<html><head></head><body><iframe id="frame" src="inner.html" style="width:390px;height:900px;border:0"></iframe>'
    script = "<script>setTimeout(() => { const root = document.getElementById('frame').contentDocument.documentElement;" \
             " document.body.append('width ' + (root.scrollWidth - root.clientWidth) + ' of ' + root.clientWidth + ' px') }, 4000)</script>"
    (tmp_path / "outer.html").write_text(frame + script + "</body></html>", encoding="utf-8")
    flags = [*FLAGS, "--allow-file-access-from-files", "--window-size=600,1000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([chromium, *flags, "--dump-dom", (tmp_path / "outer.html").as_uri()], capture_output=True, text=True, timeout=240)
    over, inner = re.search(r"width (-?\d+) of (\d+) px", done.stdout.rpartition("</script>")[2]).groups()
    assert int(over) <= 0 and 300 < int(inner) <= 390


def test_the_page_asks_nothing_of_the_network_and_escapes_what_it_shows(board):
    page = render_page([board])
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert (
        not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", outside)
        and "@import" not in outside
        and "url(" not in outside
    )
    assert "problems.push('injected')</script>" not in page and "&lt;/script&gt;" in outside
    assert all(row["config_sha256"] in page and escape(row["name"]) in outside for row in board["rows"])
    assert "</script><b>" not in page
    assert outside.index("not our protocol") > outside.index("Configuration and candidates")
