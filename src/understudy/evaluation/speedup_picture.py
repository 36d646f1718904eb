"""A comparison with scratch as a picture: both curves, and beneath them the teachers' weights on the same axis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from understudy.data import Array
from understudy.evaluation.picture import FAINT, GRID, INK, REFERENCE, STUDENTS, save_figure, short_number, style_axes
from understudy.evaluation.speedup import Comparison, Curve


def on_one_grid(curves: tuple[Curve, ...], start: float) -> tuple[Array, Array]:
    """Return env steps [K] and scores [seeds, K] there, in straight lines between evaluations, from ``start`` at 0.

    Where a run ended early its last score counts.
    """
    steps = np.array(sorted({0, *(k for curve in curves for k, _ in curve)}), np.float64)
    rows = []
    for curve in curves:
        points = np.array([(0, start), *curve], np.float64)
        rows.append(np.interp(steps, points[:, 0], points[:, 1]))
    return steps, np.array(rows)


def _draw_curves(axes: Any, found: Comparison) -> None:
    for name, curves, color in (("scratch", found.scratch, REFERENCE), ("kickstarted", found.student, STUDENTS[0])):
        steps, scores = on_one_grid(curves, found.random)
        for row in scores if len(scores) > 1 else ():
            axes.plot(steps, row, color=color, lw=0.8, alpha=0.35)
        axes.plot(steps, scores.mean(axis=0), color=color, lw=2.2, label=name)
    for score, name in ((found.teacher, "teacher"), (found.random, "random")):
        axes.axhline(score, color=FAINT, lw=1, ls=(0, (2, 3)), zorder=1)
        axes.annotate(
            name, (1.0, score), xycoords=axes.get_yaxis_transform(), xytext=(0, 3), textcoords="offset points",
            ha="right", fontsize=8, color=FAINT,
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center right")
    axes.grid(axis="y", color=GRID, lw=0.8)
    style_axes(axes, f"Return in evaluation episodes, {found.env}")


def draw(found: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write the picture; thin lines are single seeds.

    Raises:
        UserError: The file cannot be written.
    """
    path = Path(path)
    engine = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
    figure = Figure(figsize=(8, 5.4), dpi=150, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)
    curves, weights = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_curves(curves, found)
    for i, (name, points) in enumerate(found.weights.items()):
        # Weights are logged after their rollout, and hold during it.
        weights.plot(*zip(*points, strict=True), color=STUDENTS[i % len(STUDENTS)], lw=1.8, label=name)
    if len(found.weights) > 1:
        weights.legend(frameon=False, fontsize=8, labelcolor=INK)
    weights.set_ylim(bottom=0)
    weights.grid(axis="y", color=GRID, lw=0.8)
    weights.set_xlabel("env steps", fontsize=9, color=FAINT)
    weights.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    style_axes(weights, "λ, weight of the teacher")
    return save_figure(figure, path)
