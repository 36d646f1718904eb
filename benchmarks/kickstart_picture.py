"""Curves of kickstarted students and of students from scratch, one line for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from understudy.evaluation.picture import FAINT, GRID, INK, REFERENCE, STUDENTS, short_number, style_axes


def draw(curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: Path, title: str) -> None:
    """Write an SVG of (env steps, score) curves by name; all start at (0, 0)."""
    figure = Figure(figsize=(7, 3.4), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    style_axes(axes, title)
    for (name, found), color in zip(curves.items(), (STUDENTS[0], FAINT), strict=False):
        for i, curve in enumerate(found):
            steps, scores = zip(*[(0, 0.0), *curve], strict=True)
            axes.plot(steps, scores, color=color, linewidth=1.4, alpha=0.85, label=name if not i else None)
    axes.axhline(1.0, color=REFERENCE, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("the experts", (0, 1.0), (2, 3), textcoords="offset points", fontsize=8, color=REFERENCE)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_xlabel("env steps", fontsize=9, color=FAINT)
    axes.set_ylim(0, 1.08)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "understudy"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})
