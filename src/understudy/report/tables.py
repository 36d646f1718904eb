"""The tables of a report, the same for HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.evaluation.tables import NONE, comparison_cells, legend, number
from understudy.report.content import Content
from understudy.report.runtimes import Size
from understudy.report.svg import Panel

TEACHER, RANDOM = 6, 7
"""Colour numbers; groups of runs have 0 to 5."""


@dataclass(frozen=True)
class Cell:
    """One cell: text, a note beneath it, and a bar of so many percent."""

    text: str
    note: str = ""
    share: float | None = None


@dataclass(frozen=True)
class TableRow:
    """Cells, and the colour of the row's bars."""

    cells: tuple[Cell, ...]
    color: int | None = None


@dataclass(frozen=True)
class Table:
    """A table; ``stack`` ones become a list per row on narrow screens."""

    label: str
    headers: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text: str = ""
    legend: str = ""
    stack: bool = True


def color(index: int) -> int:
    """Return the colour number of a group."""
    return index % 6


def color_in_table(content: Content, row: int) -> int:
    """Return the colour number of a row of the table: teachers come first."""
    count = len(content.teachers)
    return TEACHER if row < count else color(row - count)


def curve_numbers(panels: Sequence[Panel]) -> Table:
    """Return the evaluations of the first panel."""
    rows = []
    for k, curve in panels[0].curves:
        for p in curve.points:
            known = math.isfinite(p.low)
            between = f"[{number(p.low)}, {number(p.high)}]" if known else NONE
            cells = (Cell(curve.label), Cell(f"{p.steps:,.0f}"), Cell(number(p.value)), Cell(between))
            rows.append(TableRow(cells, k))
    headers = ("curve", "env steps", panels[0].title.split(",")[0].lower(), "95 % interval")
    return Table("Evaluations while learning", headers, tuple(rows), stack=False)


def comparison_table(content: Content) -> Table | None:
    """Return everyone on the same episodes."""
    if content.table is None:
        return None
    headers, cells = comparison_cells(content.table)
    kept = [i for i, header in enumerate(headers) if header not in ("parameters", "kB", "µs")]
    rows = tuple(TableRow(tuple(Cell(row[i]) for i in kept), color_in_table(content, n)) for n, row in enumerate(cells))
    headline = tuple(headers[i] for i in kept)
    note = legend(content.table)
    return Table("Comparison on fresh episodes", headline, rows, legend=note)


def sizes_table(content: Content) -> Table | None:
    """Return parameters, arithmetic and latency, with bars relative to the largest."""
    sizes = content.sizes
    if not sizes:
        return None
    names = list(dict.fromkeys(r.name for size in sizes for r in size.runtimes))
    headers = ("policy", "parameters", "float32 weights", "per action", *(f"{name}, µs" for name in names))
    most = {
        "parameters": max((s.parameters or 0 for s in sizes), default=0),
        "flops": max((s.flops or 0 for s in sizes), default=0),
    }
    rows = []
    for i, size in enumerate(sizes):
        timed = {r.name: r for r in size.runtimes}
        cells = [
            Cell(size.name),
            Cell(_thousands(size.parameters), share=_percent(size.parameters, most["parameters"])),
            Cell(NONE if size.kilobytes is None else f"{number(size.kilobytes, 3)} kB"),
            Cell(_flops(size.flops), share=_percent(size.flops, most["flops"])),
        ]
        cells += [_time(timed.get(name)) for name in names]
        teacher = size.name in content.teachers
        rows.append(TableRow(tuple(cells), TEACHER if teacher else color(i - (sizes[0].name in content.teachers))))
    return Table("Size and latency", headers, tuple(rows), legend=_sizes_legend(sizes))


def _time(found: Any) -> Cell:
    if found is None or found.microseconds is None:
        return Cell(NONE)
    return Cell(f"{found.microseconds:.3g}")


def _thousands(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _percent(value: int | None, most: int) -> float | None:
    return None if not value or not most else round(100 * value / most, 2)


def _flops(value: int | None) -> str:
    if value is None:
        return NONE
    for limit, unit in ((1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value} FLOP"


def _sizes_legend(sizes: Sequence[Size]) -> str:
    text = (
        "Parameters that it takes to act, without value functions. FLOP: floating-point operations of the matrix "
        "products and convolutions of one action. µs: median time of one action with one observation on one thread of "
        "this machine, measured when the report was made; a busy machine is slower."
    )
    notes = {
        f"{r.name} of the {s.name}: {r.note}" for s in sizes for r in s.runtimes if r.note and r.microseconds is None
    }
    kinds = {f"{r.name}: {r.note}" for s in sizes for r in s.runtimes if r.note and r.microseconds is not None}
    extra = sorted(kinds) + sorted(notes)
    return f"{text} {'. '.join(extra)}."


def savings_table(saved: Mapping[str, Any] | None) -> Table | None:
    """Return env steps to shares of the teacher's score, with and without teachers."""
    if saved is None:
        return None
    steps = [k for s in saved["savings"] for who in ("student", "scratch") for k in s[who] if k is not None]
    most = max(steps, default=1.0)
    headers = ["score", "kickstarted, env steps", "scratch, env steps", "speed-up"]
    counted = saved.get("teacher_steps")
    if counted is not None:
        headers.append("with the teacher’s steps")
    rows = []
    for s in saved["savings"]:
        cells = [Cell(f"{100 * s['share']:.0f} %", f"= {number(s['score'])}")]
        cells += [_mean_steps(s["student"], most), _mean_steps(s["scratch"], most)]
        cells.append(_times(s["speedup"], s["interval"], s["at_least"]))
        if counted is not None:
            cells.append(_times(s["counted"], s["counted_interval"], s["at_least"]))
        rows.append(TableRow(tuple(cells), 0))
    seeds = len(saved["student"])
    text = (
        f"{seeds} run{'s' if seeds > 1 else ''} with and {seeds} without teachers in {saved['env']}, each of "
        f"{saved['budget']:,} env steps. Shares count from the random policy’s score up."
    )
    note = (
        "Straight lines between evaluations. Intervals: 95 % bootstrap over seeds. ≥: a run from scratch did not "
        "come there and counts with its last evaluation."
    )
    if early := saved.get("early"):
        note += f" Never: not by its end; {early} of {2 * seeds} runs ended early, by stop.score or stop.seconds."
    if counted is not None:
        note += f" The last column adds the {counted:,.0f} env steps that the teacher cost."
    return Table("Env steps to the teacher's score", tuple(headers), tuple(rows), text, note)


def _mean_steps(steps: Sequence[float | None], most: float) -> Cell:
    reached = [k for k in steps if k is not None]
    if not reached:
        return Cell("never")
    mean = sum(reached) / len(reached)
    note = "" if len(reached) == len(steps) else f"{len(reached)} of {len(steps)} runs"
    return Cell(f"{mean:,.0f}", note, round(100 * mean / most, 2))


def _times(value: float | None, interval: Sequence[float | None] | None, at_least: bool) -> Cell:
    if value is None:
        return Cell(NONE)
    known = interval is not None and interval[0] is not None
    note = f"[{interval[0]:.2f}, {interval[1]:.2f}]" if known and interval is not None else ""
    return Cell(f"{'≥ ' if at_least else ''}{value:.2f}×", note)
