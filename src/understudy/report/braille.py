"""Curves in a terminal: a braille character is a field of 2 by 4 dots."""

from __future__ import annotations

import math
from collections.abc import Sequence

from understudy.report.svg import compact

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of the left and of the right column, from top to bottom (Unicode, block 2800)."""
_BLANK = 0x2800
_LEAST_LABEL = 7


def curve(
    points: Sequence[tuple[float, float]],
    width: int,
    height: int,
    x_range: tuple[float, float],
    marks: Sequence[float] = (),
) -> list[str]:
    """Draw a curve with labels of the vertical axis at its left.

    Args:
        points: (x, y) with rising x; those that are not finite are left out.
        width: Characters of the whole, labels included.
        height: Lines.
        x_range: From the left to the right end.
        marks: Values that have to be on the vertical axis; each is drawn as a dotted line.
    """
    known = [(x, y) for x, y in points if math.isfinite(y)]
    values = [*(y for _, y in known), *marks]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    labels = _labels(low, high, height)
    room = max(_LEAST_LABEL, *map(len, labels))  # curves beneath each other share their axis
    columns, rows = 2 * max(width - room - 2, 4), 4 * height
    lit: set[tuple[int, int]] = set()

    def place(x: float, y: float) -> tuple[int, int]:
        right = (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1)
        up = (y - low) / (high - low)
        return round(min(max(right, 0), 1) * (columns - 1)), round((1 - up) * (rows - 1))

    for mark in marks:
        lit |= {(column, place(x_range[0], mark)[1]) for column in range(0, columns, 4)}
    dots = [place(x, y) for x, y in known]
    lit |= set(dots)
    for (x0, y0), (x1, y1) in zip(dots[:-1], dots[1:], strict=True):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        lit |= {(round(x0 + (x1 - x0) * k / steps), round(y0 + (y1 - y0) * k / steps)) for k in range(steps + 1)}
    lines = []
    for row in range(height):
        text = "".join(_character(lit, column, row) for column in range(columns // 2))
        lines.append(f"{labels[row]:>{room}} {'┤' if labels[row] else '│'}{text}")
    return lines


def _labels(low: float, high: float, height: int) -> list[str]:
    """Return what stands at the left of each line: the ends, and the middle where there is room."""
    labels = [""] * height
    labels[0], labels[-1] = compact(_rounded(high)), compact(_rounded(low))
    if height >= 5:
        labels[height // 2] = compact(_rounded(high - (high - low) * (height // 2 + 0.5) / height))
    return labels


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _character(lit: set[tuple[int, int]], column: int, row: int) -> str:
    bits = sum(
        _DOTS[right][down] for right in range(2) for down in range(4) if (2 * column + right, 4 * row + down) in lit
    )
    return chr(_BLANK + bits)
