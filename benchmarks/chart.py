"""Panels of lines as an SVG file: what a table of growth looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COLOURS: Final = ("#0b6e4f", "#c8553d", "#3d5a98", "#7a4988")
_WIDTH, _HEIGHT, _GAP, _TOP, _LEFT = 240, 180, 40, 40, 70
_LINES: Final = 4
_FONT: Final = 'font-family="sans-serif" font-size="12" fill="#222"'


@dataclass(frozen=True)
class Panel:
    """One axis: a value (None = not measured) of each series at each label."""

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def svg(panels: Sequence[Panel], unit: str) -> str:
    """Return the panels side by side over one vertical axis that begins at 0."""
    values = [value or 0.0 for panel in panels for points in panel.series.values() for value in points]
    top = _round_up(max(values, default=0.0))
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colours = dict(zip(names, (COLOURS * len(names))[: len(names)], strict=True))
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT}>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_axis(top, unit, width),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _LEFT + number * (_WIDTH + _GAP), top, colours)
    for number, name in enumerate(names):
        at = _LEFT + number * 220
        parts.append(f'<rect x="{at}" y="{height - 16}" width="10" height="10" fill="{colours[name]}"/>')
        parts.append(f'<text x="{at + 16}" y="{height - 7}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axis(top: float, unit: str, width: int) -> Iterator[str]:
    for step in range(_LINES + 1):
        value, y = top * step / _LINES, _y(top * step / _LINES, top)
        yield f'<line x1="{_LEFT}" x2="{width - _GAP}" y1="{y}" y2="{y}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{value:,.0f}</text>'
    yield f'<text x="{_LEFT - 8}" y="{_TOP - 18}" text-anchor="end">{escape(unit)}</text>'


def _panel(panel: Panel, left: int, top: float, colours: Mapping[str, str]) -> Iterator[str]:
    yield f'<text x="{left + _WIDTH / 2}" y="{_TOP - 18}" text-anchor="middle">{escape(panel.title)}</text>'
    step = _WIDTH / max(len(panel.labels), 1)
    xs = [round(left + step * (number + 0.5), 1) for number in range(len(panel.labels))]
    for x, label in zip(xs, panel.labels, strict=True):
        yield f'<text x="{x}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{escape(label)}</text>'
    for name, values in panel.series.items():
        known = [(x, _y(value, top)) for x, value in zip(xs, values, strict=True) if value is not None]
        points = " ".join(f"{x},{y}" for x, y in known)
        yield f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'
        yield from (f'<circle cx="{x}" cy="{y}" r="3" fill="{colours[name]}"/>' for x, y in known)


def _y(value: float, top: float) -> float:
    return round(_TOP + _HEIGHT * (1 - value / top), 1)


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4 and 8 times a power of ten: each has four even parts."""
    unit = 1.0
    while unit * 8 < value:
        unit *= 10
    return next(unit * factor for factor in (1, 2, 4, 8) if unit * factor >= value)
