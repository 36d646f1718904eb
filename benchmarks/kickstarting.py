"""Kickstarting on MiniGrid DoorKey-6x6: what a strong and a weak teacher save, under four schedules.

    python benchmarks/kickstarting.py --seeds 5 --out runs/kickstarting
    python benchmarks/kickstarting.py --quick

A teacher is trained first (or given by ``--teacher``). Then, for every seed: from scratch; with the teacher, lambda
linear from 1 to 0, constant 1, and without rewards (``distill only``); and the last three again with a weak teacher,
which is the same one mixed with 50 % uniform noise. Scores are evaluation episodes of sampled actions; env steps to a
score are read off straight lines between evaluations.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import understudy
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.speedup import steps_to
from understudy.evaluation.statistics import bootstrap_interval
from understudy.teachers.load import load

console = Console(highlight=False)
ENV = EnvSpec("MiniGrid-DoorKey-6x6-v0", {}, ({"type": "mission", "length": 64},))
PRESET = "ppo-minigrid-doorkey"
NOISE = 0.5
GOALS = (0.9, 0.95)


def weakened(teacher: Any, noise: float) -> Any:
    """Return the teacher's policy mixed with the uniform one: p = (1 - noise) p_T + noise / n."""
    observations, actions = spaces_of(ENV)

    def weak(obs: Any) -> Any:
        probabilities = teacher.label(obs)[0].params.softmax(-1).numpy()
        return np.log((1 - noise) * probabilities + noise / probabilities.shape[1])

    return load(weak, env=ENV, observation_space=observations, action_space=actions, output="logits")


def settings(options: argparse.Namespace, steps: int, seed: int) -> dict[str, Any]:
    """Return what all runs share."""
    evaluation = {"every": options.every, "episodes": options.episodes, "final": options.final, "wait": True}
    execution = {"type": options.execution, "num_workers": 2}
    stop = {"env_steps": steps}
    return {"env": ENV.to_json(), "evaluation": evaluation, "execution": execution, "stop": stop, "seed": seed}


def train_teacher(options: argparse.Namespace) -> tuple[Path, int | None]:
    """Train the teacher, unless one is given or there is one from an earlier call; returns what it cost."""
    if options.teacher:
        return Path(options.teacher), None
    folder = options.out / "teacher"
    if not (folder / "summary.json").exists():
        console.print("training the teacher")
        understudy.train(None, PRESET, settings(options, options.teacher_steps, 1_000), run=folder)
    return folder / "last.safetensors", int(json.loads((folder / "summary.json").read_text())["env_steps"])


def schedules(options: argparse.Namespace) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each row's teacher and its settings."""
    off = {"rl_weight": "0"}
    rows: dict[str, tuple[str, dict[str, Any]]] = {"scratch": ("", {})}
    for who, steps in (("strong", options.linear[0]), ("weak", options.linear[1])):
        rows[f"{who}, linear"] = (who, {"weight": f"linear(1, 0, {steps})"})
        rows[f"{who}, constant"] = (who, {"weight": "1"})
        rows[f"{who}, distill only"] = (who, {"weight": "1", **off})
    return rows


def run_one(options: argparse.Namespace, name: str, teacher: Any, teaching: dict[str, Any], seed: int) -> Any:
    """Run one row with one seed."""
    folder = options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not teaching:
        return understudy.train(None, PRESET, settings(options, options.scratch_steps, seed), run=folder)
    given = {**settings(options, options.steps, seed), "teaching": teaching}
    if "rl_weight" in teaching:
        given["objective"] = {"entropy_weight": "0"}  # else the student would end more random than its teacher
    return understudy.kickstart(None, teacher, PRESET, given, run=folder)


def summarize(results: dict[str, list[Any]], random: float) -> list[dict[str, Any]]:
    """Return one row for each schedule; env steps that were never enough are null."""
    rows = []
    for name, runs in results.items():
        final = [run.score for run in runs]
        row: dict[str, Any] = {"name": name, "final": final, "interval": list(bootstrap_interval(np.array(final)))}
        for goal in GOALS:
            steps = [steps_to(run.curve, goal, random) for run in runs]
            row[f"to {goal}"] = [k if np.isfinite(k) else None for k in steps]
        row["curves"] = [run.curve for run in runs]
        row["seconds"] = [run.seconds["total"] for run in runs]
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], scores: dict[str, float], cost: int | None) -> None:
    """Print the table."""
    known = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    table = Table("", "final score", *(f"env steps to {goal}" for goal in GOALS), "s per run", title="DoorKey-6x6")
    for row in rows:
        low, high = row["interval"]
        cells = [f"{np.mean(row['final']):.3f} [{low:.3f}, {high:.3f}]"]
        for goal in GOALS:
            steps = row[f"to {goal}"]
            reached = [k for k in steps if k is not None]
            cells.append(f"{np.mean(reached):,.0f} ({len(reached)} of {len(steps)})" if reached else "never")
        table.add_row(row["name"], *cells, f"{np.mean(row['seconds']):.0f}")
    console.print(table)
    console.print(f"teachers: {known}" + ("" if cost is None else f"; the strong one cost {cost:,} env steps"))


def parse() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed of a few thousand steps: does it run?")
    parser.add_argument("--only", nargs="*", help="rows to run, such as  'weak, linear'")
    parser.add_argument("--teacher", help="a policy for DoorKey-6x6 instead of training one")
    parser.add_argument("--teacher-steps", type=int, default=600_000)
    parser.add_argument("--steps", type=int, default=172_032, help="env steps of a run with a teacher")
    parser.add_argument("--scratch-steps", type=int, default=600_000)
    parser.add_argument("--linear", type=int, nargs=2, default=(60_000, 80_000), help="end of lambda, strong and weak")
    parser.add_argument("--every", type=int, default=8_192, help="env steps between evaluations")
    parser.add_argument("--episodes", type=int, default=50, help="of each evaluation")
    parser.add_argument("--final", type=int, default=200, help="episodes after training")
    parser.add_argument("--execution", default="sync")
    parser.add_argument("--out", type=Path, default=Path("runs/kickstarting"))
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.teacher_steps, options.steps, options.scratch_steps = 1, 8_192, 4_096, 4_096
        options.linear, options.every, options.episodes, options.final = (2_000, 3_000), 2_048, 5, 5
        options.out = options.out / time.strftime("quick-%H%M%S")
    return options


def main() -> None:
    """Run everything and write results.json."""
    warnings.filterwarnings("ignore", message="teaching.weight")  # the constant rows are what is being measured
    options = parse()
    path, cost = train_teacher(options)
    strong = load(path, env=ENV)
    teachers = {"": None, "strong": strong, "weak": weakened(strong, NOISE)}
    scores = {
        name: evaluate(who, ENV, options.final, seed=3_000_000, num_envs=10, deterministic=False).mean
        for name, who in (("strong", strong), ("weak", teachers["weak"]), ("random", "random"))
    }
    rows = {name: row for name, row in schedules(options).items() if not options.only or name in options.only}
    results: dict[str, list[Any]] = {name: [] for name in rows}
    for seed in range(options.seeds):
        for name, (who, teaching) in rows.items():
            result = run_one(options, name, teachers[who], teaching, seed)
            results[name].append(result)
            console.print(f"{name:22} seed {seed}: {result.score:.3f}, {result.seconds['total']:.0f} s")
    found = summarize(results, scores["random"])
    data = {"scores": scores, "teacher_env_steps": cost, "rows": found}
    (options.out / "results.json").write_text(json.dumps(data, indent=2))
    show(found, scores, cost)
    console.print(f"numbers: {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
