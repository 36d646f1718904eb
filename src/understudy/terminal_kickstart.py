"""What ``understudy kickstart`` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from understudy.evaluation.speedup import Comparison, Saving
from understudy.evaluation.statistics import Interval, bootstrap_interval
from understudy.evaluation.tables import number
from understudy.terminal_progress import console
from understudy.terminal_training import Live, print_header, print_policies, print_result


def begin(job: Any) -> None:
    """Print what is about to run, and what the user should know of it."""
    settings = job.settings
    print_header(settings, job.folder)
    for teacher in job.teachers:
        about = teacher.about
        console.print(f"  teacher {escape(about.source or about.algorithm)} ({about.algorithm})", soft_wrap=True)
    teaching = settings.teaching
    population = getattr(settings, "pbt", None)
    weight = "moved by the population" if population and population.population else teaching.weight
    more = f", c {teaching.rl_weight}" if hasattr(teaching, "rl_weight") else ""
    console.print(f"  λ {escape(weight)}{escape(more)}", soft_wrap=True)
    behaviour = getattr(teaching, "behaviour", None)
    if behaviour is not None and behaviour.acts:
        how = "draws its actions" if behaviour.samples else "by its mode"
        console.print(
            f"  the teacher acts ({how}): β {escape(behaviour.beta)}, first steps {escape(behaviour.jump)}",
            soft_wrap=True,
        )
    for note in job.notes:
        console.print(f"[yellow]note: {escape(note)}[/]", soft_wrap=True)


def run_kickstart(
    teachers: Sequence[str], settings: Mapping[str, Any], presets: Sequence[str], run: str | None, resume: bool
) -> None:
    """Train with teachers, then tell the score on fresh episodes and where the time went."""
    from understudy.kickstart_job import prepare
    from understudy.kickstarting import run_job
    from understudy.replay_kickstarting import method_of, prepare_replay, run_replay_job

    job: Any
    if replayed := method_of(settings, presets) != "actor_critic":
        job = prepare_replay(teachers, None, settings, presets, run, resume)
    else:
        job = prepare(teachers, None, settings, preset=presets, run=run, resume=resume)
    begin(job)
    with Live(job.settings.stop.env_steps) as live:
        result = (run_replay_job if replayed else run_job)(job, live)
    print_result(result, job.settings.evaluation.final)
    print_policies(job.folder, result.stopped)


def run_against_scratch(
    teachers: Sequence[str],
    settings: Mapping[str, Any],
    presets: Sequence[str],
    run: str | None,
    seeds: int,
    teacher_steps: float | None,
) -> None:
    """Train with and without teachers, and print what they saved."""
    from understudy.against_scratch import against_scratch
    from understudy.evaluation.speedup_picture import draw
    from understudy.kickstart_job import prepare

    job = prepare(teachers, None, settings, preset=presets, run=run)
    begin(job)

    def tell(kind: str, seed: int, result: Any) -> None:
        console.print(
            f"  {kind:11}  seed {seed}: {number(result.score)} after {result.env_steps:,} env steps, "
            f"{result.seconds['total']:.0f} s",
            highlight=False,
        )

    found = against_scratch(job, seeds, teacher_steps, tell)
    print_comparison(found)
    picture = draw(found, job.folder / "comparison.png")
    console.print(f"numbers: {escape(str(job.folder / 'comparison.json'))}", soft_wrap=True)
    console.print(f"picture: {escape(str(picture))}", soft_wrap=True)


def print_comparison(found: Comparison) -> None:
    """Print the savings as a table, and the final scores."""
    seeds = len(found.student)
    title = f"env steps to the teacher's score in {found.env}, {seeds} seed{'s' if seeds > 1 else ''} each"
    columns = ["score", "kickstarted", "scratch", "speed-up"]
    if found.teacher_steps is not None:
        columns.append(f"counting the teacher's {found.teacher_steps:,.0f}")
    table = Table(*columns, title=title)
    for row in found.savings:
        cells = [f"{row.share:.0%} = {number(row.score)}", _steps(row.student), _steps(row.scratch)]
        cells.append(_times(row, row.speedup, row.interval))
        if row.counted is not None and row.counted_interval is not None:
            cells.append(_times(row, row.counted, row.counted_interval))
        table.add_row(*cells)
    console.print(table)
    console.print(
        "  straight lines between evaluations; scores count from the random policy's up; [low, high]: 95 % bootstrap "
        "interval over seeds",
        markup=False,
    )
    console.print(
        f"  teacher {number(found.teacher)}, random {number(found.random)}; at the end: kickstarted "
        f"{_final(found.student_final)}, scratch {_final(found.scratch_final)}",
        markup=False,
    )
    if found.early:
        console.print(
            f"  {found.early} of {2 * seeds} runs ended before {found.budget:,} env steps, by stop.score or "
            "stop.seconds: never is not by then, ≥ counts their last evaluations",
            markup=False,
        )


def _steps(steps: Sequence[float]) -> str:
    reached = [k for k in steps if math.isfinite(k)]
    if not reached:
        return "never"
    text = f"{np.mean(reached):,.0f}"
    return text if len(reached) == len(steps) else f"{text} ({len(reached)} of {len(steps)} runs)"


def _times(row: Saving, value: float, interval: Interval) -> str:
    if not math.isfinite(value):
        return "–"
    text = f"{'≥ ' if row.at_least else ''}{value:.2f}x"
    return text if math.isnan(interval.low) else f"{text} [{interval.low:.2f}, {interval.high:.2f}]"


def _final(scores: Sequence[float]) -> str:
    text = number(float(np.mean(scores)))
    if len(scores) < 2:
        return text
    low, high = bootstrap_interval(np.array(scores))
    return f"{text} [{number(low)}, {number(high)}]"


__all__ = ["print_comparison", "run_against_scratch", "run_kickstart"]
