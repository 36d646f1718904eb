"""What an update of SAC and TD3 takes by one process and by two, alone and beside programs that keep cores busy.

    python benchmarks/two_halves.py
    python benchmarks/two_halves.py --presets td3 --updates 500 --json two_halves.json

Every figure is of a fresh process that makes updates on random batches of HalfCheetah's size and nothing else: by one
process alone (``execution.learner_threads 1``), by two from the first update on (``2``), or as runs do by default
(``0``): a second process once updates turn out to take long, and from time to time the faster of both ways. The figure
is the mean of the second half of the updates. The busy programs multiply 256x256 matrices, one for each core that is
to be busy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fresh import machine, spread
from understudy.learning.continuous_learner import ContinuousLearner
from understudy.learning.from_replay import replayed_policy, replayed_spec
from understudy.learning.two_halves import TOGETHER
from understudy.policies.policy import About
from understudy.rollouts.replay import ReplayBatch
from understudy.training import resolve_training
from understudy.training_parts import set_threads

ROWS, FEATURES, ACTIONS = 256, 17, 6
WAYS = {"one process": 1, "two processes": 2, "by default": 0}
console = Console(highlight=False)


def batches(count: int) -> list[ReplayBatch]:
    """Return random transitions."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return [
        ReplayBatch(
            draw(ROWS, FEATURES), np.clip(draw(ROWS, ACTIONS), -1, 1), draw(ROWS),
            np.full(ROWS, 0.99, np.float32), draw(ROWS, FEATURES), np.arange(ROWS), np.ones(ROWS, np.float32),
        )
        for _ in range(count)
    ]  # fmt: skip


def measure(preset: str, threads: int, updates: int, answer: mp.SimpleQueue[float]) -> None:
    """Put the seconds of an update into the queue."""
    settings = resolve_training({"env": {"id": "HalfCheetah-v5"}, "execution": {"learner_threads": threads}}, preset)
    unbounded = gym.spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
    spec = replayed_spec(settings, unbounded, gym.spaces.Box(-1, 1, (ACTIONS,), np.float32))  # type: ignore[arg-type]
    policy = replayed_policy(spec, 0, About())
    set_threads(settings, policy)
    learner = ContinuousLearner(policy, settings)  # type: ignore[arg-type]
    halves, drawn = learner._nets.halves, batches(20)
    assert halves is not None
    if threads == 2:
        while halves.partner is None or not halves.partner.ready:
            time.sleep(0.01)
        halves.pace.way, halves.pace._choose = TOGETHER, lambda: TOGETHER  # type: ignore[method-assign]
    begin = 0.0
    for i in range(updates):
        if i == updates // 2:
            begin = time.perf_counter()
        learner.update(drawn[i % len(drawn)], 3e-4)
    answer.put((time.perf_counter() - begin) / (updates - updates // 2))
    learner.close()


def busy() -> None:
    """Keep one core busy."""
    torch.set_num_threads(1)
    matrix = torch.rand(256, 256)
    while True:
        torch.mm(matrix, matrix)


def one(preset: str, threads: int, updates: int, others: int) -> float:
    """Return the seconds of an update beside ``others`` busy programs."""
    context = mp.get_context("spawn")
    programs: list[BaseProcess] = [context.Process(target=busy, daemon=True) for _ in range(others)]
    for program in programs:
        program.start()
    answer: mp.SimpleQueue[float] = context.SimpleQueue()
    learner = context.Process(target=measure, args=(preset, threads, updates, answer))
    learner.start()
    learner.join()
    for program in programs:
        program.terminate()
        program.join()
    if learner.exitcode:
        raise SystemExit(f"{preset}, {threads} threads: the measuring process ended with {learner.exitcode}")
    return answer.get()


def main() -> None:
    """Measure, by turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--presets", nargs="*", default=["sac", "td3"], choices=("sac", "td3", "ddpg"))
    parser.add_argument("--updates", type=int, default=3_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", nargs="*", type=int, default=[0, 1, 2], help="programs beside it [0 1 2]")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for repeat in range(arguments.repeats):
        for preset in arguments.presets:
            for others in arguments.busy:
                for way, threads in WAYS.items():
                    seconds = one(preset, threads, arguments.updates, others)
                    rows.append({"preset": preset, "busy": others, "way": way, "ms": 1e3 * seconds, "repeat": repeat})
                    console.print(f"{preset}, {others} busy, {way}: {1e3 * seconds:.2f} ms")
                    if arguments.json:
                        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    table = Table("ms of an update", "busy programs", *WAYS)
    for preset in arguments.presets:
        for others in arguments.busy:
            found = [
                spread([r["ms"] for r in rows if (r["preset"], r["busy"], r["way"]) == (preset, others, way)], 3)
                for way in WAYS
            ]
            table.add_row(preset, str(others), *found)
    console.print(table)


if __name__ == "__main__":
    main()
