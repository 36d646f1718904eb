"""How fast training goes: ours against Stable-Baselines3 and an A3C baseline, taking turns in one run.

    python benchmarks/throughput.py halfcheetah --repeats 3
    python benchmarks/throughput.py cartpole --repeats 5
    python benchmarks/throughput.py sac --repeats 3
    python benchmarks/throughput.py td3 --repeats 3
    python benchmarks/throughput.py ant | pong | start

Every run is a fresh process with one thread (``OMP_NUM_THREADS`` and PyTorch's) unless its name says otherwise. Imports
and start-up are left out: rates count from the end of the first round (rollout and update) to the end of the last one,
and include learning. Every second repeat runs in the opposite order. Peers get our settings (see ``sb3_models.py``).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fresh import fresh, machine, spread, turns
from understudy.config import merge, nest

console = Console(highlight=False)
Jobs = dict[str, dict[str, Any]]
Row = dict[str, Any]

QUIET = {"evaluation": {"every": 0, "final": 0}, "stop": {"score": None}}
"""Nothing beside training, as the peers have nothing."""
PONG = {"id": "ALE/Pong-v5", "wrappers": [{"type": "atari"}]}
SMALL_PONG = {"id": "ALE/Pong-v5", "wrappers": [{"type": "atari", "screen_size": 42, "stack": 1}]}


def _job(side: str, settings: dict[str, Any], arguments: argparse.Namespace, **more: Any) -> dict[str, Any]:
    return {"side": side, "settings": merge(merge(QUIET, settings), nest(arguments.settings)), **more}


def _execution(kind: str, workers: int = 2) -> dict[str, Any]:
    return {"execution": {"type": kind, "num_workers": workers}}


def halfcheetah(arguments: argparse.Namespace) -> Jobs:
    """PPO on HalfCheetah-v5 with two 64x64 tanh networks, 8 environments x 512 steps, 10 epochs."""
    flag = bool(arguments.normalize)
    settings = {
        "env": {"id": "HalfCheetah-v5", "backend": "gymnasium"},
        "policy": {"hidden": [64, 64], "activation": "tanh", "normalize": flag},
        "rollout": {"num_envs": 8, "steps": 512},
        "objective": {
            "clip": 0.2, "gamma": 0.99, "lam": 0.95, "value_weight": 1.0,
            "normalize_advantage": True, "normalize_reward": flag, "reward_clip": 10.0 if flag else 0.0,
        },
        "update": {"epochs": 10, "minibatch": arguments.minibatch, "lr": "3e-4"},
        "stop": {"env_steps": arguments.env_steps},
    }  # fmt: skip
    return {
        "sb3 dummy 8": _job("sb3", settings, arguments, vec="dummy"),
        "sb3 subproc 8": _job("sb3", settings, arguments, vec="subproc"),
        "ours single": _job("ours", settings, arguments),
        "ours sync 2": _job("ours", merge(settings, _execution("sync")), arguments),
        "ours async 2": _job("ours", merge(settings, _execution("async")), arguments),
    }


def ant(arguments: argparse.Namespace) -> Jobs:
    """PPO on Ant-v5 with the sizes of the preset, in Python (gymnasium) environments; ours alone."""
    settings = {"env": {"id": "Ant-v5", "backend": "gymnasium"}, "stop": {"env_steps": arguments.env_steps}}
    return {
        f"ours {name}": _job("ours", merge(settings, _execution(kind)), arguments, preset="ppo-ant")
        for name, kind in (("single", "single"), ("sync 2", "sync"), ("async 2", "async"))
    }


def cartpole(arguments: argparse.Namespace) -> Jobs:
    """PPO on CartPole-v1 until 100 deterministic episodes are worth 475, looked at every 5,000 env steps."""
    settings = {
        "env": {"id": "CartPole-v1", "backend": "gymnasium"},
        "objective": {"value_weight": 1.0},  # the zoo's vf_coef 0.5 of the square
        **_execution(arguments.execution),
    }
    watch = {"every": 5_000, "score": 475.0, "episodes": 100, "env": "CartPole-v1"}
    return {
        side: _job(name, settings, arguments, preset="ppo-cartpole", vec="dummy", **watch)
        for side, name in (("sb3 dummy 8", "sb3"), (f"ours {arguments.execution}", "ours"))
    }


def pong(arguments: argparse.Namespace) -> Jobs:
    """Pong from pictures: our presets, and like against like."""
    budget, two = {"stop": {"env_steps": arguments.env_steps}}, _execution("sync")
    same = {
        "env": PONG,
        "policy": {"encoder": "nature_cnn", "features": 512, "hidden": [], "value_hidden": [], "activation": "relu"},
        "rollout": {"num_envs": 8, "steps": 128},
        "objective": {
            "clip": 0.1, "gamma": 0.99, "lam": 0.95, "entropy_weight": "0.01", "value_weight": 1.0,
            "normalize_advantage": True, "reward_clip": 1.0,
        },
        "update": {"epochs": 4, "minibatch": 256, "lr": "2.5e-4"},
        **budget,
    }  # fmt: skip
    return {
        "a3c baseline 2": {"side": "a3c", "processes": 2, "env_steps": arguments.env_steps},
        "ours a3c 2": _job("ours", merge(budget, {"env": SMALL_PONG}), arguments, preset="a3c"),
        "ours impala 2": _job("ours", merge(budget, {"env": PONG}), arguments, preset="impala"),
        "ours ppo-pong 2": _job("ours", budget, arguments, preset="ppo-pong"),
        "sb3 ppo, 1 thread": _job("sb3", same, arguments),
        "sb3 ppo, 2 threads": _job("sb3", same, arguments, threads=2),
        "sb3 as shipped, 2 threads": _job("sb3", same, arguments, threads=2, vec="atari"),
        "ours same, 2": _job("ours", merge(same, two), arguments),
        "ours same, 2, bf16": _job("ours", merge(merge(same, two), {"update": {"precision": "bf16"}}), arguments),
    }


def _replayed(arguments: argparse.Namespace, preset: str) -> Jobs:
    settings = {
        "env": {"id": "HalfCheetah-v5", "backend": "gymnasium"},
        "rollout": {"num_envs": 1, "steps": 32},
        "replay": {"warm_up": 256},
        "stop": {"env_steps": arguments.env_steps},
    }
    jobs: Jobs = {}
    for threads in (1, 2):
        own = merge(settings, {"execution": {"learner_threads": threads}})
        told = {"preset": preset, "threads": threads, "after": 320}
        jobs[f"sb3, {threads} threads"] = _job("sb3", settings, arguments, vec="dummy", **told)
        jobs[f"ours single, {threads} threads"] = _job("ours", own, arguments, **told)
    return jobs


def sac(arguments: argparse.Namespace) -> Jobs:
    """SAC on HalfCheetah-v5 with 256x256 networks, batches of 256, one update for each env step."""
    return _replayed(arguments, "sac")


def td3(arguments: argparse.Namespace) -> Jobs:
    """TD3 on HalfCheetah-v5 with 400x300 networks, batches of 256, one update for each env step."""
    return _replayed(arguments, "td3")


def start(arguments: argparse.Namespace) -> Jobs:
    """Seconds from the call to the first update, with the evaluation process that a run has by default."""
    settings: dict[str, Any] = {
        "env": {"id": arguments.env},
        "policy": {"hidden": [64, 64]},
        "rollout": {"num_envs": 8, "steps": 128},
        "update": {"epochs": 1, "minibatch": 256},
        "evaluation": {"every": 0, "final": 0 if arguments.no_evaluator else 50},
    }
    if arguments.env.startswith("ALE/"):
        settings["env"]["wrappers"] = [{"type": "atari"}]
    settings = merge(settings, nest(arguments.settings))
    kinds = (("single", "single"), ("sync 2", "sync"), ("async 2", "async"))
    return {f"ours {n}": {"side": "start", "settings": merge(settings, _execution(kind))} for n, kind in kinds}


def rates(rows: list[Row], unit: str = "env steps/s") -> None:
    """Print the rates, and each of ours over the best of the peers, repeat by repeat."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    peers = [name for name in names if not name.startswith("ours")]
    medians = {name: statistics.median(r["rate"] for r in rows if r["name"] == name) for name in names}
    columns = ("over", "ratio, repeat by repeat", "the same of CPU s", "share of its limit", "load at the start")
    table = Table("run", unit, *columns, "per CPU s")
    for name in names:
        mine = [row for row in rows if row["name"] == name]
        rival = _rival(name, peers, medians)
        theirs = {row["repeat"]: row for row in rows if row["name"] == rival}
        pairs = [(row, theirs[row["repeat"]]) for row in mine if rival]
        ratios = [one["rate"] / other["rate"] for one, other in pairs]
        # CPU seconds are those of one process, so they say something only where both sides have no other.
        cpu_ratios = [one["cpu_rate"] / other["cpu_rate"] for one, other in pairs if name.endswith(" threads")]
        shares = [row["limit_share"] for row in mine if "limit_share" in row]
        loads = spread([row["load"] for row in mine], 2)
        cells = [spread([row["rate"] for row in mine]), rival, spread(ratios, 3), spread(cpu_ratios, 3)]
        cells += [spread(shares, 2), loads]
        cells.append(spread([row["cpu_rate"] for row in mine if "cpu_rate" in row]))
        table.add_row(name, *cells)
    console.print(table)


