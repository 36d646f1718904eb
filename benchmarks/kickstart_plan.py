"""What the parts of ``benchmarks/kickstarting.py`` share: rows to run over seeds, and tables of what they found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import understudy
from understudy.config import merge
from understudy.data import EnvSpec
from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.speedup import saving, steps_to
from understudy.evaluation.statistics import bootstrap_interval
from understudy.preset_files import preset

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Row:
    """One way of learning: with a teacher (by name) or without, and its settings.

    Attributes:
        teacher: Of the plan; empty for from scratch.
        settings: On top of the plan's.
        steps: Env steps, where they are not the plan's.
        population: Whether it is a population, of whose members the best counts.
    """

    teacher: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    population: bool = False


@dataclass(frozen=True)
class Plan:
    """One table.

    Attributes:
        name: Of the part, and of its folder.
        env: Where students learn.
        preset: Under the settings.
        steps: Env steps of a student.
        teachers: Policies by name.
        rows: By their names in the table.
        settings: Of all rows.
        goals: Scores to which env steps are counted.
        teacher_steps: Env steps that the teachers cost; None where that is not known.
        known: Scores of teachers that were measured before, by name.
        levels: What the teacher earns in the evaluation episodes of runs with a seed: there they end, and are compared.
    """

    name: str
    env: EnvSpec
    preset: str
    steps: int
    teachers: Mapping[str, Any]
    rows: Mapping[str, Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    goals: tuple[float, ...] = ()
    teacher_steps: int | None = None
    known: Mapping[str, float] = field(default_factory=dict)
    levels: Callable[[int], float] | None = None


def common(options: Any, env: EnvSpec, steps: int, seed: int) -> dict[str, Any]:
    """Return the settings that all runs share."""
    found: dict[str, Any] = {
        "env": env.to_json(),
        "evaluation": {
            "every": options.every,
            "episodes": options.episodes,
            "final": options.final,
            "wait": True,
            "num_envs": options.episodes,  # failed episodes run to their limit: all at once
        },
        "execution": {"type": options.execution, "num_workers": 2},
        "stop": {"env_steps": steps},
        "seed": seed,
    }
    if options.quick:
        found |= {"rollout": {"num_envs": 8, "steps": 16}, "update": {"minibatch": 64, "epochs": 1}}
    return found


def train_teacher(
    options: Any, env: EnvSpec, preset: str, steps: int, name: str, more: Mapping[str, Any] | None = None
) -> tuple[Path, int]:
    """Train a teacher, unless there is one from an earlier call; returns its folder and what it cost."""
    folder = options.out / "teachers" / name
    if not (folder / "summary.json").exists():
        print(f"training the teacher {name}", flush=True)
        given = merge(common(options, env, steps, 1_000), {"evaluation": {"every": options.scratch_every}})
        understudy.train(None, preset, merge(given, dict(more or {})), run=folder)
    return folder, int(json.loads((folder / "summary.json").read_text())["env_steps"])


def run_row(options: Any, plan: Plan, name: str, seed: int) -> Any:
    """Run one row with one seed; what an earlier call finished is not run again."""
    row = plan.rows[name]
    folder = options.out / plan.name / f"{name.replace(' ', '-').replace(',', '').replace('%', '')}-{seed}"
    if (folder / "summary.json").exists():
        return SimpleNamespace(**json.loads((folder / "summary.json").read_text()))
    given = merge(common(options, plan.env, row.steps or plan.steps, seed), dict(plan.settings))
    given = merge(given, dict(row.settings))
    if plan.levels is not None:
        given = merge(given, {"stop": {"score": plan.levels(seed)}})
    if not row.teacher:
        return understudy.train(None, plan.preset, given, run=folder)
    teacher = plan.teachers[row.teacher]
    if row.population:
        return understudy.kickstart_population(None, teacher, plan.preset, given, run=folder)
    return understudy.kickstart(None, teacher, plan.preset, given, run=folder)


def run_plan(options: Any, plan: Plan) -> dict[str, Any]:
    """Run all rows over all seeds, print the table and write ``OUT/NAME.json``."""
    options.out.mkdir(parents=True, exist_ok=True)
    played = {name: who for name, who in plan.teachers.items() if name not in plan.known} | {"random": "random"}
    mode = bool(preset(plan.preset).get("evaluation", {}).get("deterministic", True))  # as the students are judged
    scores = dict(plan.known) | {
        name: evaluate(who, plan.env, options.final, seed=3_000_000, num_envs=options.episodes, deterministic=mode).mean
        for name, who in played.items()
    }
    rows = {name: row for name, row in plan.rows.items() if not options.only or name in options.only}
    results: dict[str, list[Any]] = {name: [] for name in rows}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in rows:
            result = run_row(options, plan, name, seed)
            results[name].append(result)
            print(f"{plan.name}: {name}, seed {seed}: {result.score:.3f}, {result.seconds['total']:.0f} s", flush=True)
    data: dict[str, Any] = {"part": plan.name, "env": plan.env.id, "scores": scores, "steps": plan.steps}
    data["teacher_env_steps"] = plan.teacher_steps
    data["rows"] = [row_of(name, runs, plan, scores) for name, runs in results.items()]
    if "scratch" in results:
        best = max(score for name, score in scores.items() if name != "random")
        curves = {name: [run.curve for run in runs] for name, runs in results.items()}
        if plan.levels is not None:  # in shares of what the teacher earns in each run's own evaluation episodes
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            data["levels"] = levels = [plan.levels(seed) for seed in seeds]
            curves = {
                name: [shifted(curve, best - level) for curve, level in zip(found, levels, strict=True)]
                for name, found in curves.items()
            }
        data["savings"] = {
            name: savings(curves[name], curves["scratch"], best, scores["random"], plan)
            for name in results
            if name != "scratch" and best > scores["random"]
        }
    write(options, plan.name, data)
    show(data, plan)
    return data


def shifted(curve: Curve, by: float) -> Curve:
    """Return a curve with something added to its scores."""
    return [(steps, score + by) for steps, score in curve]


def row_of(name: str, runs: Sequence[Any], plan: Plan, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return what a row found; env steps that were never enough are null."""
    final = [run.score for run in runs]
    row: dict[str, Any] = {"name": name, "final": final, "interval": list(bootstrap_interval(np.array(final)))}
    for goal in plan.goals:
        steps = [steps_to(run.curve, goal, scores["random"]) for run in runs]
        row[f"to {goal:g}"] = [k if np.isfinite(k) else None for k in steps]
    row["curves"] = [run.curve for run in runs]
    row["seconds"] = [run.seconds["total"] for run in runs]
    return row


