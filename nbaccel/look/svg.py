"""Curves as a picture: one pure function. Colours are such that they can be read on white and on black."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from nbaccel.look.curves import Curve
from nbaccel.look.ticks import short, ticks

_COLOURS = ("#3d8fe0", "#e0751a", "#2fa56b", "#b663d2", "#dd4a62", "#99902a", "#17a2b5", "#a5764f")
_INK = "#808080"
_WIDTH, _WIDE, _PLOT_HEIGHT = 360, 600, 150
_LEFT, _RIGHT, _BOTTOM = 52, 14, 24
_TITLE, _LEGEND_LINE = 24, 16
_LONGEST_NAME = 34
MOST_PANELS = 12


def draw(panels: Mapping[str, Mapping[str, Curve]], note: str = "") -> str:
    """Draw curves.

    Args:
        panels: curves by name, by the title of their panel.
        note: a line below all panels.

    Returns:
        An SVG document; names in it are escaped.
    """
    shown = list(panels.items())[:MOST_PANELS]
    if len(panels) > MOST_PANELS:
        note = f"{note}   and {len(panels) - MOST_PANELS} more".strip()
    columns = 1 if len(shown) == 1 else 2
    width = _WIDE if columns == 1 else _WIDTH
    parts, top = [], 0
    for start in range(0, len(shown), columns):
        row = [_Panel(title, curves, width) for title, curves in shown[start : start + columns]]
        height = max(panel.height for panel in row)
        parts += [panel.at(number * width, top + height - panel.height) for number, panel in enumerate(row)]
        top += height
    if note:
        parts.append(_text(_LEFT, top + 12, note, "font-size:10px"))
        top += 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {top}" '
        f'width="{columns * width}" height="{top}" role="img" style="max-width:100%;height:auto">'
        f"<title>{escape(', '.join(panels))}</title>"
        f'<g font-family="system-ui,sans-serif" font-size="11" fill="{_INK}">{"".join(parts)}</g></svg>'
    )


@dataclass(frozen=True)
class _Range:
    """Maps numbers to places along an axis."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, numbers: list[float], start: float, end: float, margin: float = 0.0) -> _Range:
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        if low == high:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        air = (high - low) * margin
        return cls(low - air, high + air, start, end)

    def place(self, number: float) -> float:
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class _Panel:
    title: str
    curves: Mapping[str, Curve]
    width: int

    @property
    def _head(self) -> int:
        return _TITLE + _LEGEND_LINE * len(self._legend_lines())

    @property
    def height(self) -> int:
        return self._head + _PLOT_HEIGHT + _BOTTOM + 8

    def at(self, left: int, top: int) -> str:
        points = {name: curve.points() for name, curve in self.curves.items()}
        bottom = self._head + _PLOT_HEIGHT
        across = _Range.around([x for some in points.values() for x, _ in some], _LEFT, self.width - _RIGHT)
        up = _Range.around([y for some in points.values() for _, y in some], bottom, self._head, margin=0.05)
        lines = [_line(some, across, up, _colour(number)) for number, some in enumerate(points.values())]
        return (
            f'<g transform="translate({left},{top})">'
            f"{_text(_LEFT, 16, _cut(self.title), 'font-weight:600;font-size:12px')}"
            f"{self._legend()}{self._axes(across, up, bottom)}{''.join(lines)}</g>"
        )

    def _legend_lines(self) -> list[list[tuple[int, str, str, int]]]:
        """Entries by line: number, label, full name, place."""
        lines: list[list[tuple[int, str, str, int]]] = [[]]
        left = _LEFT
        for number, (name, curve) in enumerate(self.curves.items()):
            label = f"{_cut(name)}  {short(curve.last)}"
            wide = 18 + int(6.2 * len(label))
            if lines[-1] and left + wide > self.width - _RIGHT:
                lines.append([])
                left = _LEFT
            lines[-1].append((number, label, name, left))
            left += wide + 10
        return lines

    def _legend(self) -> str:
        found = []
        for row, entries in enumerate(self._legend_lines()):
            y = _TITLE + _LEGEND_LINE * row + 8
            for number, label, name, left in entries:
                found.append(
                    f'<g><title>{escape(name)}</title><line x1="{left}" x2="{left + 12}" y1="{y - 4}" y2="{y - 4}" '
                    f'stroke="{_colour(number)}" stroke-width="3" stroke-linecap="round"/>'
                    f"{_text(left + 18, y, label)}</g>"
                )
        return "".join(found)

    def _axes(self, across: _Range, up: _Range, bottom: int) -> str:
        found = []
        for value in ticks(up.low, up.high, 5):
            y = up.place(value)
            found.append(f'<path d="M{_LEFT} {y:.1f}H{self.width - _RIGHT}" stroke="{_INK}" stroke-opacity=".25"/>')
            found.append(_text(_LEFT - 6, y + 4, short(value), anchor="end"))
        steps = ticks(across.low, across.high, 5)
        found += [_text(across.place(step), bottom + 16, short(step), anchor="middle") for step in steps]
        found.append(f'<path d="M{_LEFT} {bottom}H{self.width - _RIGHT}" stroke="{_INK}" stroke-opacity=".6"/>')
        return "".join(found)


def _line(points: list[tuple[float, float]], across: _Range, up: _Range, colour: str) -> str:
    if len(points) == 1:
        x, y = points[0]
        return f'<circle cx="{across.place(x):.1f}" cy="{up.place(y):.1f}" r="3" fill="{colour}"/>'
    path = " ".join(f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round" '
        'stroke-linecap="round"/>'
    )


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    styled = f' style="{style}"' if style else ""
    anchored = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{anchored}{styled}>{escape(text)}</text>'
