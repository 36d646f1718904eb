"""What the commands of the command line do: call the library, show what it found."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from understudy.errors import UserError
from understudy.terminal_progress import ProgressLine, console


class Live(ProgressLine):
    """Shows rounds of a distillation."""

    def __init__(self, budget: int, ratio: float) -> None:
        super().__init__("distil", budget)
        self._ratio = ratio

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Show one round."""
        text = f"round {metrics['round']}  loss {metrics.get('loss', float('nan')):.4g}"
        if "ratio" in metrics:
            goal = f"{100 * self._ratio:g}%"
            share = f"{metrics['ratio']:.1%}" if math.isfinite(metrics["ratio"]) else "an unknown share"
            text += f"  return {metrics['student_return']:.4g} = {share} of the teacher's (goal {goal})"
        if "parity_p" in metrics:
            text += f"  p {metrics['parity_p']:.3g}"
        self.update(metrics["env_steps"], text)


def _verdict(result: Any, ratio: float, alpha: float) -> str:
    if result.stopped == "parity":
        sure, share = f"{100 * (1 - alpha):g} %", f"{100 * ratio:g}%"
        return f"on par: at {sure} confidence the student reaches at least {share} of the teacher's return"
    if math.isnan(result.ratio):
        return f"budget ended ({result.stopped}) before the student was judged; the last student is kept"
    return f"budget ended ({result.stopped}) at {result.ratio:.1%} of the teacher's return; the best student is kept"


def run_distill(
    teachers: list[str],
    env: list[str] | None,
    settings: Mapping[str, Any],
    preset: str | None,
    run: str | None,
    resume: bool,
    ensemble: str | None,
) -> None:
    """Distil, then compare teacher and student on fresh episodes."""
    from understudy.distill_job import prepare
    from understudy.distillation import distill

    job = prepare(teachers, env, settings, preset=preset, run=run, resume=resume, ensemble=ensemble)
    network = "x".join(map(str, job.settings.student.hidden)) or "a linear student"
    console.print(f"[bold]{escape(job.teacher.about.algorithm)}[/] {escape(job.teacher.about.source)}")
    console.print(f"  in {job.env.id}, into {network}; run folder {escape(str(job.folder))}", soft_wrap=True)
    stop = job.settings.stop
    with Live(stop.env_steps, stop.ratio) as live:
        result = distill(job, report=live)
    seconds = result.seconds
    console.print(f"[bold]{_verdict(result, stop.ratio, stop.alpha)}[/]", soft_wrap=True)
    split = ", ".join(f"{name} {seconds[name]:.1f}" for name in ("collect", "label", "learn", "evaluate"))
    console.print(f"  {seconds['total']:.1f} s ({split}), {result.env_steps:,} env steps, {result.updates:,} updates")
    if job.settings.evaluation.final:
        _compare_at_end(result, job)
    best = result.folder / "best.safetensors"
    kept = best if best.exists() else best.with_name("last.safetensors")
    console.print(f"student: {escape(str(kept))}", soft_wrap=True)


def _compare_at_end(result: Any, job: Any) -> None:
    from understudy.evaluation.compare import compare
    from understudy.evaluation.picture import draw
    from understudy.evaluation.tables import print_comparison
    from understudy.policies.files import write_atomic

    evaluation, stop, seed = job.settings.evaluation, job.settings.stop, job.settings.final_seed
    found = compare(
        [result.teacher, result.student], job.env, evaluation.final, seed=seed, num_envs=evaluation.num_envs,
        names=["teacher", "student"], ratio=stop.ratio, alpha=stop.alpha,
    )  # fmt: skip
    print_comparison(found, console)
    picture = result.folder / "result.png"
    draw(found, picture)
    write_atomic(result.folder / "result.json", json.dumps(found.to_json(), indent=2).encode())
    console.print(f"picture: {escape(str(picture))}", soft_wrap=True)


def run_inspect(arguments: argparse.Namespace) -> None:
    """Print what a teacher is."""
    from rich.table import Table

    from understudy.teachers.inspect import inspect

    policy = _load(arguments.teacher, arguments.env)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in inspect(policy):
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    console.print(table)


