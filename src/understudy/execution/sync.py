"""N worker processes step their share of the environments; the learner waits for all of them.

Between ``begin_collect`` and ``end_collect`` the learner is free, so collection and learning overlap; what happens is
fixed by the order of the calls, never by timing, so the same seed gives the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from understudy.data import Rollout
from understudy.execution.base import Arrays, EvaluationJob, Faults, Setup
from understudy.execution.columns import columns_of, shares
from understudy.execution.pool import Pool
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.collect import Collected, merge_collected
from understudy.rollouts.episodes import Episodes, merge_episodes


class Workers(Protocol):
    """Workers that answer every order once; ``Pool`` and ``RayPool``."""

    def __len__(self) -> int:
        """How many there are."""

    def order(self, worker: int, message: Any) -> None:
        """Give a worker something to do."""

    def answers(self, workers: Sequence[int]) -> list[tuple[int, Any]]:
        """Wait until at least one of these workers answers."""


def one_answer_each(workers: Workers, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Wait for one answer of each of these workers, in the order in which they come."""
    missing = set(numbers)
    while missing:
        for number, answer in workers.answers(sorted(missing)):
            missing.remove(number)
            yield number, answer


def evaluate_shared(workers: Workers, job: EvaluationJob, *more: Any) -> Episodes:
    """Run an evaluation, its seeds shared out over all workers; they are told ``more`` after the seeds."""
    parts = [[job.seeds[k] for k in part] for part in shares(len(job.seeds), len(workers))]
    busy = [i for i, part in enumerate(parts) if part]
    for i in busy:
        workers.order(i, ("evaluate", job, parts[i], *more))
    found: dict[int, Episodes] = dict(one_answer_each(workers, busy))
    return merge_episodes([found[i] for i in busy])


class SyncExecution:
    """Worker processes that fill their columns of one rollout.

    Raises:
        UserError: More workers than environments.
        WorkerError: From any call, when workers failed more often than ``restarts`` allows.
    """

    def __init__(self, setup: Setup, num_workers: int, timeout: float = 600.0, restarts: int = 0) -> None:
        self.pool = Pool(setup, columns_of(setup, num_workers), timeout=timeout, restarts=restarts)
        self._steps = 0

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int, restart: int | None = None) -> None:
        """Start all workers on a rollout."""
        self._steps = steps
        if student is not None:
            self.pool.board.publish(student)
        for i in range(len(self.pool)):
            self.pool.order(i, ("collect", mixture, steps, restart, 0))

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Wait for all workers."""
        found: dict[int, Collected] = dict(one_answer_each(self.pool, range(len(self.pool))))
        return self.pool.rollouts[0].first(self._steps), merge_collected([found[i] for i in sorted(found)])

    def evaluate(self, jobs: Sequence[EvaluationJob]) -> list[Episodes]:
        """Run the jobs, each shared out over all workers, while none of them gathers a rollout."""
        found = []
        for job in jobs:
            if job.arrays is not None:
                # Not through the pipe: the learner would wait for ever for a fresh worker that hangs at its start.
                self.pool.board.publish(job.arrays)
            found.append(evaluate_shared(self.pool, replace(job, arrays=None)))
        return found

    @property
    def faults(self) -> Faults:
        """What went wrong so far."""
        return Faults(self.pool.restarts.used, self.pool.restarts.lost_episodes)

    def close(self) -> None:
        """End the workers."""
        self.pool.close()
