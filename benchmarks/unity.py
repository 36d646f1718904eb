"""Train in a Unity scene in every execution, and let its players fail; with the test player, which needs no Unity.

    python benchmarks/unity.py train --presets ppo-3dball ddpg-3dball --json unity.json
    python benchmarks/unity.py harm --presets ddpg-3dball --seeds 3 --picture harm.png
    python benchmarks/unity.py faults --count 50
    python benchmarks/unity.py distill [--teacher RUN]

``train``: PPO, DDPG or others on twelve balls in ``single`` (one player), ``sync`` and ``async`` (two players, two
workers). Steps of agents per second are those of collecting and learning; the episode length is that of 48 fresh
episodes after training. ``harm``: the same run beside one whose player resets all agents when one of them ends, as
adapters that know one environment per player do. ``faults``: players that die, hang, send NaN, garbage, or hang up, at
random moments of runs with two players; how many faults the runs survived, and how many episodes they cost.
``distill``: a 400x300 DDPG teacher into a 32x32 student on par, exported for Unity and checked in onnxruntime.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.evaluation.evaluate import evaluate
from understudy.io.log import read_log
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.training import resolve_training, train
from unity_distill import distill_row, print_row

PLAYER = Path(__file__).parents[1] / "tests" / "envs" / "unity_player.py"
KINDS = ("die", "hang", "nan", "garbage", "hangup")
LIMIT = 200
HARM_BUDGETS = [8_000, 12_000, 16_000, 24_000]
EXECUTIONS = {
    "single": {"type": "single"},
    "sync": {"type": "sync", "num_workers": 2},
    "async": {"type": "async", "num_workers": 2},
}
console = Console(highlight=False)


def settings_of(
    execution: str,
    players: int,
    env_steps: int,
    seed: int,
    arguments: tuple[str, ...],
    preset: str = "ppo-3dball",
    rollout: dict[str, int] | None = None,
    **kwargs: Any,
) -> TrainSettings | ReplayedSettings:
    """Describe one run."""
    return resolve_training(
        {
            "env": {"id": f"unity:{PLAYER}", "kwargs": {"env_args": ("--limit", str(LIMIT), *arguments), **kwargs}},
            "rollout": {"num_envs": players, **(rollout or {})},
            "evaluation": {"every": 0, "final": 0},
            "execution": EXECUTIONS[execution],
            "stop": {"env_steps": env_steps},
            "seed": seed,
        },
        preset,
    )


def train_rows(
    env_steps: int, seed: int, cases: list[tuple[str, str, int, tuple[str, ...]]], preset: str
) -> list[dict[str, Any]]:
    """Train each case (name, execution, players, arguments of the player) and judge it where nobody does harm."""
    rows = []
    for name, execution, players, arguments in cases:
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                settings=settings_of(execution, players, env_steps, seed, arguments, preset),
                run=Path(folder) / "run",
            )
            lines = read_log(Path(folder) / "run" / "log.jsonl")
            calm = settings_of("single", 1, env_steps, seed, ()).env.spec()
            judged = evaluate(result.policy, calm, episodes=48, num_envs=12, seed=10_000)
        rate = result.env_steps / (result.seconds["collect"] + result.seconds["learn"])
        rows.append(
            {
                "preset": preset, "case": name, "players": players, "agent_steps": result.env_steps,
                "agent_steps_per_s": round(rate), "episodes": lines[-1]["episodes"], "mean_length": judged.mean_length,
                "share": judged.mean_length / LIMIT, "mean_return": judged.mean, "seconds": result.seconds["total"],
                "curve": [(line["env_steps"], line.get("episode_length")) for line in lines],
            }
        )  # fmt: skip
        _print_train(rows[-1:])
    return rows


def _print_train(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        console.print(
            f"{row['preset']:13} {row['case']:7} {row['players']} players  {row['agent_steps']:,} agent steps, "
            f"{row['episodes']:,} episodes, "
            f"{row['agent_steps_per_s']:,} agent steps/s, {row['seconds']:.0f} s; mean length of 48 episodes "
            f"{row['mean_length']:.1f} of {LIMIT} ({row['share']:.1%})",
            soft_wrap=True,
        )


@dataclass
class Faults:
    """What became of the faults in one execution."""

    execution: str
    injected: dict[str, int] = field(default_factory=dict)
    survived: int = 0
    restarts: int = 0
    lost_episodes: int = 0
    runs: int = 0
    complete: int = 0
    errors: list[str] = field(default_factory=list)


class Injector(threading.Thread):
    """Orders faults one after another, each when the last one was taken and the run has replaced the player."""

    def __init__(self, flag: Path, kinds: list[str], rng: np.random.Generator) -> None:
        super().__init__(daemon=True)
        self.taken: list[str] = []
        self.noticed = 0
        """Restarts that the run has told of."""
        self.over = threading.Event()
        self._flag, self._kinds, self._rng = flag, kinds, rng

    def run(self) -> None:
        """Until the run is over, or all faults are spent."""
        for kind in self._kinds:
            if self.over.wait(self._rng.exponential(0.2)):
                return
            temporary = self._flag.with_suffix(".tmp")
            temporary.write_text(kind)
            temporary.rename(self._flag)
            while self._flag.exists():
                if self.over.wait(0.005):
                    return
            self.taken.append(kind)
            while self.noticed < len(self.taken):
                if self.over.wait(0.005):
                    return


def fault_row(execution: str, count: int, env_steps: int, timeout: float, seed: int) -> Faults:
    """Inject ``count`` faults, in as many runs as it takes."""
    row, rng = Faults(execution), np.random.default_rng(seed)
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    while kinds and len(row.errors) < 3:
        with tempfile.TemporaryDirectory() as folder:
            flag = Path(folder) / "fault"
            settings = settings_of(
                execution, 2, env_steps, row.runs, ("--fault", str(flag)), rollout={"steps": 32},
                timeout_wait=timeout, restarts=10_000,
            )  # fmt: skip
            injector, complete = Injector(flag, kinds, rng), False

            def report(metrics: Any, injector: Injector = injector) -> None:
                injector.noticed = metrics["restarts"]
                if injector.ident is None:  # not before: the first player of all only looks around
                    injector.start()

            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    result = train(settings=settings, run=Path(folder) / "run", report=report)
                complete = result.env_steps >= env_steps
                row.restarts += result.restarts
                row.lost_episodes += result.lost_episodes
            except UserError as error:
                row.errors.append(str(error))
            injector.over.set()
            if injector.ident is not None:
                injector.join()
            for kind in injector.taken:
                row.injected[kind] = row.injected.get(kind, 0) + 1
            row.survived += len(injector.taken) if complete else 0
            row.runs += 1
            row.complete += complete
            kinds = kinds[len(injector.taken) :]
    return row


def _print_faults(rows: list[Faults], timeout: float) -> None:
    table = Table(title=f"faults of players, two in every run (timeout_wait {timeout:g} s)")
    for name in ("execution", *KINDS, "survived", "restarts", "episodes lost", "runs complete"):
        table.add_column(name, justify="left" if name == "execution" else "right")
    for row in rows:
        counts = [str(row.injected.get(kind, 0)) for kind in KINDS]
        total = sum(row.injected.values())
        table.add_row(
            row.execution, *counts, f"{row.survived} of {total}", str(row.restarts), str(row.lost_episodes),
            f"{row.complete} of {row.runs}",
        )  # fmt: skip
    console.print(table)
    for row in rows:
        for error in row.errors:
            console.print(f"{row.execution}: {error}", soft_wrap=True)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the judged length of episodes against the agent steps learnt from, every run a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, colour in zip(dict.fromkeys(row["case"] for row in rows), ("#0b6e8a", "#c0532b"), strict=False):
        mine = [row for row in rows if row["case"] == name]
        budgets = sorted({row["budget"] for row in mine})
        means = [float(np.mean([r["mean_length"] for r in mine if r["budget"] == budget])) for budget in budgets]
        axes.plot(budgets, means, color=colour, label=name)
        axes.plot([r["budget"] for r in mine], [r["mean_length"] for r in mine], "o", color=colour, alpha=0.5, ms=5)
    axes.set(xlabel="agent steps learnt from", ylabel=f"steps until the ball falls (limit {LIMIT})", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run one of the four."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("what", choices=("train", "harm", "faults", "distill"))
    parser.add_argument("--env-steps", type=int, default=0, help="of a run [100000; faults: 20000]")
    parser.add_argument("--executions", nargs="*", default=list(EXECUTIONS), choices=list(EXECUTIONS))
    parser.add_argument("--presets", nargs="+", default=["ppo-3dball"], help="of train and harm [ppo-3dball]")
    parser.add_argument("--count", type=int, default=50, help="faults over all executions [50]")
    parser.add_argument("--timeout", type=float, default=3.0, help="timeout_wait of the faults' runs in seconds [3]")
    parser.add_argument("--seed", type=int, default=0, help="the first one [0]")
    parser.add_argument("--seeds", type=int, default=1, help="of train and harm: so many, one run each [1]")
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="of distill: the teacher [one is trained first]")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="of harm: draw length against steps (.png)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    arguments = parser.parse_args()
    console.print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d %H:%M')}")
    rows: list[dict[str, Any]]
    if arguments.what == "faults":
        shares = np.diff(np.linspace(0, arguments.count, len(arguments.executions) + 1).astype(int))
        found = [
            fault_row(execution, int(share), arguments.env_steps or 20_000, arguments.timeout, arguments.seed)
            for execution, share in zip(arguments.executions, shares, strict=True)
        ]
        _print_faults(found, arguments.timeout)
        rows = [asdict(row) for row in found]
    elif arguments.what == "distill":
        with tempfile.TemporaryDirectory() as folder:
            scene = EnvSpec(f"unity:{PLAYER}", {"env_args": ("--limit", str(LIMIT))})
            budget = arguments.env_steps or 100_000
            rows = [distill_row(scene, arguments.teacher, Path(folder), budget, arguments.seed)]
        print_row(console, rows[0])
    else:
        cases: list[tuple[str, str, int, tuple[str, ...]]] = [
            (name, name, 1 if name == "single" else 2, ()) for name in arguments.executions
        ]
        budgets = [arguments.env_steps or 100_000]
        if arguments.what == "harm":
            cases = [("own episodes", "single", 1, ()), ("global reset", "single", 1, ("--global-reset",))]
            budgets = [arguments.env_steps] if arguments.env_steps else HARM_BUDGETS
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        rows = [
            row | {"budget": budget, "seed": seed}
            for preset in arguments.presets
            for budget in budgets
            for seed in seeds
            for row in train_rows(budget, seed, cases, preset)
        ]
        if arguments.picture:
            picture(rows, arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
