"""The analyses' figures as plain plotly dictionaries, in the manner of the leaderboards' (`leaderboard.render.plots`)."""

from __future__ import annotations

from recbole_llm.leaderboard.render.plots import COLOURS, DASHES, SYMBOLS

LEGEND = {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0}


def figure(title: str, note: str, data: list[dict], layout: dict) -> dict:
    """One figure with one view."""
    return {"title": title, "note": note, "views": [{"name": title, "data": data, "layout": layout}]}


def _look(i: int) -> dict:
    """Colour, dash and symbol of the i-th series, none told apart by colour alone."""
    colour = COLOURS[i % len(COLOURS)]
    return {
        "line": {"color": colour, "dash": DASHES[i % len(DASHES)], "width": 2},
        "marker": {"size": 8, "symbol": SYMBOLS[i % len(SYMBOLS)], "color": colour},
    }


def curves(title: str, note: str, series: dict[str, list[tuple]], axes: tuple[str, str], log: bool = False, lines=None) -> dict:
    """Lines with 95% intervals: series name -> [(x, y, low, high)], low and high None where there is no interval.

    Args:
        title: of the figure.
        note: a sentence under it.
        series: name -> points.
        axes: names of the axes, x first.
        log: whether x is logarithmic.
        lines: name -> y of horizontal dashed lines, e.g. what the recommender gives alone.
    """
    data, xs = [], sorted({point[0] for points in series.values() for point in points})
    for i, (name, points) in enumerate(series.items()):
        x, y, low, high = (list(column) for column in zip(*sorted(points), strict=True))
        trace = {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, **_look(i),
                 "hovertemplate": f"{name}, %{{x}}: %{{y:.4f}}<extra></extra>"}  # fmt: skip
        if None not in low:
            trace["error_y"] = {
                "type": "data", "symmetric": False, "thickness": 1.5, "color": trace["line"]["color"],
                "array": [h - v for h, v in zip(high, y, strict=True)], "arrayminus": [v - b for v, b in zip(y, low, strict=True)],
            }  # fmt: skip
        data.append(trace)
    for name, value in (lines or {}).items():
        data.append({"type": "scatter", "mode": "lines", "name": f"{name}: {value:.4f}", "x": [xs[0], xs[-1]], "y": [value, value],
                     "line": {"color": COLOURS[-1], "dash": "dash", "width": 2}})  # fmt: skip
    x_axis = {"title": {"text": axes[0]}, "tickvals": xs, "ticktext": [f"{x:g}" for x in xs]}
    layout = {"height": 380, "xaxis": {**x_axis, "type": "log"} if log else x_axis, "yaxis": {"title": {"text": axes[1]}},
              "legend": LEGEND, "showlegend": True}  # fmt: skip
    return figure(title, note, data, layout)


def intervals(title: str, note: str, series: dict[str, list[tuple]], axis: str) -> dict:
    """Points with 95% intervals, a line for each name, first on top: series name -> [(name, value, low, high)]."""
    data = []
    for role, (label, rows) in zip(("llm", "classic"), series.items(), strict=False):
        names, value, low, high = (list(column) for column in zip(*rows, strict=True))
        data.append({
            "type": "scatter", "mode": "markers", "name": label, "role": role, "x": value, "y": names,
            "marker": {"size": 9, "symbol": "circle" if role == "llm" else "square"},
            "error_x": {"type": "data", "symmetric": False, "thickness": 2, "array": [h - v for h, v in zip(high, value, strict=True)],
                        "arrayminus": [v - b for v, b in zip(value, low, strict=True)]},
            "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
        })  # fmt: skip
    names = list(dict.fromkeys(row[0] for rows in series.values() for row in rows))
    layout = {"height": 100 + 34 * len(names), "xaxis": {"title": {"text": axis}}, "showlegend": len(series) > 1,
              "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
              "yaxis": {"categoryorder": "array", "categoryarray": names[::-1]}}  # fmt: skip
    return figure(title, note, data, layout)


def heatmap(title: str, note: str, values: list[list[float]], x: list, y: list, axes: tuple[str, str], bounds: tuple[float, float]) -> dict:
    """Values [len(y), len(x)], first row on top; around zero where the bounds are of both signs."""
    diverging = bounds[0] < 0 < bounds[1]
    trace = {
        "type": "heatmap", "z": values, "x": [str(name) for name in x], "y": [str(name) for name in y], "zmin": bounds[0], "zmax": bounds[1],
        "colorscale": "RdBu" if diverging else "Viridis", "reversescale": diverging, "colorbar": {"thickness": 12, "outlinewidth": 0},
        "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
    }  # fmt: skip
    if len(x) * len(y) <= 200:
        trace |= {"texttemplate": "%{z:.2f}", "textfont": {"size": 10}}
    layout = {"height": max(320, 110 + 18 * len(y)), "xaxis": {"type": "category", "title": {"text": axes[0]}, "showgrid": False},
              "yaxis": {"type": "category", "autorange": "reversed", "title": {"text": axes[1]}, "showgrid": False}}  # fmt: skip
    return figure(title, note, [trace], layout)


def histogram(title: str, note: str, series: dict[str, list[float]], axis: str, mark: tuple[str, float]) -> dict:
    """How values are spread, per series, with a marked value, e.g. the largest there can be."""
    data = [
        {"type": "histogram", "name": name, "x": values, "opacity": 0.75, "nbinsx": 40, "marker": {"color": COLOURS[i % len(COLOURS)]}}
        for i, (name, values) in enumerate(series.items())
    ]
    layout = {
        "height": 320, "barmode": "overlay", "xaxis": {"title": {"text": axis}}, "yaxis": {"title": {"text": "sequences"}},
        "legend": LEGEND, "showlegend": len(series) > 1,
        "shapes": [{"type": "line", "x0": mark[1], "x1": mark[1], "yref": "paper", "y0": 0, "y1": 1,
                    "line": {"color": COLOURS[2], "dash": "dash", "width": 2}}],
        "annotations": [{"x": mark[1], "yref": "paper", "y": 1.02, "yanchor": "bottom", "text": mark[0], "showarrow": False}],
        "margin": {"l": 10, "r": 14, "t": 28, "b": 10},
    }  # fmt: skip
    return figure(title, note, data, layout)