def _load(source: str, env: str | None) -> Any:
    from understudy.distill_job import load_for

    return load_for(source, env)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate one policy."""
    from understudy.evaluation.evaluate import evaluate
    from understudy.evaluation.tables import print_evaluation

    policy, env = arguments.policy, arguments.env
    if policy != "random":
        policy = _load(policy, env)
        env = policy.about.env
    found = evaluate(
        policy, env, arguments.episodes, seed=arguments.seed, num_envs=_rows(arguments, env),
        deterministic=not arguments.stochastic,
    )  # fmt: skip
    print_evaluation(found, console)
    write_json(arguments.json, found.to_json())


def _rows(arguments: argparse.Namespace, env: Any) -> int:
    """Return how many environments run together: 8, or what ``--num-envs`` says."""
    from understudy.scenes import rows_in

    return 8 if arguments.num_envs is None else rows_in(env, arguments.num_envs)


def run_compare(arguments: argparse.Namespace) -> None:
    """Compare policies; the first is the reference."""
    from understudy.evaluation.compare import compare
    from understudy.evaluation.picture import check_picture, draw
    from understudy.evaluation.rendering import check_video
    from understudy.evaluation.tables import print_comparison

    if arguments.picture:
        check_picture(arguments.picture)
    if arguments.video:
        check_video(arguments.video)
    policies = [source if source == "random" else _load(source, arguments.env) for source in arguments.policy]
    names = [Path(source).stem if "/" in source or "." in source else source for source in arguments.policy]
    env = next((policy.about.env for policy in policies if policy != "random"), arguments.env)
    found = compare(
        policies, env, arguments.episodes, seed=arguments.seed, num_envs=_rows(arguments, env),
        names=names, deterministic=not arguments.stochastic,
    )  # fmt: skip
    print_comparison(found, console)
    write_json(arguments.json, found.to_json())
    if arguments.picture:
        draw(found, Path(arguments.picture))
        console.print(f"picture: {escape(arguments.picture)}")
    if arguments.video:
        from understudy.evaluation.play import compare_video

        compare_video(policies, arguments.video, names=names, env=env, seed=arguments.seed)
        console.print(f"video: {escape(arguments.video)}")


def write_json(path: str | None, found: Mapping[str, Any]) -> None:
    """Write what ``--json`` asks for, if it does.

    Raises:
        UserError: The file cannot be written.
    """
    if path:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(found, indent=2))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None


def run_play(arguments: argparse.Namespace) -> None:
    """Show or film a policy."""
    from understudy.envs.unity.options import is_unity
    from understudy.evaluation.play import play

    policy = _load(arguments.policy, arguments.env)
    if policy.about.env is not None and is_unity(policy.about.env.id):
        return _play_scene(policy, arguments)
    found = play(
        policy, policy.about.env, arguments.episodes, seed=arguments.seed, video=arguments.video,
        window=arguments.video is None,
    )  # fmt: skip
    console.print("return: " + ", ".join(f"{value:.1f}" for value in found.returns))
    if arguments.video:
        console.print(f"video: {escape(arguments.video)}")


def _play_scene(policy: Any, arguments: argparse.Namespace) -> None:
    """Let a policy act in a Unity scene, which shows itself in its own window, at the pace of life."""
    from dataclasses import replace

    from understudy.evaluation.evaluate import evaluate

    spec = policy.about.env
    if arguments.video:
        raise UserError(f"{spec.id}: the player shows itself and cannot be filmed from here: leave --video out")
    if spec.kwargs.get("no_graphics"):
        raise UserError(f"{spec.id}: nothing would be seen with --no-graphics: leave it out")
    shown = replace(spec, kwargs={"time_scale": 1.0, **spec.kwargs})
    found = evaluate(policy, shown, arguments.episodes, arguments.seed, num_envs=1)
    console.print("return: " + ", ".join(f"{value:.1f}" for value in found.returns))


def run_presets(arguments: argparse.Namespace) -> None:
    """List the presets with the comment at their beginning, or print one as it stands in its file."""
    from understudy.preset_files import preset_path, presets, read_yaml

    if arguments.name:
        path = preset_path(arguments.name)
        read_yaml(path)  # refuses what cannot be read
        sys.stdout.write(path.read_text())
        return
    texts = {name: path.read_text() for name, path in presets().items()}
    for command in ("train", "kickstart", "distill"):
        console.print(f"understudy {command} --preset NAME", style="bold")
        for name in sorted(name for name, text in texts.items() if _command_of(text) == command):
            lines = itertools.takewhile(lambda line: line.startswith("#"), texts[name].split("\n"))
            about = " ".join(line.lstrip("# ") for line in lines)
            console.print(f"  [bold]{name:22}[/] {escape(about)}", soft_wrap=True)


def _command_of(preset: str) -> str:
    """Say which command a preset is made for, by the sections of its text."""
    sections = set(re.findall(r"^(\w+):", preset, re.MULTILINE))
    if "teaching" in sections:
        return "kickstart"
    return "distill" if sections & {"behaviour", "data", "learning", "distance"} else "train"


def run_demo(arguments: argparse.Namespace) -> None:
    """Distil the teacher that ships with the package."""
    from understudy.preset_files import preset

    teacher = Path(__file__).parent / "assets" / "demo-teacher.safetensors"
    folder = Path(arguments.run)
    number = 1
    while (folder / "state.safetensors").exists():
        number += 1
        folder = Path(f"{arguments.run}-{number}")
    run_distill([str(teacher)], None, preset("demo"), None, str(folder), False, None)
