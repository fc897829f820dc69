"""Places a graph in layers, top to bottom, so that few edges cross: Sugiyama's method, in its plain form.

1. An edge that closes a circle is turned round for the layout. 2. A node's layer is the longest way to it.
3. An edge over several layers gets a bend in each, so that it passes between nodes. 4. Layers are put in the
order of their neighbours' mean place, forth and back some times. Each step goes by the order of its input,
so the same graph is placed the same way everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ops.topology.graph import Graph, Node

Point = tuple[float, float]

_SWEEPS: Final = 8
_GAP_X, _GAP_Y, _BEND_WIDTH, _MARGIN = 26.0, 44.0, 14.0, 24.0
_TITLE, _NOTE, _PAD_X, _PAD_Y = 7.4, 6.3, 14.0, 9.0  # width of a letter; room within a box
LINE_HEIGHT: Final = 17.0


@dataclass(frozen=True, slots=True)
class Box:
    """Where a node stands: left, top, width, height, in pixels."""

    node: Node
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes in the order of the graph's nodes, and each edge as points from its start to its end."""

    boxes: tuple[Box, ...]
    lines: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def place(graph: Graph) -> Drawing:
    """Place the nodes of a graph, and lay its edges."""
    if not graph.nodes:
        return Drawing((), (), 2 * _MARGIN, 2 * _MARGIN)
    turned = _back_edges(graph)
    forward = [(b, a) if (a, b) in turned else (a, b) for a, b in graph.edges]
    layer = _layers(graph, forward)
    chains = [_bent(number, edge, layer) for number, edge in enumerate(forward)]
    order = _ordered(layer, chains)
    sizes = {node.key: _size(node) for node in graph.nodes}
    at, width, height = _coordinates(order, sizes)
    boxes = tuple(Box(node, *at[node.key], *sizes[node.key]) for node in graph.nodes)
    lines = []
    for edge, chain in zip(graph.edges, chains, strict=True):
        points = _points(chain, at, sizes)
        lines.append(tuple(reversed(points)) if edge in turned else tuple(points))
    return Drawing(boxes, tuple(lines), width, height)


def _back_edges(graph: Graph) -> set[tuple[str, str]]:
    """Return the edges that lead back to where the walk came from; without them there is no circle."""
    after: dict[str, list[str]] = defaultdict(list)
    for a, b in graph.edges:
        after[a].append(b)
    entered = {b for _, b in graph.edges}
    done: set[str] = set()
    turned: set[tuple[str, str]] = set()
    roots = [node.key for node in graph.nodes if node.key not in entered]
    for root in (*roots, *(node.key for node in graph.nodes)):
        path: dict[str, None] = {}
        stack = [(root, iter(after[root]))] if root not in done else []
        if stack:
            path[root] = None
        while stack:
            key, rest = stack[-1]
            step = next((one for one in rest if one not in done), None)
            if step is None:
                stack.pop()
                path.pop(key, None)
                done.add(key)
            elif step in path:
                turned.add((key, step))
            else:
                path[step] = None
                stack.append((step, iter(after[step])))
    return turned


def _layers(graph: Graph, edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    layer = {node.key: 0 for node in graph.nodes}
    for _ in graph.nodes:  # as often as the longest way can be
        moved = False
        for a, b in edges:
            if layer[b] <= layer[a]:
                layer[b], moved = layer[a] + 1, True
        if not moved:
            break
    return layer


def _bent(number: int, edge: tuple[str, str], layer: dict[str, int]) -> list[str]:
    """Return the edge as a chain with a bend in each layer that it passes; the bends get their layers."""
    start, end = edge
    bends = []
    for at in range(layer[start] + 1, layer[end]):
        bends.append(bend := f"bend {number} {at}")
        layer[bend] = at
    return [start, *bends, end]


def _ordered(layer: Mapping[str, int], chains: Sequence[Sequence[str]]) -> list[list[str]]:
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for key, number in layer.items():
        rows[number].append(key)
    before: dict[str, list[str]] = defaultdict(list)
    after: dict[str, list[str]] = defaultdict(list)
    for chain in chains:
        for a, b in pairwise(chain):
            after[a].append(b)
            before[b].append(a)
    best, fewest = [list(row) for row in rows], _crossings(rows, after)
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        for row in rows[1:] if forth else reversed(rows[:-1]):
            _sort(row, before if forth else after, rows)
        if (crossings := _crossings(rows, after)) < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _sort(row: list[str], neighbours: Mapping[str, Sequence[str]], rows: Sequence[Sequence[str]]) -> None:
    place = {key: number / max(len(other), 1) for other in rows for number, key in enumerate(other)}
    mean = {
        key: sum(place[one] for one in near) / len(near) if (near := neighbours.get(key)) else place[key]
        for key in row
    }
    row.sort(key=mean.__getitem__)


def _crossings(rows: Sequence[Sequence[str]], after: Mapping[str, Sequence[str]]) -> int:
    count = 0
    for row, following in pairwise(rows):
        place = {key: number for number, key in enumerate(following)}
        ends = [place[one] for key in row for one in sorted(after.get(key, ()), key=place.__getitem__)]
        count += sum(a > b for number, b in enumerate(ends) for a in ends[:number])
    return count


def _size(node: Node) -> tuple[float, float]:
    letters = max([len(node.title) * _TITLE, *(len(note) * _NOTE for note in node.notes)])
    return round(letters + 2 * _PAD_X, 1), (1 + len(node.notes)) * LINE_HEIGHT + 2 * _PAD_Y


def _coordinates(
    rows: Sequence[Sequence[str]], sizes: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, Point], float, float]:
    """Return each box's left and top (a bend's: its middle), and the size of all; rows are centred."""
    widths = [
        sum(sizes[key][0] if key in sizes else _BEND_WIDTH for key in row) + _GAP_X * (len(row) - 1)
        for row in rows
    ]
    width = max(widths) + 2 * _MARGIN
    at: dict[str, Point] = {}
    y = _MARGIN
    for row, taken in zip(rows, widths, strict=True):
        height = max((sizes[key][1] for key in row if key in sizes), default=0.0)
        x = (width - taken) / 2
        for key in row:
            if key in sizes:
                at[key] = (round(x, 1), round(y + (height - sizes[key][1]) / 2, 1))
                x += sizes[key][0] + _GAP_X
            else:
                at[key] = (round(x + _BEND_WIDTH / 2, 1), round(y + height / 2, 1))
                x += _BEND_WIDTH + _GAP_X
        y += height + _GAP_Y
    return at, round(width, 1), round(y - _GAP_Y + _MARGIN, 1)


def _points(
    chain: Sequence[str], at: Mapping[str, Point], sizes: Mapping[str, tuple[float, float]]
) -> list[Point]:
    start, *bends, end = chain
    (x, y), (width, height) = at[start], sizes[start]
    (to_x, to_y), (to_width, _) = at[end], sizes[end]
    return [
        (round(x + width / 2, 1), round(y + height, 1)),
        *(at[bend] for bend in bends),
        (round(to_x + to_width / 2, 1), to_y),
    ]