def savings(
    student: Sequence[Curve], scratch: Sequence[Curve], teacher: float, random: float, plan: Plan
) -> list[dict[str, Any]]:
    """Return the speed-up at shares of the teacher's score."""
    budget = max(plan.steps, max(row.steps for row in plan.rows.values()))
    found = []
    for share in (0.5, 0.8, 0.95, 1.0):
        one = saving(share, student, scratch, teacher, random, budget, plan.teacher_steps)
        counted = None if one.counted is None else [one.counted, *(one.counted_interval or ())]
        found.append({"share": share, "score": one.score, "speedup": one.speedup, "interval": list(one.interval)})
        found[-1] |= {"at_least": one.at_least, "counting the teacher": counted}
    return found


def write(options: Any, name: str, data: Mapping[str, Any]) -> None:
    """Write JSON; what is no number becomes null."""
    text = json.dumps(data, indent=2, default=float).replace("NaN", "null").replace("Infinity", "null")
    (options.out / f"{name}.json").write_text(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def within(values: Sequence[float], interval: Sequence[float]) -> str:
    """``0.95 [0.94, 0.96]``."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} [{interval[0]:.3f}, {interval[1]:.3f}]"


def show(data: Mapping[str, Any], plan: Plan) -> None:
    """Print what a plan found."""
    print(f"\n### {plan.name}: {plan.env.id}\n")
    head = ["", "final score", *(f"env steps to {goal:g}" for goal in plan.goals), "s per run"]
    cells = []
    for row in data["rows"]:
        line = [row["name"], within(row["final"], row["interval"])]
        for goal in plan.goals:
            steps = row[f"to {goal:g}"]
            reached = [k for k in steps if k is not None]
            line.append(f"{np.mean(reached):,.0f} ({len(reached)} of {len(steps)})" if reached else "never")
        cells.append([*line, f"{np.mean(row['seconds']):.0f}"])
    print(table(head, cells))
    print("\n" + ", ".join(f"{name} {score:.3f}" for name, score in data["scores"].items()))
    if plan.teacher_steps is not None:
        print(f"the teacher cost {plan.teacher_steps:,} env steps")
    if data.get("savings"):
        print("\nspeed-up against scratch at shares of the teacher's score (≥: scratch never came there)\n")
        shares = [f"{one['share']:.0%}" for one in next(iter(data["savings"].values()))]
        lines = [[name, *(_times(one) for one in found)] for name, found in data["savings"].items()]
        print(table(["", *shares], lines))


def _times(one: Mapping[str, Any]) -> str:
    if not np.isfinite(one["speedup"]):
        return "–"
    low, high = one["interval"]
    text = f"{'≥ ' if one['at_least'] else ''}{one['speedup']:.2f}x"
    return text if not np.isfinite(low) else f"{text} [{low:.2f}, {high:.2f}]"
