"""The clock and the judge of one run, the same for all sides, and what is imported before the clock starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from understudy.envs.make import make
from understudy.settings import ReplayedSettings, TrainSettings

Predict = Callable[[np.ndarray[Any, Any]], Any]


class Done(Exception):  # noqa: N818 (nothing went wrong)
    """The run has shown what it was to show."""


def play(predict: Predict, env_id: str, seeds: Sequence[int], num_envs: int = 50) -> list[float]:
    """Return the undiscounted return of one episode per seed, in plain gymnasium environments: neither side's code."""
    envs = [gym.make(env_id, disable_env_checker=True) for _ in range(min(num_envs, len(seeds)))]
    returns: list[float] = []
    for first in range(0, len(seeds), len(envs)):
        wave = seeds[first : first + len(envs)]
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, wave, strict=False)])
        total, active = np.zeros(len(wave)), list(range(len(wave)))
        while active:
            actions = predict(obs[active])
            left = []
            for i, action in zip(active, actions, strict=True):
                obs[i], reward, terminated, truncated, _ = envs[i].step(action)
                total[i] += float(reward)
                if not (terminated or truncated):
                    left.append(i)
            active = left
        returns += total.tolist()
    for env in envs:
        env.close()
    return returns


class Watch:
    """The clock of one run: told after every round, stands still while the policy of that moment is evaluated.

    ``after`` (env steps) of the job says from which round on the rate counts; ``every`` (env steps), ``score``,
    ``episodes`` and ``env`` say when it evaluates, and at which mean return the run is done.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job, self._next = job, job.get("every", 0)
        self._paused, self._begin = 0.0, time.perf_counter()
        self.marks: list[tuple[float, int]] = []
        self.cpu: list[float] = []
        """CPU seconds of this process at every mark: what a busy machine disturbs less."""
        self.curve: list[tuple[int, float, float]] = []
        """(env steps, seconds without evaluation, mean return) of every evaluation."""

    @property
    def seconds(self) -> float:
        """Since the beginning, without evaluation."""
        return time.perf_counter() - self._begin - self._paused

    def round(self, env_steps: int, predict: Predict) -> None:
        """Note that so many steps were made and learnt from.

        Raises:
            Done: The score is reached.
        """
        self.marks.append((self.seconds, env_steps))
        self.cpu.append(time.process_time())
        if not self._next or env_steps < self._next:
            return
        self._next += self._job["every"]
        before = time.perf_counter()
        mean = float(np.mean(self.judge(predict)))
        self._paused += time.perf_counter() - before
        self.curve.append((env_steps, self.marks[-1][0], mean))
        if mean >= self._job["score"]:
            raise Done

    def judge(self, predict: Predict) -> list[float]:
        """Play the job's episodes, the same for every run of the same seed, whoever learnt."""
        first = 10_000_000 + 100_000 * int(self._job.get("seed", 0))
        return play(predict, self._job["env"], range(first, first + self._job["episodes"]))

    def result(self) -> dict[str, Any]:
        """Return the rate from the first round's end to the last one's, and the evaluations."""
        begin = next(i for i, mark in enumerate(self.marks) if mark[1] >= self._job.get("after", 0))
        (first, begun), (last, ended) = self.marks[begin], self.marks[-1]
        spent = self.cpu[-1] - self.cpu[begin]
        cpu_rate = (ended - begun) / spent if spent > 0 else float("nan")
        rate = (ended - begun) / (last - first) if last > first else float("nan")
        solved = bool(self.curve) and self.curve[-1][2] >= self._job["score"]
        return {
            "rate": rate, "cpu_rate": cpu_rate, "env_steps": ended, "wall": last, "first_round": first,
            "curve": self.curve, "solved": solved,
        }  # fmt: skip


def warm(settings: TrainSettings | ReplayedSettings) -> None:
    """Import what either side imports late: simulators, emulators, PyTorch's compiler (its optimisers ask for it)."""
    spec = settings.env.spec()
    make(spec, 1).close()
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    from torch.utils import tensorboard  # noqa: F401

    import understudy.execution.asynchronous
    import understudy.execution.single
    import understudy.execution.sync  # noqa: F401
