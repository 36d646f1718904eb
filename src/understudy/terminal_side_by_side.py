"""What the commands show where each behaviour of a Unity scene has a student, a teacher or a judgement of its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.evaluation.tables import interval, number
from understudy.terminal import Live, write_json
from understudy.terminal_progress import ProgressLine, console


class _Line(ProgressLine):
    """Shows the rounds of all behaviours in one line."""

    def __init__(self, budget: int) -> None:
        super().__init__("train", budget, 2.0)
        self._texts: dict[str, str] = {}
        self._steps: dict[str, int] = {}

    def __call__(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Show one round of one behaviour."""
        self._steps[name] = metrics["env_steps"]
        told = f"{name} {metrics['env_steps']:,} steps"
        if "training_return" in metrics:
            told += f", return {metrics['training_return']:.4g}"
        self._texts[name] = told
        self.update(sum(self._steps.values()), "  ".join(self._texts.values()))


def train_behaviours(
    settings: Mapping[str, Any], preset: str | None, behaviors: Mapping[str, str], run: str | None
) -> bool:
    """Train all behaviours of a scene side by side; returns False where there is only one to train."""
    from understudy.side_by_side.parts import plan

    found = plan(settings, preset, behaviors, run)
    if found is None:
        return False
    _train(found)
    return True


def resume_behaviours(folder: str, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Go on with the runs of a folder."""
    from understudy.side_by_side.parts import resumed

    _train(resumed(Path(folder), saved, settings))


def _train(plan: Any) -> None:
    from understudy.side_by_side.learn import train_side_by_side

    what = "player" if plan.players == 1 else "players"
    scene = plan.parts[0].spec.id
    console.print(
        f"[bold]{escape(scene)}[/]  {len(plan.parts)} behaviours side by side, {plan.players} {what}; "
        f"folder {escape(str(plan.folder))}",
        soft_wrap=True,
    )
    for part in plan.parts:
        agents = part.settings.rollout.num_envs
        console.print(f"  {escape(part.name)}: {agents} agents, {part.settings.method}, {part.folder}", soft_wrap=True)
    with _Line(sum(part.settings.stop.env_steps for part in plan.parts)) as line:
        found = train_side_by_side(plan, line)
    table = Table("behaviour", "env steps", "updates", "return", "95 % interval", "steps of an episode", box=None)
    for name, one in found.items():
        judged = one.judged
        told = ["–"] * 3
        if judged is not None:
            told = [number(judged.mean), escape(interval(judged.mean_interval)), number(judged.mean_length)]
        table.add_row(escape(name), f"{one.env_steps:,}", f"{one.updates:,}", *told)
    console.print(table, highlight=False)
    if any(one.judged is not None for one in found.values()):
        console.print("judged together, each among the final policies of the others")
    for one in found.values():
        console.print(f"policy: {escape(str(one.policy))}", soft_wrap=True)


def distill_behaviours(
    teachers: Mapping[str, str],
    env: Sequence[str | EnvSpec] | None,
    settings: Mapping[str, Any],
    preset: str | None,
    run: str | None,
    resume: bool,
    players: int | None = None,
) -> None:
    """Distil a teacher for each behaviour, and compare all students with all teachers."""
    from understudy.side_by_side.distill import distill_each

    if not env or len(env) != 1:
        raise UserError("teachers by behaviour need the scene that they act in: one --env unity:PATH")
    spec = env[0] if isinstance(env[0], EnvSpec) else EnvSpec(env[0])

    def begin(name: str, job: Any) -> Any:
        network = "x".join(map(str, job.settings.student.hidden)) or "a linear student"
        console.print(f"[bold]{escape(name)}[/]: {escape(job.teacher.about.source)} into {network}", soft_wrap=True)
        return Live(job.settings.stop.env_steps, job.settings.stop.ratio)

    folder, found = distill_each(teachers, spec, settings, preset, run, resume, begin, players)
    console.print("[bold]all students together against all teachers together[/]")
    table = Table("behaviour", "stopped by", "env steps", "teacher", "student", box=None)
    for name, one in found.items():
        told = [
            "–" if judged is None else f"{number(judged.mean)} {interval(judged.mean_interval)}"
            for judged in (one.teacher, one.student)
        ]
        table.add_row(escape(name), one.result.stopped, f"{one.result.env_steps:,}", *(escape(text) for text in told))
    console.print(table, highlight=False)
    console.print(f"students: {escape(str(folder))}", soft_wrap=True)


def evaluate_behaviours(policies: Mapping[str, Path], arguments: argparse.Namespace) -> None:
    """Evaluate the policies of all behaviours, each among the others."""
    from understudy.evaluation.tables import print_evaluation
    from understudy.side_by_side.judge import judge, own_scene

    if arguments.env is None:
        raise UserError(f"{arguments.policy} holds policies of a Unity scene: say which with --env unity:PATH")
    if arguments.stochastic:
        raise UserError("policies of several behaviours act by their modes: leave --stochastic out")
    spec = arguments.env if isinstance(arguments.env, EnvSpec) else EnvSpec(arguments.env)
    paths = {name: str(path) for name, path in policies.items()}
    episodes, seed, players = arguments.episodes, arguments.seed, arguments.num_envs
    scenes = {name: own_scene(spec, path) for name, path in paths.items()}
    found = {name: judge(scenes[name], name, paths, episodes, seed, players) for name in paths}
    for name, judged in found.items():
        console.print(f"[bold]{escape(name)}[/]")
        print_evaluation(judged, console)
    write_json(arguments.json, {name: judged.to_json() for name, judged in found.items()})
