"""What is learnt: ours against Stable-Baselines3 with the same hyperparameters, at equal env steps.

    python benchmarks/learning.py --seeds 3
    python benchmarks/learning.py --preset a2c --only CartPole

Both sides train with the settings of one of our presets (``sb3_models.py`` translates them; where ours normalises,
VecNormalize does there, and its statistics are used in evaluation). Then both play the same deterministic episodes in
plain gymnasium environments. Every run is a fresh process with one thread; seconds are those of training alone.
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
from understudy.config import merge, nest

console = Console(highlight=False)
BUDGETS = {"CartPole-v1": 50_000, "LunarLander-v3": 300_000, "HalfCheetah-v5": 300_000}


def interval(returns: list[list[float]], level: float = 0.95, resamples: int = 4000) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of [seeds][episodes]: seeds are drawn first, then their episodes.

    With three seeds it knows three values of what differs between seeds, so read it as a hint of the scatter.
    """
    rng, table = np.random.default_rng(0), np.array(returns)
    seeds, episodes = table.shape
    chosen = rng.integers(0, seeds, (resamples, seeds, 1))
    means = table[chosen, rng.integers(0, episodes, (resamples, seeds, episodes))].mean(axis=(1, 2))
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def jobs_of(env: str, env_steps: int, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the runs of one environment."""
    settings: dict[str, Any] = {
        "env": {"id": env, "backend": "gymnasium"},
        "evaluation": {"every": 0, "final": 0},
        "objective": {"reward_clip": 10.0},  # VecNormalize's own; rewards are divided by a running deviation before
        "stop": {"env_steps": env_steps},
        "execution": {"type": arguments.execution, "num_workers": 2},
    }
    settings = merge(settings, nest(dict(pair.split("=", 1) for pair in arguments.pairs)))
    common = {
        "settings": settings, "preset": arguments.preset, "env": env, "episodes": arguments.episodes, "final": True,
    }  # fmt: skip
    return {"sb3": {"side": "sb3", **common}, "ours": {"side": "ours", **common}}


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--preset", choices=("ppo", "a2c"), default="ppo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=50, help="of the final evaluation")
    parser.add_argument("--only", nargs="*", default=[], help="environments whose id holds one of the words")
    parser.add_argument("--env-steps", type=int, default=0, help="instead of the budgets of the environments")
    parser.add_argument("--execution", choices=("single", "sync"), default="single", help="ours")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="pairs", help="of both sides")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for env, budget in BUDGETS.items():
        if arguments.only and not any(word in env for word in arguments.only):
            continue
        jobs = jobs_of(env, arguments.env_steps or budget, arguments)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for side in turns(list(jobs), seed):
                job = jobs[side] | {"seed": seed, "settings": merge(jobs[side]["settings"], {"seed": seed})}
                rows.append({"env": env, "side": side, "seed": seed, **fresh(job)})
                row = rows[-1]
                mean = float(np.mean(row["returns"]))
                console.print(
                    f"{env} {side} seed {seed}: {mean:.5g}, {row['wall']:.1f} s, {row['env_steps']:,} env steps"
                )
    show(rows)
    if arguments.json:
        data = {"benchmark": f"learning {arguments.preset}", "machine": machine(), "rows": rows}
        arguments.json.write_text(json.dumps(data, indent=1))


def show(rows: list[dict[str, Any]]) -> None:
    """Print returns and seconds."""
    table = Table("environment", "env steps", "side", "mean return (95 %)", "of each seed", "seconds", "sb3 / ours")
    for env in dict.fromkeys(row["env"] for row in rows):
        here = sorted((row for row in rows if row["env"] == env), key=lambda row: row["seed"])
        walls = {side: [row["wall"] for row in here if row["side"] == side] for side in ("sb3", "ours")}
        for side in ("sb3", "ours"):
            mine = [row for row in here if row["side"] == side]
            returns = [row["returns"] for row in mine]
            low, high = interval(returns)
            text = f"{np.mean(returns):.5g} [{low:.5g}, {high:.5g}]"
            each = ", ".join(f"{np.mean(r):.4g}" for r in returns)
            ratios = [a / b for a, b in zip(walls["sb3"], walls["ours"], strict=True)] if side == "ours" else []
            steps = f"{max(row['env_steps'] for row in mine):,}"
            table.add_row(env, steps, side, text, each, spread(walls[side], 3), spread(ratios, 3))
    console.print(table)


if __name__ == "__main__":
    main()
