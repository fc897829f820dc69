"""A graph as an SVG that stands alone: readable in light and dark, and in words for who cannot see it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from ops.topology.layout import LINE_HEIGHT, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops.topology.graph import Graph
    from ops.topology.layout import Box, Point

_FOOT_HEIGHT: Final = 30.0
_WIDTH_MIN: Final = 560.0
# Hues told apart with the common colour blindnesses, too (Okabe and Ito); the role's name stands in each box.
_HUES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
_ARROW: Final = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>'
)
_STYLE: Final = """
svg { background: #ffffff; font-family: ui-sans-serif, system-ui, sans-serif; }
rect { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.2; }
.topic rect { fill: #eef4fb; } .outside rect { fill: none; stroke-dasharray: 5 4; }
.agent rect { stroke-width: 2.4; fill: #ffffff; }
text { fill: #1f2328; font-size: 13px; } .title { font-weight: 600; }
.note, .foot { fill: #57606a; font-size: 11.5px; }
.topic .title { font-family: ui-monospace, monospace; font-size: 12px; font-weight: 400; }
path { fill: none; stroke: #6e7781; stroke-width: 1.4; } marker path { fill: #6e7781; stroke: none; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; } rect { fill: #161b22; stroke: #8b949e; } .topic rect { fill: #10263d; }
  .agent rect { fill: #0d1117; } text { fill: #e6edf3; } .note, .foot { fill: #9ea7b1; }
  path { stroke: #8b949e; } marker path { fill: #8b949e; }
}
"""


def svg_of(graph: Graph, title: str, foot: str) -> str:
    """Return the drawing; ``foot`` is a line below it."""
    drawing = place(graph)
    roles = list(dict.fromkeys(node.role for node in graph.nodes if node.role))
    width = max(drawing.width, _WIDTH_MIN)
    height = drawing.height + _FOOT_HEIGHT
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(_in_words(graph))}</desc>',
        f"<style>{_STYLE}</style>",
        _ARROW,
        *(f'<path d="{_curve(line)}" marker-end="url(#arrow)"/>' for line in drawing.lines),
        *(_box(box, roles) for box in drawing.boxes),
        f'<text class="foot" x="24" y="{height - 16:g}">{escape(foot)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _in_words(graph: Graph) -> str:
    names = {node.key: node.title for node in graph.nodes}
    return ". ".join(f"{names[a]} to {names[b]}" for a, b in graph.edges) + "."


def _box(box: Box, roles: Sequence[str]) -> str:
    node = box.node
    hue = f' style="stroke:{_HUES[roles.index(node.role) % len(_HUES)]}"' if node.role else ""
    round_ = 4 if node.shape == "topic" else 10
    middle = box.x + box.width / 2
    lines = [("title", node.title), *(("note", note) for note in node.notes)]
    top = box.y + (box.height - len(lines) * LINE_HEIGHT) / 2 + 13
    texts = "".join(
        f'<text class="{kind}" text-anchor="middle" x="{middle:g}" y="{top + number * LINE_HEIGHT:g}">'
        f"{escape(text)}</text>"
        for number, (kind, text) in enumerate(lines)
    )
    size = f'width="{box.width:g}" height="{box.height:g}"'
    frame = f'<rect x="{box.x:g}" y="{box.y:g}" {size} rx="{round_}"{hue}/>'
    return f'<g class="{node.shape}">{frame}{texts}</g>'


def _curve(line: Sequence[Point]) -> str:
    """A curve that leaves each point upright, so that it meets boxes at a right angle."""
    (x, y), *rest = line
    path = f"M{x:g} {y:g}"
    for to_x, to_y in rest:
        middle = round((y + to_y) / 2, 1)
        path += f" C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
        x, y = to_x, to_y
    return path
