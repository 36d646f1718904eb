"""Evaluations and comparisons as tables: for terminals (rich), for Markdown, and as plain text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from understudy.errors import UserError
from understudy.evaluation.compare import Comparison, Row
from understudy.evaluation.evaluate import Evaluation, counted
from understudy.evaluation.statistics import Interval

NONE = "–"
"""Shown where something is not known."""


def number(value: float | None, digits: int = 4) -> str:
    """Round to significant digits without exponents: 12345.6 -> '12346', 0.01234 -> '0.01234'."""
    if value is None or value != value:
        return NONE
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    decimals = max(digits - magnitude, 0)
    text = f"{value:.{min(decimals, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text and abs(value) >= 1000 else text


def interval(value: Interval) -> str:
    """Write '[low, high]'."""
    return f"[{number(value.low)}, {number(value.high)}]"


def p_value(value: float) -> str:
    """Write a probability; tiny ones as '<0.001'."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _parity(row: Row) -> str:
    if row.parity is None:
        return NONE
    return f"{'yes' if row.parity.passed else 'no'} (p {p_value(row.parity.p_value)})"


def _agreement(row: Row) -> str:
    return NONE if row.agreement is None else f"{100 * row.agreement.share:.1f} %"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}".replace(",", " ")


def comparison_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the headers and one list of cells per policy; columns that nobody fills are left out."""
    parity = f"≥ {comparison.wanted_ratio:g}?"
    headers = ["policy", "return", "95 % interval", "IQM", "ratio", parity]
    headers += ["parameters", "kB", "µs", "agreement", "KL"]
    rows = []
    for row in comparison.rows:
        found, kl = row.evaluation, row.agreement.kl if row.agreement else None
        rows.append(
            [
                row.name,
                number(found.mean),
                interval(found.mean_interval),
                number(found.iqm),
                NONE if row.ratio is None else f"{row.ratio:.3f}",
                _parity(row),
                _count(row.parameters),
                number(row.kilobytes, 3),
                NONE if row.latency is None else f"{row.latency.best_us:.0f}",
                _agreement(row),
                number(kl, 3),
            ]
        )
    filled = [i for i in range(len(headers)) if i == 0 or any(cells[i] != NONE for cells in rows)]
    return [headers[i] for i in filled], [[cells[i] for i in filled] for cells in rows]


def legend(comparison: Comparison) -> str:
    """Say in words what the columns mean."""
    first, random = comparison.reference, comparison.random
    count = first.evaluation.episodes
    lines = [
        f"{comparison.env} ({first.evaluation.backend}), {counted(count)} each, same seeds. "
        f"ratio: 0 is random ({number(random.mean)}), 1 is {first.name}. "
        f"≥ {comparison.wanted_ratio:g}?: paired one-sided t-test at level {comparison.alpha:g}."
    ]
    tested = next((row.parity for row in comparison.rows if row.parity), None)
    if tested is not None:
        each = " of each task" if random.tasks else ""
        lines.append(
            f"{tested.episodes} episodes{each} cannot show what happens in less than {100 * tested.unseen_rate:.1f} % "
            "of them: rare falls may be missed."
        )
    return "\n".join([*lines, *comparison.notes])


def to_markdown(comparison: Comparison) -> str:
    """Return the comparison as a Markdown table with its legend."""
    headers, rows = comparison_cells(comparison)
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (headers, *rows)]
    rule = ["---"] + ["---:"] * (len(headers) - 1)
    lines = ["| " + " | ".join(cells) + " |" for cells in (escaped[0], rule, *escaped[1:])]
    return "\n".join(lines) + "\n\n" + legend(comparison) + "\n"


def to_text(comparison: Comparison) -> str:
    """Return the comparison as aligned plain text with its legend."""
    headers, rows = comparison_cells(comparison)
    widths = [max(len(cells[i]) for cells in (headers, *rows)) for i in range(len(headers))]
    lines = []
    for cells in (headers, *rows):
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines) + "\n\n" + legend(comparison) + "\n"


def to_rich(comparison: Comparison, width: int = 120) -> Table:
    """Return the comparison as a table for terminals: one line per policy, or one column where that is too wide."""
    headers, rows = comparison_cells(comparison)
    styles = ["" if r.parity is None else "green" if r.parity.passed else "yellow" for r in comparison.rows]
    columns = [max(len(cells[i]) for cells in (headers, *rows)) for i in range(len(headers))]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    if sum(columns) + 2 * len(columns) <= width:
        for i, header in enumerate(headers):
            table.add_column(header, justify="right" if i else "left", no_wrap=True)
        for cells, style in zip(rows, styles, strict=True):
            table.add_row(*map(escape, cells), style=style)
        return table
    room = width - max(map(len, headers)) >= 6 * len(rows)
    table.add_column(headers[0], style="dim", overflow="fold", min_width=1, no_wrap=room)
    for cells, style in zip(rows, styles, strict=True):
        table.add_column(escape(cells[0]), justify="right", style=style, overflow="fold", min_width=1)
    for i, header in enumerate(headers[1:], start=1):
        table.add_row(header, *(escape(cells[i]) for cells in rows))
    return table


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print a comparison."""
    console = console or Console()
    console.print(to_rich(comparison, console.width))
    console.print()
    console.print(legend(comparison), style="dim", highlight=False, markup=False)


def print_evaluation(found: Evaluation, console: Console | None = None) -> None:
    """Print an evaluation."""
    console = console or Console()
    acts = "" if found.deterministic else ", sampled actions"
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row("mean return", number(found.mean), f"95 % interval {interval(found.mean_interval)}")
    table.add_row("interquartile mean", number(found.iqm), f"95 % interval {interval(found.iqm_interval)}")
    table.add_row("std", number(found.std), f"from {number(found.min)} to {number(found.max)}")
    shortest, longest = int(found.lengths.min()), int(found.lengths.max())
    table.add_row("steps", number(found.mean_length), f"from {shortest} to {longest}")
    for task in found.tasks:
        table.add_row(task.env, number(task.mean), f"95 % interval {interval(task.mean_interval)}")
    seeds = " to ".join(map(str, dict.fromkeys((int(found.seeds[0]), int(found.seeds[-1])))))
    console.print(f"{found.name} in {found.env} ({found.backend})", highlight=False, markup=False, style="bold")
    console.print(table, highlight=False)
    speed = found.env_steps / max(found.seconds, 1e-9)
    console.print(
        f"{counted(found.episodes)}, {'seed' if found.episodes == 1 else 'seeds'} {seeds}{acts}; "
        f"{counted(found.env_steps, 'env step')} in "
        f"{found.seconds:.1f} s ({speed:.0f} per second)",
        style="dim",
        highlight=False,
    )


def write_table(result: Comparison | Evaluation, path: str | os.PathLike[str]) -> Path:
    """Write a result as ``.json``, or a comparison as ``.md`` or ``.txt``.

    Raises:
        UserError: Another suffix, or the file cannot be written.
    """
    path = Path(path)
    writers: dict[str, Any] = {".json": lambda r: json.dumps(r.to_json(), indent=1) + "\n"}
    if isinstance(result, Comparison):
        writers |= {".md": to_markdown, ".txt": to_text}
    if path.suffix not in writers:
        raise UserError(f"cannot write a table to {path}: take one of {', '.join(writers)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(writers[path.suffix](result), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path