def _rival(name: str, peers: list[str], medians: dict[str, float]) -> str:
    """Return what one of ours is divided by: the best peer of its kind and threads, or our own single process."""
    if not name.startswith("ours"):
        return ""
    if not peers:
        return "" if name.endswith("single") else next((n for n in medians if n.endswith("single")), "")
    alike = [peer for peer in peers if name.endswith(" threads") and peer.endswith(name.rpartition(", ")[2])]
    peers = alike or peers  # the same threads
    kind = "a3c" if "a3c" in name else "sb3"
    if any(word in name for word in ("impala", "ppo-pong")):
        return ""  # another network: not like against like
    return max((peer for peer in peers if kind in peer), key=medians.__getitem__, default="")


def walls(rows: list[Row]) -> None:
    """Print the seconds until the score, and their ratios seed by seed; who did not reach it counts as never."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    table = Table("run", "solved", "seconds until 475", "env steps until 475", "seconds of all runs")
    for name in names:
        mine = [row for row in rows if row["name"] == name]
        solved = [row for row in mine if row["solved"]]
        cells = [spread([row["wall"] for row in solved]), spread([row["env_steps"] for row in solved], 7)]
        table.add_row(name, f"{len(solved)} of {len(mine)}", *cells, spread([row["wall"] for row in mine]))
    console.print(table)
    seeds = sorted({row["seed"] for row in rows})
    peer, own = (next((n for n in names if n.startswith(w)), "") for w in ("sb3", "ours"))
    found = {(row["name"], row["seed"]): row for row in rows}
    ratios = []
    for seed in seeds:
        theirs, mine = found[peer, seed], found[own, seed]
        ratio = theirs["wall"] / mine["wall"] if mine["solved"] else 0.0
        ratios.append(ratio)
        sign = "" if theirs["solved"] and mine["solved"] else " (the peer did not get there: at least)"
        sign = sign if mine["solved"] else " (ours did not get there)"
        console.print(f"seed {seed}: {peer} / {own} = {ratio:.2f}{sign}")
    console.print(f"ratio of seconds: median {spread(ratios, 3)}")


def starts(rows: list[Row]) -> None:
    """Print where the seconds until the first update went."""
    parts = {
        "total": "to the first update", "session": "building the parts", "start": "waiting for workers",
        "collect": "first rollout", "learn": "first update", "other": "files and logs", "closing": "closing (after)",
    }  # fmt: skip
    alone = [k for k in rows[0] if k not in (*parts, "name", "repeat", "load", "seed")]
    names = list(dict.fromkeys(row["name"] for row in rows))
    table = Table("seconds", *names)
    for key, text in {**parts, **{key: f"by itself: {key}" for key in alone}}.items():
        cells = [spread([row[key] for row in rows if row["name"] == name], 3) for name in names]
        table.add_row(text, *cells)
    console.print(table)


BENCHMARKS: dict[str, tuple[Callable[[argparse.Namespace], Jobs], Callable[[list[Row]], None], int]] = {
    "halfcheetah": (halfcheetah, rates, 3),
    "cartpole": (cartpole, walls, 5),
    "ant": (ant, rates, 3),
    "sac": (sac, lambda rows: rates(rows, "env steps/s = updates/s"), 3),
    "td3": (td3, lambda rows: rates(rows, "env steps/s = updates/s"), 3),
    "pong": (pong, lambda rows: rates(rows, "agent steps/s (4 frames each)"), 3),
    "start": (start, starts, 3),
}


def main() -> None:
    """Run one benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, (jobs, _, repeats) in BENCHMARKS.items():
        command = commands.add_parser(name, help=(jobs.__doc__ or "").split("\n")[0])
        command.add_argument(
            "--repeats", type=int, default=repeats, help="runs of each; the seed is the repeat's number"
        )
        command.add_argument("--first-seed", type=int, default=0)
        command.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="pairs", help="of both sides")
        command.add_argument("--json", type=Path, help="write every row and the machine there")
        if name in ("halfcheetah", "ant", "pong", "sac", "td3"):
            default = {"halfcheetah": 100_000, "ant": 60_000, "pong": 20_000, "sac": 3_000, "td3": 3_000}[name]
            command.add_argument("--env-steps", type=int, default=default)
        if name == "halfcheetah":
            command.add_argument("--minibatch", type=int, default=64)
            command.add_argument("--normalize", action="store_true", help="observations and rewards, on both sides")
        if name == "cartpole":
            command.add_argument("--execution", choices=("single", "sync"), default="single", help="ours")
        if name in ("pong", "halfcheetah", "ant", "sac", "td3"):
            command.add_argument("--only", nargs="*", default=[], help="runs whose name holds one of the words")
        if name == "start":
            command.add_argument("--env", default="HalfCheetah-v5")
            command.add_argument("--no-evaluator", action="store_true")
    arguments = parser.parse_args()
    arguments.settings = dict(pair.split("=", 1) for pair in arguments.pairs)
    build, show, _ = BENCHMARKS[arguments.benchmark]
    jobs = build(arguments)
    if words := getattr(arguments, "only", []):
        jobs = {name: job for name, job in jobs.items() if any(word in name for word in words)}
    rows: list[Row] = []
    for repeat in range(arguments.repeats):
        for name in turns(list(jobs), repeat):
            seed = arguments.first_seed + repeat
            job = jobs[name] | {"seed": seed}
            if "settings" in job:
                job["settings"] = merge(job["settings"], {"seed": seed})
            rows.append({"name": name, "repeat": repeat, "seed": seed, **fresh(job)})
            shown = {k: v for k, v in rows[-1].items() if k not in ("curve", "seconds")}
            console.print(shown, soft_wrap=True)
    order = list(jobs)
    rows.sort(key=lambda row: order.index(row["name"]))
    show(rows)
    if arguments.json:
        data = {"benchmark": arguments.benchmark, "machine": machine(), "rows": rows}
        arguments.json.write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
