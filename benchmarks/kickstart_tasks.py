"""Ten MiniGrid and BabyAI tasks with missions, an expert for each, one larger student with an LSTM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import understudy
from kickstart_picture import draw
from kickstart_plan import common, table, train_teacher, within, write
from understudy.config import merge
from understudy.data import EnvSpec
from understudy.evaluation.speedup import saving, steps_to
from understudy.evaluation.statistics import bootstrap_interval
from understudy.evaluation.task_score import Level, capped_score
from understudy.io.log import read_log
from understudy.teachers.combine import combine
from understudy.teachers.load import load

PRESET = "ppo-minigrid-doorkey"
TASKS = (
    "MiniGrid-DoorKey-8x8-v0", "MiniGrid-KeyCorridorS3R1-v0", "MiniGrid-LavaGapS6-v0", "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-GoToDoor-6x6-v0", "BabyAI-GoToRedBallGrey-v0", "BabyAI-GoToLocalS5N2-v0", "BabyAI-OpenDoorColor-v0",
    "BabyAI-PickupLoc-v0", "BabyAI-UnlockLocal-v0",
)  # fmt: skip
LENGTH = 96
"""Bytes of a mission."""


def task(name: str) -> EnvSpec:
    """Return one task; all missions are of one length, so that all tasks see the same."""
    return EnvSpec(name, {}, ({"type": "mission", "length": LENGTH},))


def experts(options: Any) -> tuple[list[str], list[int]]:
    """Train one expert for each task."""
    keys = ["image", "direction", "mission"]
    small = {"policy": {"keys": keys}, "stop": {"score": options.expert_score}}
    names = TASKS[:2] if options.quick else TASKS
    found = [train_teacher(options, task(name), PRESET, options.expert_steps, name, small) for name in names]
    return [str(folder / "last.safetensors") for folder, _ in found], [steps for _, steps in found]


def student_settings(options: Any, env: EnvSpec, seed: int) -> dict[str, Any]:
    """Return the settings of the student, with teachers or without."""
    count = len(env.kwargs["tasks"])
    found = common(options, env, options.tasks_steps, seed)
    episodes = 4 if options.quick else 20  # of every task, all at once: those that fail run to their limit
    found["evaluation"] |= {"episodes": episodes, "num_envs": episodes * count, "every": options.tasks_every}
    width = 16 if options.quick else 256
    found["policy"] = {
        "keys": ["image", "direction", "mission", "task"], "encoder": "grid_mlp", "features": width // 2,
        "lstm": width, "hidden": [width], "value_hidden": [width],
    }  # fmt: skip
    per_task = 2 if options.quick else 4
    steps = 8 if options.quick else 40
    found["rollout"] = {"num_envs": per_task * count, "steps": steps}
    found["update"] = {"minibatch": per_task * count * steps // 4, "epochs": 1 if options.quick else 2, "lr": "5e-4"}
    return found


def capped_curve(folder: Path, levels: dict[str, Level]) -> list[tuple[int, float]]:
    """Return (env steps, capped score) of every evaluation in a run's log, and of the episodes after training."""
    rows = read_log(folder / "log.jsonl")
    known = list(levels.values())
    curve = [
        (row["eval_env_steps"], capped_score([row[f"eval_return/{name}"] for name in levels], known))
        for row in rows
        if "eval_return" in row
    ]
    summary = json.loads((folder / "summary.json").read_text())
    after = np.reshape(summary["returns"], (len(known), -1)).mean(axis=1)  # task after task, as they are played
    return [*curve, (summary["env_steps"], capped_score(after.tolist(), known))]


def run_student(options: Any, kind: str, files: list[str], env: EnvSpec, seed: int) -> Path:
    """Train one student, unless an earlier call has; returns its folder."""
    folder = options.out / "multitask" / f"{kind}-{seed}"
    if not (folder / "summary.json").exists():
        given = student_settings(options, env, seed)
        if kind == "scratch":
            understudy.train(None, PRESET, given, run=folder)
        else:
            taught = {"teaching": {"assignment": "task", "weight": options.tasks_weight}}
            understudy.kickstart(None, files, PRESET, merge(given, taught), run=folder)
    return folder


def run_tasks(options: Any) -> dict[str, Any]:
    """Train kickstarted students and students from scratch; print the paper's two headline figures."""
    files, costs = experts(options)
    env = combine([load(file) for file in files]).about.env
    assert env is not None
    kinds = [kind for kind in ("kickstarted", "scratch") if not options.only or kind in options.only]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    folders = {kind: [run_student(options, kind, files, env, seed) for seed in seeds] for kind in kinds}
    if len(kinds) < 2:
        print(f"only {kinds[0]}: the table needs both")
        return {}
    told = json.loads((folders["kickstarted"][0] / "scores.json").read_text())["tasks"]
    levels = {name: Level(**level) for name, level in told.items()}
    curves = {kind: [capped_curve(folder, levels) for folder in found] for kind, found in folders.items()}
    return report(options, curves, levels, sum(costs))


def report(options: Any, curves: dict[str, list[Any]], levels: dict[str, Level], cost: int) -> dict[str, Any]:
    """Print and write what the students' curves of capped scores say."""
    final = {kind: [curve[-1][1] for curve in found] for kind, found in curves.items()}
    if not all(level.teacher > level.random for level in levels.values()):
        weak = [name for name, level in levels.items() if not level.teacher > level.random]
        print(f"left out, their experts are no better than chance: {', '.join(weak)}")
    if not np.isfinite([*final["kickstarted"], *final["scratch"]]).all():
        nothing = {"part": "multitask", "levels": {name: level._asdict() for name, level in levels.items()}}
        write(options, "multitask", nothing | {"curves": curves, "experts_env_steps": cost})
        return nothing
    end = float(np.mean(final["scratch"]))
    counted = saving(1.0, curves["kickstarted"], curves["scratch"], end, 0.0, options.tasks_steps, cost)
    data: dict[str, Any] = {"part": "multitask", "levels": {name: level._asdict() for name, level in levels.items()}}
    data |= {"final": final, "curves": curves, "experts_env_steps": cost, "steps": options.tasks_steps}
    data |= {"speedup": counted.speedup, "interval": list(counted.interval), "counting the experts": counted.counted}
    data["final ratio"] = float(np.mean(final["kickstarted"])) / end if end > 0 else None
    write(options, "multitask", data)
    draw(curves, options.out / "multitask.svg", f"Capped score over {len(levels)} tasks, a line for each seed")
    print(f"\n### multitask: {len(levels)} tasks, mean over tasks of min(1, (G_S - G_R) / (G_T - G_R))\n")
    rows = []
    for kind, found in curves.items():
        reached = [steps_to(curve, end, 0.0) for curve in found]
        known = [k for k in reached if np.isfinite(k)]
        cells = [kind, within(final[kind], bootstrap_interval(np.array(final[kind])))]
        cells.append(f"{np.mean(known):,.0f} ({len(known)} of {len(reached)})" if known else "never")
        rows.append(cells)
    print(table(["", "capped score at the end", f"env steps to scratch's {end:.3f}"], rows))
    told = "–" if data["final ratio"] is None else f"{data['final ratio']:.2f}"
    print(f"\nfinal ratio {told}, speed-up {counted.speedup:.2f}x, experts cost {cost:,} env steps")
    return data
