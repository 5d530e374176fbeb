"""The page's figures as plain plotly dictionaries; colours by role, so that the page can follow light and dark.

A figure is ``{"id", "title", "note", "views": [{"name", "data", "layout"}]}``; several views are chosen from a list.
"""

from __future__ import annotations

COLOURS = ("#4269d0", "#e8a202", "#ff725c", "#35b8a0", "#3ca951", "#f0699b", "#a463f2", "#8a8f98")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
_PLACES = ("top center", "bottom center", "middle right")  # labels of like rows do not cover each other
COSTS = (
    ("latency_p50_ms", "latency at batch 1, p50 (ms)"),
    ("seconds_train", "training (s)"),
    ("trainable_parameters", "trainable parameters"),
    ("peak_memory_mb", "peak memory (MB)"),
)


def figures(board: dict, number: int) -> list[dict]:
    """All figures of a board that its rows have data for."""
    if not board["rows"]:
        return []
    made = [
        _intervals(board),
        _cost(board),
        _bias(board, "position"),
        _bias(board, "popularity"),
        _bias(board, "history"),
    ]
    kept = [figure for figure in made if figure]
    return [figure | {"id": f"plot-{number}-{i}"} for i, figure in enumerate(kept)]


def _role(row: dict) -> str:
    return "llm" if row["llm"] else "classic"


def _groups(rows: list[dict]):
    for role, name in (("llm", "LLM recommenders"), ("classic", "RecBole's models")):
        chosen = [row for row in rows if _role(row) == role]
        if chosen:
            yield role, name, chosen


def _intervals(board: dict) -> dict:
    """Mean and 95% interval per row, best on top; one view per metric."""
    views = []
    for metric in board["metrics"]:
        rows = [row for row in board["rows"] if row["metrics"][metric]["mean"] is not None]
        data = []
        for role, name, chosen in _groups(rows):
            cells = [row["metrics"][metric] for row in chosen]
            mean = [cell["mean"] for cell in cells]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "role": role,
                    "x": mean,
                    "y": [row["name"] for row in chosen],
                    "marker": {"size": 9, "symbol": "circle" if role == "llm" else "square"},
                    "error_x": {
                        "type": "data",
                        "symmetric": False,
                        "thickness": 2,
                        "array": [c["high"] - m for c, m in zip(cells, mean, strict=True)],
                        "arrayminus": [m - c["low"] for c, m in zip(cells, mean, strict=True)],
                    },
                    "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
                }
            )
        layout = {
            "height": 90 + 30 * len(rows),
            "xaxis": {"title": {"text": metric}},
            "yaxis": {"categoryorder": "array", "categoryarray": [row["name"] for row in rows][::-1]},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
        views.append({"name": metric, "data": data, "layout": layout})
    views.sort(key=lambda view: view["name"] != board["main"])
    note = "Mean over seeds, 95% interval over users. Rows whose intervals overlap may differ: the tests are paired."
    return {"title": "Intervals", "note": note, "views": views}


def _cost(board: dict) -> dict | None:
    """Quality against cost, cost on a log axis."""
    views = []
    for cost, title in COSTS:
        rows = [
            row for row in board["rows"] if row["cost"].get(cost) and row["metrics"][board["main"]]["mean"] is not None
        ]
        if not rows:
            continue
        data = []
        for role, name, chosen in _groups(rows):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": name,
                    "role": role,
                    "x": [row["cost"][cost] for row in chosen],
                    "y": [row["metrics"][board["main"]]["mean"] for row in chosen],
                    "text": [row["name"] for row in chosen],
                    "textposition": [_PLACES[i % len(_PLACES)] for i in range(len(chosen))],
                    "textfont": {"size": 11},
                    "cliponaxis": False,
                    "marker": {"size": 10, "symbol": "circle" if role == "llm" else "square"},
                    "hovertemplate": "%{text}: %{y:.4f} at %{x:.3~s}<extra></extra>",
                }
            )
        layout = {
            "height": 380,
            "xaxis": {"type": "log", "title": {"text": title}, "nticks": 6},
            "yaxis": {"title": {"text": board["main"]}},
            "legend": {"orientation": "h", "y": 1.08, "yanchor": "bottom", "x": 0},
            "margin": {"l": 10, "r": 40, "t": 20, "b": 10},
        }
        views.append({"name": title, "data": data, "layout": layout})
    note = "Up is better, left is cheaper (log scale)."
    return {"title": f"{board['main']} against cost", "note": note, "views": views} if views else None


_BIAS = {
    "position": (
        "Hit@1 by target position",
        "An unbiased model is flat: the target's position is uniform, whoever is asked.",
        "position of the target",
    ),
    "popularity": (
        "Hit@1 by target popularity",
        "Head, middle and tail items each hold a third of the training interactions.",
        "popularity",
    ),
    "history": (
        "Hit@1 by history length",
        "Thirds of the test users, by how many other items they know.",
        "items in the user's history",
    ),
}


def _bias(board: dict, kind: str) -> dict | None:
    rows = [row for row in board["rows"] if (row["checks"] or {}).get(kind) and (row["llm"] or kind != "position")]
    if not rows:
        return None
    title, note, axis = _BIAS[kind]
    data = []
    for i, row in enumerate(rows[: len(COLOURS) * 2]):
        found = row["checks"][kind]
        p = found["p_flat"]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": row["name"],
                "x": found["groups"],
                "y": found["hit@1"],
                "line": {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % 4], "width": 2},
                "marker": {"size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)], "color": COLOURS[i % len(COLOURS)]},
                "hovertemplate": f"{row['name']}, %{{x}}: %{{y:.3f}}"
                + (f" (p flat {p:.3f})" if p is not None else "")
                + "<extra></extra>",
            }
        )
    layout = {
        "height": 340,
        "xaxis": {"type": "category", "title": {"text": axis}},
        "yaxis": {"title": {"text": "Hit@1"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": -0.28, "yanchor": "top", "x": 0},
        "showlegend": True,
    }
    return {"title": title, "note": note, "views": [{"name": kind, "data": data, "layout": layout}]}
