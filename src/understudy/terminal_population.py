"""What ``understudy kickstart --pbt`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from understudy.config import merge
from understudy.evaluation.tables import number
from understudy.terminal_kickstart import begin
from understudy.terminal_progress import console


def run_population(
    teachers: Sequence[str], settings: Mapping[str, Any], presets: Sequence[str], run: str | None, resume: bool
) -> None:
    """Train a population, then tell the best member's score on fresh episodes."""
    from understudy.kickstart_job import prepare
    from understudy.population.train import DEFAULT_SIZE, check, concurrent, train_population, with_interval
    from understudy.population.values import LOG, PLACES, Result, interval

    job = prepare(
        teachers, None, merge({"pbt": {"population": DEFAULT_SIZE}}, settings), preset=presets, run=run, resume=resume
    )
    check(job)
    job = with_interval(job)
    begin(job)
    pbt, budget = job.settings.pbt, job.settings.stop.env_steps
    console.print(
        f"  {pbt.population} members of {budget:,} env steps each, {concurrent(job.settings)} at once, one process "
        f"each; exploits every {interval(job.settings):,} env steps",
        soft_wrap=True,
    )
    ranges = ", ".join(f"{PLACES[name]} {low:g} to {high:g}" for name, (low, high) in pbt.ranges.items())
    console.print(f"  moved by the population: {ranges}", soft_wrap=True)

    def tell(result: Result) -> None:
        numbers = ", ".join(f"{PLACES[name].split('.')[1]} {value:.3g}" for name, value in result.values.items())
        copied = f"  (copied member {result.parent})" if result.exploit else ""
        console.print(
            f"{result.env_steps:>12,} env steps  member {result.member}: evaluation {number(result.score)}  "
            f"{numbers}{copied}",
            soft_wrap=True,
        )

    result = train_population(job, tell)
    low, high = result.interval
    console.print("[bold]all env steps are done[/]")
    console.print(
        f"  return {result.score:.5g} [{low:.5g}, {high:.5g}] over {job.settings.evaluation.final} fresh episodes",
        markup=False,
    )
    console.print(
        f"  {result.env_steps:,} env steps of the best, {result.env_steps * pbt.population:,} of all members, "
        f"{result.seconds['total']:.1f} s"
    )
    for name, file in (("policy", "last.safetensors"), ("log", LOG), ("picture", "population.png")):
        console.print(f"{name}: {escape(str(job.folder / file))}", soft_wrap=True)
