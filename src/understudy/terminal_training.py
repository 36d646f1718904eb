"""What ``understudy train`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from understudy.settings import ReplayedSettings, TrainSettings
from understudy.terminal_progress import ProgressLine, console

_SHOWN = (
    ("entropy", "entropy"), ("approx_kl", "KL"), ("explained_variance", "expl. var."),
    ("teacher_weight", "λ"), ("kl/teacher", "to teacher"), ("teacher_acted", "teacher acts"), ("td_loss", "TD loss"),
    ("q", "q"), ("alpha", "α"),
)  # fmt: skip
_EVERY = 2.0
"""Seconds between plain lines."""


class Live(ProgressLine):
    """Shows rounds of training; evaluations get a line of their own."""

    def __init__(self, budget: int) -> None:
        super().__init__("train", budget, _EVERY)
        self._return: float | None = None

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Show one round."""
        self._return = metrics.get("training_return", self._return)
        if "eval_return" in metrics:
            text = f"[bold]evaluation {metrics['eval_return']:.4g}[/] ± {metrics['eval_std']:.3g}"
            if "eval_capped_score" in metrics:
                text += f"  capped score {metrics['eval_capped_score']:.3f} of the teachers'"
            self.add(metrics["eval_env_steps"], f"{text}  ({metrics['eval_seconds']:.1f} s beside training)")
        text = f"{metrics['rate']:,.0f} steps/s"
        if self._return is not None:  # an episode has ended
            text += f"  return {self._return:.4g}"
        for name, label in _SHOWN:
            if name in metrics:
                text += f"  {label} {metrics[name]:.3g}"
        if metrics.get("lag"):
            text += f"  lag {metrics['lag']:.2g}"
        self.update(metrics["env_steps"], text)


def print_header(settings: TrainSettings | ReplayedSettings, folder: Path) -> None:
    """Print what is about to run, and where."""
    execution = settings.execution
    where = execution.type if execution.type == "single" else f"{execution.type}, {execution.num_workers} workers"
    what = "player" if settings.env.counts_players else "environment"
    what += "" if settings.rollout.num_envs == 1 else "s"
    console.print(
        f"[bold]{escape(settings.env.id)}[/]  {settings.rollout.num_envs} {what}, {where}; "
        f"run folder {escape(str(folder))}",
        soft_wrap=True,
    )


def run_train(settings: Mapping[str, Any], preset: str | None, run: str | None, resume: bool, profile: bool) -> None:
    """Train, then tell the score on fresh episodes and where the time went."""
    from understudy.training import resolve_training, run_folder, train

    resolved = resolve_training(settings, preset)
    folder = run_folder(resolved, run, resume)
    print_header(resolved, folder)
    with Live(resolved.stop.env_steps) as live:
        result = train(settings=resolved, run=folder, resume=resume, report=live)
    print_result(result, resolved.evaluation.final)
    if profile:
        print_profile(result.env_steps, result.seconds, resolved.execution.type, resolved.execution.num_workers)
    print_policies(folder, result.stopped)


def print_policies(folder: Path, stopped: str) -> None:
    """Print where the policy of a run is, and which one reached the score that ended it."""
    console.print(f"policy: {escape(str(folder / 'last.safetensors'))}", soft_wrap=True)
    if stopped == "score":
        console.print("  the score was reached by best.safetensors beside it, which evaluate and export take")


def print_result(result: Any, episodes: int) -> None:
    """Print the score of a ``TrainResult`` over so many fresh episodes, and where the time went."""
    seconds = result.seconds
    low, high = result.interval
    reasons = {"score": "the score was reached", "seconds": "the time is over"}
    console.print(f"[bold]{reasons.get(result.stopped, 'all env steps are done')}[/]", soft_wrap=True)
    if episodes:
        told = f"  return {result.score:.5g} [{low:.5g}, {high:.5g}] over {episodes} fresh episodes"
        console.print(told, markup=False)
    rate = result.env_steps / max(seconds["collect"] + seconds["learn"], 1e-9)
    console.print(f"  {result.env_steps:,} env steps, {result.updates:,} updates, {rate:,.0f} env steps/s")
    if not result.updates:
        console.print("[yellow]note: nothing was learnt: the run ended before its first update[/]", soft_wrap=True)
    if result.restarts:
        lost = f"{result.lost_episodes} unfinished episodes lost"
        console.print(f"  {result.restarts} workers or players were replaced, {lost}")
    print_split(seconds)


def print_split(seconds: Mapping[str, float]) -> None:
    """Print where the wall time of the learner and of the slowest worker went."""
    gradient = seconds.get("gradient", 0.0)
    waiting = max(seconds["collect"] - seconds["env"] - seconds["inference"] - gradient, 0.0)
    parts = {"start": seconds["start"], "env": seconds["env"], "inference": seconds["inference"]}
    parts["learning"] = seconds["learn"] + gradient
    text = ", ".join(f"{name} {value:.1f} s" for name, value in {**parts, "waiting": waiting}.items())
    console.print(f"  {seconds['total']:.1f} s: {text}; evaluation beside it {seconds['evaluate']:.1f} s")


def limit(env_steps: int, seconds: Mapping[str, float], execution: str) -> float:
    """Return the microseconds of wall time that a step would take if nothing were lost between its parts.

    In ``single``, ``sync`` and ``ray`` collection and learning take turns: the limit is a step's environment and
    inference time (of the slowest worker, who has 1 / N of the steps) and its learning time. In ``async`` they run side
    by side: the longer of the two. Workers that learn themselves (A3C) do all three in turn. Parts are wall times:
    where processes share cores, they hold what others took.
    """
    parts = _parts(env_steps, seconds)
    collecting, learning = parts["environment"] + parts["inference"], parts["learning"]
    beside = execution == "async" and "gradient" not in seconds
    return max(collecting, learning) if beside else collecting + learning


def print_profile(env_steps: int, seconds: Mapping[str, float], execution: str, workers: int) -> None:
    """Print the cost of a step, part by part, and the rate that the parts add up to; see ``limit``."""
    parts = _parts(env_steps, seconds)
    least = limit(env_steps, seconds, execution)
    wall = 1e6 * (seconds["collect"] + seconds["learn"]) / env_steps
    where = execution if execution == "single" else f"{execution}, {workers} workers"
    table = Table("per env step", "µs", "env steps/s", title=f"profile ({where})")
    for name, value in parts.items():
        table.add_row(name, f"{value:.1f}")
    table.add_row("[bold]limit[/]", f"{least:.1f}", f"{1e6 / least:,.0f}")
    table.add_row("[bold]reached[/]", f"{wall:.1f}", f"{1e6 / wall:,.0f} = {least / wall:.0%} of the limit")
    console.print(table)


def _parts(env_steps: int, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return microseconds per env step, of learning wherever it happens."""
    learning = seconds["learn"] + seconds.get("gradient", 0.0)
    parts = {"environment": seconds["env"], "inference": seconds["inference"], "learning": learning}
    return {name: 1e6 * value / env_steps for name, value in parts.items()}
