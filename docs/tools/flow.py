"""Flowcharts of Mermaid's language as SVG, so that the site needs no script for them: what GitHub draws from the same text.

Understood: `flowchart LR` or `TD`, then lines of nodes joined by `-->` or `-->|label|`; a node is `id` or `id[text]`.
"""

import re
from html import escape

_NODE = re.compile(r"(\w+)(?:\[([^\]]*)\])?")
_ARROW = re.compile(r"\s*-->\s*(?:\|([^|]*)\|)?\s*")
WIDTH, HEIGHT, GAP, ACROSS = 138, 54, 62, 24  # pixels
CHARACTERS, LABEL = 16, 13  # a line of a box, of an arrow


def parse(text: str) -> tuple[str, dict[str, str], list[tuple[str, str, str]]]:
    """(direction, {id: text}, [(from, to, label)]).

    Raises:
        ValueError: a line that is not of this language, with the line.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    head = re.fullmatch(r"flowchart (LR|TD)", lines[0]) if lines else None
    if head is None:
        raise ValueError(f"a picture begins with 'flowchart LR' or 'flowchart TD', not with {lines[:1]}")
    nodes: dict[str, str] = {}
    edges = []
    for line in lines[1:]:
        place, before, label = 0, None, ""
        while True:
            node = _NODE.match(line, place)
            if node is None:
                raise ValueError(f"no node at column {place + 1} of {line!r}")
            nodes[node[1]] = node[2] or nodes.get(node[1], node[1])
            if before is not None:
                edges.append((before, node[1], label))
            arrow = _ARROW.match(line, node.end())
            if arrow is None:
                if line[node.end() :].strip():
                    raise ValueError(f"{line[node.end() :]!r} in {line!r} is neither an arrow nor a node")
                break
            before, label, place = node[1], arrow[1] or "", arrow.end()
    return head[1], nodes, edges


def layers(nodes: dict[str, str], edges: list[tuple[str, str, str]]) -> dict[str, tuple[int, int]]:
    """{id: (layer, place in it)}; a layer is the longest way there.

    Raises:
        ValueError: arrows go round.
    """
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        moved = [(b, depth[a] + 1) for a, b, _ in edges if depth[b] <= depth[a]]
        depth.update(moved)
        if not moved:
            break
    else:
        raise ValueError("arrows go round in a circle")
    count: dict[int, int] = {}
    places = {}
    for node in nodes:
        layer = depth[node]
        places[node] = layer, count.get(layer, 0)
        count[layer] = count.get(layer, 0) + 1
    return places


def svg(text: str) -> str:
    """The picture, inline SVG in the page's own colours.

    Raises:
        ValueError: as `parse` and `layers`, or an arrow would pass through a node that it does not join.
    """
    direction, nodes, edges = parse(text)
    places = layers(nodes, edges)
    wide = direction == "LR"
    deep, most = (1 + max(place[i] for place in places.values()) for i in (0, 1))
    words = max((len(line) for _, _, label in edges for line in _lines(label, LABEL)), default=0)
    gap = max(GAP, 7 * words + 16) if wide else GAP  # room for what is written on an arrow
    step = (WIDTH + gap, HEIGHT + ACROSS) if wide else (WIDTH + ACROSS, HEIGHT + gap)
    columns, rows = (deep, most) if wide else (most, deep)

    if passed := [(a, b, node) for a, b, _ in edges for node in _passed(places, a, b)]:
        raise ValueError("the arrow {} --> {} would pass through {}: give it a node on its way, or another order".format(*passed[0]))

    def centre(node: str) -> tuple[float, float]:
        x, y = places[node] if wide else places[node][::-1]
        return 4 + WIDTH / 2 + x * step[0], 4 + HEIGHT / 2 + y * step[1]

    parts = [_arrow(centre(a), centre(b), label, wide, gap) for a, b, label in edges]
    parts += [_box(*centre(node), label) for node, label in nodes.items()]
    size = columns * step[0] - (step[0] - WIDTH) + 8, rows * step[1] - (step[1] - HEIGHT) + 8
    words = escape(", ".join(nodes.values()), quote=True)
    head = f'<svg class="flow" role="img" aria-label="{words}" viewBox="0 0 {size[0]} {size[1]}" style="max-width: {size[0]}px; min-width: {min(size[0], 560)}px">'
    marker = '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    return f'<div class="flow">{head}{marker}{"".join(parts)}</svg></div>'


def _passed(places: dict[str, tuple[int, int]], a: str, b: str) -> list[str]:
    """Nodes between two others, less than half a box from the straight line that joins them."""
    (first, start), (last, end) = places[a], places[b]
    slope = (end - start) / max(last - first, 1)
    return [node for node, (layer, row) in places.items() if first < layer < last and abs(start + slope * (layer - first) - row) < 0.3]


def _arrow(a: tuple[float, float], b: tuple[float, float], label: str, wide: bool, gap: float) -> str:
    """The line between two boxes; its label stands in the middle of the first gap, also of an arrow that goes on beside other boxes."""
    (x1, y1), (x2, y2) = a, b
    if wide:
        x1, x2 = x1 + WIDTH / 2, x2 - WIDTH / 2
    else:
        y1, y2 = y1 + HEIGHT / 2, y2 - HEIGHT / 2
    line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" marker-end="url(#tip)"/>'
    written = _lines(label, LABEL)
    share = gap / 2 / ((x2 - x1) if wide else (y2 - y1))
    at = x1 + share * (x2 - x1), y1 + share * (y2 - y1) - 12 * len(written) + 3
    words = "".join(f'<tspan x="{at[0]}" y="{at[1] + 12 * i}">{escape(part)}</tspan>' for i, part in enumerate(written))
    return line + (f'<text class="label">{words}</text>' if label else "")


def _box(x: float, y: float, text: str) -> str:
    lines = _lines(text, CHARACTERS)
    top = y - 7.5 * (len(lines) - 1)
    words = "".join(f'<tspan x="{x}" y="{top + 15 * i}">{escape(line)}</tspan>' for i, line in enumerate(lines))
    return f'<rect x="{x - WIDTH / 2}" y="{y - HEIGHT / 2}" width="{WIDTH}" height="{HEIGHT}" rx="6"/><text>{words}</text>'


def _lines(text: str, width: int) -> list[str]:
    """The words in lines of at most ``width`` characters."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, word]
    return [line for line in lines if line]
