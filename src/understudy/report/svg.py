"""Charts as inline SVG: colours come from the page's style, numbers under the pointer from its script.

Every chart is drawn twice, for wide and for narrow screens: a scaled one would have unreadable labels on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from understudy.evaluation.tables import number
from understudy.report.curves import Curve, Point

WIDE, NARROW = 760, 380
"""Pixels of the two drawings."""
_LEFT, RIGHT, _GAP, BOTTOM = 58, 14, 46, 40


@dataclass(frozen=True)
class Mark:
    """A horizontal line with a name: the teacher's return, the random policy's."""

    value: float
    name: str


@dataclass(frozen=True)
class Panel:
    """One of several plots above each other on the same axis of env steps.

    Attributes:
        title: What is on the vertical axis, with its unit.
        curves: With their colour numbers.
        height: Of the plotting area, in pixels.
        marks: Horizontal lines.
        zero: Whether 0 has to be in it.
        logarithmic: The vertical axis.
    """

    title: str
    curves: tuple[tuple[int, Curve], ...]
    height: int = 90
    marks: tuple[Mark, ...] = ()
    zero: bool = False
    logarithmic: bool = False


def compact(value: float) -> str:
    """Write an axis label: 12000 -> '12k', 0.0005 -> '5e-4', -3 with a real minus."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):g}{unit}".replace("-", "−")
    text = f"{value:g}" if size >= 1e-3 else f"{value:.0e}".replace("e-0", "e−")
    return text.replace("-", "−")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers from low to high, about as many as wanted."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """Data to pixels, in a straight line or along logarithms."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1)

    def ticks(self, wanted: int) -> list[float]:
        """Return round values."""
        if not self.logarithmic:
            return ticks(self.low, self.high, wanted)
        decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        found = [10.0**k for k in decades]
        if len(found) < 2:
            found = [m * 10.0**k for k in range(-12, 13) for m in (1, 2, 5) if self.low <= m * 10.0**k <= self.high]
        return found[:: max(1, -(-len(found) // max(wanted, 2)))]


def _vertical(panel: Panel, top: float) -> Scale:
    points = [p for _, curve in panel.curves for part in (curve.points, *curve.singles) for p in part]
    values = [v for p in points for v in (p.value, p.low, p.high) if math.isfinite(v)]
    values += [mark.value for mark in panel.marks]
    if panel.logarithmic:
        values = [v for v in values if v > 0] or [1.0]
        return Scale(min(values) / 1.3, max(values) * 1.3, top + panel.height, top, True)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if panel.zero:
        low, high = min(low, 0.0), max(high, 0.0)
    space = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low if panel.zero and low == 0 else low - space, high + space, top + panel.height, top)


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(p.steps):.1f},{y(p.value):.1f}" for p in points)


def _band(points: Sequence[Point], x: Scale, y: Scale) -> str:
    known = [p for p in points if math.isfinite(p.low)]
    if len(known) < 2:
        return ""
    upper = [f"{x(p.steps):.1f},{y(p.high):.1f}" for p in known]
    lower = [f"{x(p.steps):.1f},{y(p.low):.1f}" for p in reversed(known)]
    return "M" + "L".join(upper + lower) + "Z"


def _tip(panel: Panel, curve: Curve, point: Point, many: bool) -> str:
    text = f"{curve.label}: " if many else ""
    text += f"{number(point.value)}"
    if math.isfinite(point.low):
        text += f" [{number(point.low)}, {number(point.high)}]"
    return f"{text} · {panel.title.split(',')[0].lower()} · {point.steps:,.0f} env steps"


def _curves(panel: Panel, x: Scale, y: Scale) -> list[str]:
    parts = []
    many = len(panel.curves) > 1
    for color, curve in panel.curves:
        if not curve.points:
            continue
        parts += [f'<path class="thin c{color}" d="{_path(s, x, y)}"/>' for s in curve.singles]
        band = _band(curve.points, x, y)
        if band:
            parts.append(f'<path class="band c{color}" d="{band}"/>')
        parts.append(f'<path class="line c{color}" d="{_path(curve.points, x, y)}"/>')
        for point in curve.points:
            lone = len(curve.points) <= 40 and panel.height > 120
            px, py = x(point.steps), y(point.value)
            if len(curve.points) == 1 and math.isfinite(point.low):  # a band needs two
                ends = f'y1="{y(point.low):.1f}" y2="{y(point.high):.1f}"'
                parts.append(f'<line class="whisker c{color}" x1="{px:.1f}" x2="{px:.1f}" {ends}/>')
            parts.append(
                f'<circle class="pt c{color}{"" if lone else " quiet"}" cx="{px:.1f}" cy="{py:.1f}" r="3" '
                f'data-tip="{escape(_tip(panel, curve, point, many))}"/>'
            )
    return parts


def _grid(y: Scale, panel: Panel, left: float, right: float) -> list[str]:
    parts = []
    for tick in y.ticks(5 if panel.height > 120 else 2):
        py = y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{py + 4:.1f}" text-anchor="end">{compact(tick)}</text>')
    for mark in panel.marks:
        py = y(mark.value)
        parts.append(f'<line class="mark" x1="{left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>')
    return parts


def _names_of_marks(panel: Panel, x: Scale, y: Scale, left: float, right: float) -> list[str]:
    """Write the names of the horizontal lines, above or below them, at the end where no curve is."""
    parts: list[str] = []
    points = [(x(p.steps), y(v)) for _, c in panel.curves for p in c.points for v in (p.value, p.low, p.high)]
    taken: list[tuple[float, bool]] = []
    for mark in sorted(panel.marks, key=lambda m: -m.value):
        label = f"{mark.name} {number(mark.value)}".replace("-", "−")
        width, py = 6.6 * len(label), y(mark.value)
        choices: list[tuple[int, int, float, bool]] = []
        for at_right in (True, False):
            for place in (py - 5, py + 13):
                begin = right - width if at_right else left
                inside = [q for px, q in points if begin - 10 < px < begin + width + 10 and place - 12 < q < place + 4]
                met = sum(at_right == side and abs(place - other) < 13 for other, side in taken)
                choices.append((len(inside) + 5 * met, len(choices), place, at_right))
        _, _, place, at_right = min(choices)
        taken.append((place, at_right))
        anchor, px = ("end", right - 2) if at_right else ("start", left + 4)
        parts.append(f'<text class="marked" x="{px}" y="{place:.1f}" text-anchor="{anchor}">{escape(label)}</text>')
    return parts


def stacked(panels: Sequence[Panel], label: str, width: int) -> Markup:
    """Draw panels above each other on one axis of env steps.

    Args:
        panels: From top to bottom.
        label: What a screen reader says of it.
        width: In pixels.
    """
    points = [p for panel in panels for _, c in panel.curves for part in (c.points, *c.singles) for p in part]
    last = max((p.steps for p in points), default=1) or 1
    begin = min((p.steps for p in points), default=0)
    left, right = _LEFT, width - RIGHT
    x = Scale(0 if begin < 0.5 * last or begin == last else begin, last, left, right - 6)
    parts: list[str] = []
    top = 26.0
    for panel in panels:
        y = _vertical(panel, top)
        title = f'<text class="panel" x="0" y="{top - 11:.0f}">{escape(panel.title)}</text>'
        parts += [title, *_grid(y, panel, left, right), *_curves(panel, x, y)]
        parts += _names_of_marks(panel, x, y, left, right)
        top += panel.height + _GAP
    bottom = top - _GAP
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="26" y2="{bottom}" visibility="hidden"/>')
    for tick in x.ticks(6 if width > 500 else 4):
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{compact(tick)}</text>'
        )
    parts.append(f'<text class="tick" x="{right}" y="{bottom + 36}" text-anchor="end">env steps</text>')
    return frame(parts, width, bottom + BOTTOM + 2, label)


def frame(parts: Sequence[str], width: int, height: float, label: str) -> Markup:
    """Wrap parts, which are escaped already, into an image with a name for screen readers."""
    head = f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img"'
    return Markup(f'{head} aria-label="{escape(label)}">{"".join(parts)}</svg>')


def both(draw: Callable[[int], Markup]) -> Markup:
    """Draw for wide and for narrow screens; the style shows one of them."""
    return Markup(f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>')
