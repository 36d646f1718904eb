"""Size against quality: return against parameters and latency, as a picture, and the smallest student on par."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from understudy.evaluation.compare import Comparison, Row
from understudy.evaluation.picture import FAINT, GRID, REFERENCE, STUDENTS, save_figure, short_number, style_axes

Measure = Callable[[Row], float | None]
_LATENCY = "µs for one action, one thread, the faster of PyTorch and NumPy"
_NEAR = 4.0
"""An axis is linear where the largest is less than so many times the smallest."""


def smallest_on_par(rows: Sequence[Row]) -> Row | None:
    """Return the student with the fewest parameters whose parity test passed; None where none did.

    Each test has to have its part of the level (alpha divided by the number of students): looking for one that passes
    among K would find a lucky one more often than alpha otherwise.
    """
    passed = [row for row in rows if row.parity is not None and row.parity.passed]
    return min(passed, key=lambda row: row.parameters or 0, default=None)


def draw(found: Comparison, path: str | os.PathLike[str]) -> Path:
    """Draw the return of the teacher (the first row) and of its students against parameters and latency.

    Filled points passed their test, hollow ones did not; bars are the 95 % intervals of the mean return.

    Raises:
        UserError: The file cannot be written.
    """
    path = Path(path)
    engine = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1, wspace=0.06)
    figure = Figure(figsize=(11.5, 4.6), dpi=150, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, found, lambda row: row.parameters, "Return against parameters", "parameters needed to act")
    _panel(right, found, _latency, "Return against latency", _LATENCY)
    first = found.rows[0].evaluation
    figure.suptitle(
        f"{found.env} · {first.episodes} episodes each, the same seeds · bars are 95 % intervals of the mean · "
        f"filled: at least {100 * found.wanted_ratio:g} % of the teacher at level {found.alpha:.3g}",
        x=0.012, ha="left", fontsize=9, color=FAINT,
    )  # fmt: skip
    return save_figure(figure, path)


def _latency(row: Row) -> float | None:
    return None if row.latency is None else row.latency.best_us


def _panel(axes: Any, found: Comparison, of: Measure, title: str, label: str) -> None:
    teacher, color = found.rows[0], STUDENTS[0]
    known = sorted(((x, row) for row in found.rows[1:] if (x := of(row))), key=lambda pair: pair[0])
    random, goal = found.random.mean, found.wanted_ratio
    score = random + goal * (teacher.evaluation.mean - random)
    for value, name in ((teacher.evaluation.mean, "teacher"), (score, f"{100 * goal:g} % of it")):
        axes.axhline(value, color=FAINT, lw=1, ls=(0, (2, 3)), zorder=1)
        axes.annotate(
            name, (0.0, value), xycoords=axes.get_yaxis_transform(), xytext=(4, 3), textcoords="offset points",
            fontsize=8, color=FAINT,
        )  # fmt: skip
    axes.plot([x for x, _ in known], [row.evaluation.mean for _, row in known], color=color, lw=1, alpha=0.4, zorder=2)
    own = of(teacher)
    if own:
        known = sorted([*known, (own, teacher)], key=lambda pair: pair[0])
    for k, (x, row) in enumerate(known):
        student = row is not teacher
        _point(axes, x, row, color if student else REFERENCE, not student or bool(row.parity and row.parity.passed), k)
    least, most = known[0][0], known[-1][0]
    if most > _NEAR * least:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.tick_params(axis="x", which="minor", length=0)
    axes.margins(x=0.14, y=0.16)
    if most <= _NEAR * least:
        axes.set_xlim(0, 1.15 * most)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_xlabel(label, fontsize=9, color=FAINT)
    style_axes(axes, title)


def _point(axes: Any, x: float, row: Row, color: str, filled: bool, place: int) -> None:
    """Draw a point with its interval; names stand above and below in turn, so that neighbours' do not meet."""
    found = row.evaluation
    axes.plot([x, x], found.mean_interval, color=color, lw=2.2, solid_capstyle="round", zorder=3)
    axes.plot(x, found.mean, "o", ms=7, mec=color, mfc=color if filled else "white", mew=1.8, zorder=4)
    end, offset = (found.mean_interval.high, 5 + 6 * (place % 4)) if place % 2 == 0 else (found.mean_interval.low, -13)
    text = axes.annotate(
        row.name, (x, end), xytext=(0, offset - 6 * (place % 4 == 3)), textcoords="offset points", ha="center",
        fontsize=8.5, color=color, zorder=5,
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
