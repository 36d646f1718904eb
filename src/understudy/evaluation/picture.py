"""A comparison as a picture: every episode's return with the mean and its interval, and size against return."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from understudy.errors import UserError
from understudy.evaluation.compare import Comparison, Row
from understudy.evaluation.evaluate import counted
from understudy.evaluation.tables import number

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
REFERENCE = "#52606d"
STUDENTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
"""Told apart by people who are colour-blind too (Okabe and Ito 2008; their yellow darkened)."""
_FONT = {"family": "DejaVu Sans"}
_SUFFIXES = (".png", ".svg", ".pdf")


def style_axes(axes: Any, title: str) -> None:
    """Give axes the look that all pictures share."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10, fontweight="bold", **_FONT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.set_axisbelow(True)


def _colors(rows: list[Row]) -> list[str]:
    return [REFERENCE, *(STUDENTS[i % len(STUDENTS)] for i in range(len(rows) - 1))]


def _mark_random(axes: Any, comparison: Comparison, vertical: bool) -> None:
    line = axes.axvline if vertical else axes.axhline
    line(comparison.random.mean, color=FAINT, lw=1, ls=(0, (2, 3)), zorder=1)
    across = axes.get_xaxis_transform() if vertical else axes.get_yaxis_transform()
    place = (comparison.random.mean, 1.0) if vertical else (1.0, comparison.random.mean)
    offset, align = ((4, -2), ("left", "top")) if vertical else ((0, 4), ("right", "bottom"))
    axes.annotate(
        "random", place, xycoords=across, xytext=offset, textcoords="offset points", ha=align[0], va=align[1],
        fontsize=8, color=FAINT,
    )  # fmt: skip


def draw_returns(axes: Any, comparison: Comparison) -> None:
    """Draw one line of points per policy, an episode each, with the mean and its 95 % interval above them."""
    rng = np.random.default_rng(0)
    rows = comparison.rows
    for i, (row, color) in enumerate(zip(rows, _colors(rows), strict=True)):
        found, place = row.evaluation, len(rows) - 1 - i
        jitter = rng.uniform(-0.13, 0.13, len(found.returns)) - 0.14
        axes.scatter(found.returns, place + jitter, s=14, color=color, alpha=0.35, lw=0, zorder=2)
        low, high = found.mean_interval
        axes.plot([low, high], [place + 0.16] * 2, color=color, lw=2.5, solid_capstyle="round", zorder=3)
        axes.plot(found.mean, place + 0.16, "o", ms=6, color=color, zorder=4)
        axes.annotate(
            number(found.mean).replace("-", "−"), (found.mean, place + 0.16), xytext=(0, 7), textcoords="offset points",
            ha="center", fontsize=9, color=color, fontweight="bold",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_ylim(-0.5, len(rows) - 0.3)
    axes.margins(x=0.06)
    axes.grid(axis="x", color=GRID, lw=0.8)
    style_axes(axes, "Return of every episode")
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    _mark_random(axes, comparison, vertical=True)


def draw_sizes(axes: Any, comparison: Comparison) -> None:
    """Draw the number of parameters, on a logarithmic axis, against the mean return."""
    rows = comparison.rows
    for row, color in zip(rows, _colors(rows), strict=True):
        if row.parameters is None:
            continue
        found = row.evaluation
        axes.plot([row.parameters] * 2, found.mean_interval, color=color, lw=2.5, solid_capstyle="round", zorder=3)
        axes.plot(row.parameters, found.mean, "o", ms=7, color=color, zorder=4)
    sizes = [row.parameters for row in rows if row.parameters]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 3, max(sizes) * 3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.margins(y=0.12)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_xlabel("parameters needed to act", fontsize=9, color=FAINT)
    style_axes(axes, "Return against size")
    _mark_random(axes, comparison, vertical=False)


def label_points(axes: Any, comparison: Comparison) -> None:
    """Write names at the points, where they cover no point, bar or other name; the layout must be final."""
    scale = axes.figure.dpi / 72
    to_points = axes.transData.transform
    taken: list[tuple[float, float, float, float]] = []
    known = [(r, c) for r, c in zip(comparison.rows, _colors(comparison.rows), strict=True) if r.parameters]
    for row, _ in known:
        low, high = row.evaluation.mean_interval
        (x, y0), (_, y1) = to_points((row.parameters, low)) / scale, to_points((row.parameters, high)) / scale
        taken.append((x - 5, y0 - 5, x + 5, y1 + 5))
    frame = axes.get_window_extent()
    inside = (frame.x0 / scale, frame.y0 / scale, frame.x1 / scale, frame.y1 / scale)
    for row, color in known:
        x, y = to_points((row.parameters, row.evaluation.mean)) / scale
        width, height = 5.6 * len(row.name), 11.0
        # Beside, then above and below, then further away.
        places = [(9.0, 0.0), (-9 - width, 0.0)]
        places += [(dx, dy) for dy in (15.0, -15, 28, -28, 41, -41) for dx in (-width / 2, 4.0, -4 - width)]
        boxes = [(x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2) for dx, dy in places]
        free = [i for i, box in enumerate(boxes) if _within(box, inside) and not any(_meet(box, t) for t in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        text = axes.annotate(
            row.name, (row.parameters, row.evaluation.mean), xytext=places[chosen], textcoords="offset points",
            va="center", fontsize=9, color=color, zorder=5,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _within(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether box a lies in box b."""
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def short_number(value: float) -> str:
    """Write 12000 as 12k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g} {unit}"
    return f"{value:g}"


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Return the path of a picture.

    Raises:
        UserError: Its suffix is another one.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"cannot draw {path}: take one of {', '.join(_SUFFIXES)}")
    return path


def draw(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write the picture of a comparison as ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        UserError: Another suffix, or the file cannot be written.
    """
    path = check_picture(path)
    sized = sum(row.parameters is not None for row in comparison.rows) > 1
    height = max(2.4 + 0.62 * len(comparison.rows), 3.6)
    engine = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1, wspace=0.06)
    figure = Figure(figsize=(11.5 if sized else 7.5, height), dpi=150, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, width_ratios=(1.25, 1)) if sized else [figure.subplots()]
    draw_returns(panels[0], comparison)
    if sized:
        draw_sizes(panels[1], comparison)
    first = comparison.rows[0].evaluation
    figure.suptitle(
        f"{comparison.env} · {counted(first.episodes)} each, the same seeds · bars are 95 % intervals of the mean",
        x=0.012, ha="left", fontsize=9, color=FAINT,
    )  # fmt: skip
    if sized:
        figure.draw_without_rendering()
        label_points(panels[1], comparison)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, in a folder that is made if need be; returns the path.

    Raises:
        UserError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path
