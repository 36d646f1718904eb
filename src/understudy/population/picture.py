"""A population as a picture: every member's score, lambda, learning rate and entropy bonus over env steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator

from understudy.evaluation.picture import FAINT, GRID, INK, STUDENTS, save_figure, short_number, style_axes
from understudy.population.values import Result, best, lineage

_PANELS = (
    ("score", "Return in evaluation episodes"),
    ("weight", "λ, weight of the teacher"),
    ("lr", "learning rate"),
    ("entropy_weight", "weight of the entropy bonus"),
)


def color_of(member: int, members: int) -> Any:
    """Return a member's colour: one of six that everybody tells apart, or one of a scale where there are more."""
    return STUDENTS[member] if members <= len(STUDENTS) else colormaps["viridis"](member / (members - 1))


def _draw_member(axes: Any, name: str, own: Sequence[Result], color: Any) -> None:
    """Draw one number of one member; numbers hold during an interval, and a ring is a copy of another member."""
    ends = [r.env_steps for r in own]
    if name == "score":
        axes.plot(ends, [r.score for r in own], color=color, lw=1.4)
        axes.scatter(ends, [r.score for r in own], s=5, color=color, lw=0)
        return
    begins, values = [0, *ends[:-1]], [r.values[name] for r in own]
    axes.step([*begins, ends[-1]], [*values, values[-1]], where="post", color=color, lw=1.4)
    copies = [(k, r.values[name]) for k, r in zip(begins, own, strict=True) if r.exploit]
    if copies:
        axes.scatter(*zip(*copies, strict=True), s=22, facecolor="white", edgecolor=color, lw=1.2, zorder=3)


def draw(results: Sequence[Result], path: Path) -> Path:
    """Write the picture.

    Raises:
        UserError: The file cannot be written.
    """
    members = sorted({r.member for r in results})
    winner = best(results)
    past = lineage(results, winner.member)
    figure = Figure(figsize=(9, 6), dpi=110, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (name, title) in zip(grid.ravel(), _PANELS, strict=True):
        for member in members:
            own = sorted((r for r in results if r.member == member), key=lambda r: r.interval)
            _draw_member(axes, name, own, color_of(member, len(members)))
        if name != "score":
            axes.set_yscale("log")
            for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                ticks(FuncFormatter(lambda y, _: f"{y:.2g}"))
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axes.tick_params(which="minor", colors=FAINT, labelsize=9, length=0)
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
        style_axes(axes, title)
    grid[0, 0].plot([r.env_steps for r in past], [r.score for r in past], color=INK, lw=4, alpha=0.18, zorder=1)
    for axes in grid[1]:
        axes.set_xlabel("env steps of a member", fontsize=9, color=FAINT)
    if len(members) <= len(STUDENTS):
        lines = [grid[0, 0].plot([], [], color=color_of(m, len(members)), label=f"member {m}")[0] for m in members]
        lines += grid[0, 0].plot([], [], color=INK, lw=4, alpha=0.18, label="past of the best")
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=8)
    return save_figure(figure, path)
