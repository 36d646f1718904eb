"""Ours against the classic recipe on the same teacher, in one run: seconds and environment steps to parity.

    python benchmarks/distillation.py ../shared/zoo/ppo/AntBulletEnv-v0_1 --seeds 5

For every seed the classic recipe and ours run one after the other (alternating who goes first), both judged by the same
parity test on the same evaluation episodes (ratio 0.95, one-sided, 95 %). ``working`` seconds are sampling and
training; ``all`` adds evaluation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from classic_recipe import Outcome, run, student_spec
from understudy.config import merge, nest
from understudy.distill_job import DistillJob, prepare
from understudy.distill_session import make_execution
from understudy.distillation import distill
from understudy.envs.make import make
from understudy.evaluation.judge import Judge
from understudy.execution.base import Setup
from understudy.execution.portable import portable

console = Console(highlight=False)


def classic(job: DistillJob, seed: int, tensors: bool, seconds: float) -> Outcome:
    """Run the classic recipe, judged as ours is."""
    env = make(job.env, 1)
    spec = student_spec(env, job.settings.student.hidden)
    env.close()
    evaluation = job.settings.evaluation
    setup = Setup(job.env, (0, 1), 1, spec, portable(job.teacher), evaluation.num_envs)
    execution = make_execution(job.settings, setup, job.teacher)
    try:
        first = replace(job.settings, seed=seed).judge_seed
        judge = Judge(execution.evaluate, evaluation, job.settings.stop, seed=first)
        return run(job.teacher, job.env, judge, seed, job.settings.student.hidden, tensors, seconds)
    finally:
        execution.close()


def ours(teacher: str, env: str | None, settings: dict[str, Any], preset: str | None, seed: int) -> Outcome:
    """Run ours with one seed."""
    with tempfile.TemporaryDirectory() as folder:
        settings = merge(settings, {"seed": seed})
        job = prepare([teacher], [env] if env else None, settings, preset=preset, run=Path(folder) / "run")
        result = distill(job)
    seconds = dict(result.seconds)
    seconds["learn"] += seconds["label"]
    seconds["collect"] += seconds["start"]  # workers that start and build environments are part of the bill
    return Outcome(result.stopped == "parity", result.ratio, result.env_steps, result.updates, seconds)


def row(name: str, seed: int, outcome: Outcome) -> dict[str, Any]:
    """Flatten one outcome."""
    return {
        "method": name,
        "seed": seed,
        "parity": outcome.parity,
        "ratio": round(outcome.ratio, 4),
        "env_steps": outcome.env_steps,
        "updates": outcome.updates,
        "working": round(outcome.working, 2),
        "evaluate": round(outcome.seconds["evaluate"], 2),
        "all": round(outcome.working + outcome.seconds["evaluate"], 2),
        "history": outcome.history,
    }


def main() -> None:
    """Run the comparison and print the table."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("teacher")
    parser.add_argument("--env")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--preset")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of ours and of the test")
    parser.add_argument("--tensors", action="store_true", help="the classic recipe with tensors instead of pairs")
    parser.add_argument("--classic-seconds", type=float, default=300.0, help="working seconds the classic recipe gets")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = nest(dict(pair.split("=", 1) for pair in arguments.set))
    env = [arguments.env] if arguments.env else None
    job = prepare([arguments.teacher], env, settings, preset=arguments.preset, run=Path(tempfile.mkdtemp()) / "unused")
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        sides = {
            "classic": lambda s=seed: classic(job, s, arguments.tensors, arguments.classic_seconds),
            "ours": lambda s=seed: ours(arguments.teacher, arguments.env, settings, arguments.preset, s),
        }
        for name in list(sides) if seed % 2 == 0 else list(sides)[::-1]:
            begin = time.perf_counter()
            rows.append(row(name, seed, sides[name]()))
            shown = {k: v for k, v in rows[-1].items() if k != "history"}
            console.print(shown, f"wall {time.perf_counter() - begin:.1f} s", soft_wrap=True)
    _table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def _table(rows: list[dict[str, Any]]) -> None:
    table = Table("method", "parity", "ratio", "env steps", "updates", "working s", "evaluation s", "all s")
    medians: dict[str, dict[str, float]] = {}
    for name in ("classic", "ours"):
        mine = [r for r in rows if r["method"] == name]
        medians[name] = {k: statistics.median(r[k] for r in mine) for k in ("working", "all", "env_steps")}
        cells = [_range([r[k] for r in mine]) for k in ("ratio", "env_steps", "updates", "working", "evaluate", "all")]
        table.add_row(name, f"{sum(r['parity'] for r in mine)} of {len(mine)}", *cells)
    console.print(table)
    for key in ("working", "all", "env_steps"):
        pairs = zip(
            (r for r in sorted(rows, key=lambda r: r["seed"]) if r["method"] == "classic"),
            (r for r in sorted(rows, key=lambda r: r["seed"]) if r["method"] == "ours"),
            strict=True,
        )
        ratios = [c[key] / o[key] for c, o in pairs]
        console.print(f"{key}: classic / ours, seed by seed: median {statistics.median(ratios):.2f} ({_range(ratios)})")


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.5g} [{min(values):.5g}, {max(values):.5g}]"


if __name__ == "__main__":
    main()
