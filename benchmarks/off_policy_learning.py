"""What is learnt from a replay: ours against Stable-Baselines3 with the same hyperparameters, at equal env steps.

    python benchmarks/off_policy_learning.py --seeds 3
    python benchmarks/off_policy_learning.py --only CartPole Pendulum --json out.json
    python benchmarks/off_policy_learning.py --quick

Both sides train with the settings of one of our presets (``sb3_models.py`` translates them) and are judged by the
same deterministic episodes in plain gymnasium environments: five times on the way and at the end. Every run is a fresh
process with one thread; seconds are those of training alone. With ``--json`` every run is written down at once, and one
that is already there is not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fresh import fresh, machine, spread, turns
from learning import interval
from understudy.config import merge, nest

console = Console(highlight=False)
Row = dict[str, Any]
TASKS: dict[str, tuple[str, str, int]] = {
    "dqn CartPole": ("dqn-cartpole", "CartPole-v1", 50_000),
    "sac Pendulum": ("sac-pendulum", "Pendulum-v1", 20_000),
    "td3 Pendulum": ("td3-pendulum", "Pendulum-v1", 20_000),
    "dqn LunarLander": ("dqn-lunarlander", "LunarLander-v3", 100_000),
    "sac LunarLander": ("sac-lunarlander", "LunarLanderContinuous-v3", 100_000),
    "td3 LunarLander": ("td3-lunarlander", "LunarLanderContinuous-v3", 100_000),
    "sac HalfCheetah": ("sac-halfcheetah", "HalfCheetah-v5", 100_000),
    "td3 HalfCheetah": ("td3-halfcheetah", "HalfCheetah-v5", 100_000),
    "dqn Breakout": ("dqn-minatar-breakout", "MinAtar/Breakout-v1", 100_000),
}
"""Preset, environment and env steps."""
QUICK = 1_000
"""Env steps with ``--quick``, which shows that everything runs and nothing else."""


def job_of(task: str, seed: int, arguments: argparse.Namespace) -> Row:
    """Return one run, of either side."""
    preset, env, budget = TASKS[task]
    budget = QUICK if arguments.quick else arguments.env_steps or budget
    settings: dict[str, Any] = {
        "env": {"id": env, "backend": "gymnasium"},
        "evaluation": {"every": 0, "final": 0},
        "stop": {"env_steps": budget, "score": None},
        "seed": seed,
    }
    if arguments.quick:
        settings["replay"] = {"warm_up": QUICK // 2}
    settings = merge(settings, nest(dict(pair.split("=", 1) for pair in arguments.pairs)))
    return {
        "settings": settings, "preset": preset, "env": env, "episodes": 1 if arguments.quick else arguments.episodes,
        "every": budget // 5, "score": 1e9, "final": True, "seed": seed,
    }  # fmt: skip


def main() -> None:
    """Run what is not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20, help="of every evaluation")
    parser.add_argument("--only", nargs="*", default=[], help="tasks whose name holds one of the words")
    parser.add_argument("--sides", nargs="*", default=["sb3", "ours"], choices=("sb3", "ours"))
    parser.add_argument("--env-steps", type=int, default=0, help="instead of the budgets of the tasks")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} env steps and one episode")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="pairs", help="of both sides")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.json and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())["rows"]
    there = {(row["task"], row["side"], row["seed"]) for row in rows}
    for task in TASKS:
        if arguments.only and not any(word in task for word in arguments.only):
            continue
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for side in turns(arguments.sides, seed):
                if (task, side, seed) in there:
                    continue
                found = fresh({"side": side, "vec": "dummy", **job_of(task, seed, arguments)})
                rows.append({"task": task, "side": side, "seed": seed, **found})
                told = ", ".join(f"{mean:.4g}" for _, _, mean in found["curve"])
                mean = float(np.mean(found["returns"]))
                console.print(f"{task} {side} seed {seed}: {mean:.5g} (on the way {told}), {found['wall']:.1f} s")
                if arguments.json:
                    data = {"benchmark": "off-policy learning", "machine": machine(), "rows": rows}
                    arguments.json.write_text(json.dumps(data, indent=1))
    show(rows)


def show(rows: list[Row]) -> None:
    """Print returns and seconds."""
    table = Table("task", "env steps", "side", "return at the end (95 %)", "of each seed", "on the way", "seconds")
    for task in dict.fromkeys(row["task"] for row in rows):
        for side in ("sb3", "ours"):
            mine = sorted((r for r in rows if (r["task"], r["side"]) == (task, side)), key=lambda row: row["seed"])
            if not mine:
                continue
            returns = [row["returns"] for row in mine]
            low, high = interval(returns)
            text = f"{np.mean(returns):.5g} [{low:.5g}, {high:.5g}]"
            each = ", ".join(f"{np.mean(r):.4g}" for r in returns)
            least = min(len(row["curve"]) for row in mine)
            curve = [np.mean([row["curve"][i][2] for row in mine]) for i in range(least)]
            on_the_way = ", ".join(f"{mean:.4g}" for mean in curve)
            walls = spread([row["wall"] for row in mine], 3)
            table.add_row(task, f"{mine[0]['env_steps']:,}", side, text, each, on_the_way, walls)
    console.print(table)


if __name__ == "__main__":
    main()
