"""Sync on Ray: actors on this machine or on the nodes of a cluster step their share of the environments.

The weights of a rollout are put into Ray's store once and shared by all actors; every actor sends its columns back as
one message. What happens is fixed by the order of the calls, never by timing, so a seed gives the run that it gives
with worker processes. Between machines that is worth its price; on one, worker processes start and answer faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from understudy.data import Rollout
from understudy.envs.make import spaces_of
from understudy.execution.base import Arrays, EvaluationJob, Faults, Setup
from understudy.execution.columns import columns_of
from understudy.execution.ray_cluster import Cluster
from understudy.execution.ray_pool import RayPool
from understudy.execution.sync import evaluate_shared, one_answer_each
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import rollout_layout, rollout_views
from understudy.rollouts.collect import Collected, merge_collected
from understudy.rollouts.episodes import Episodes


class RayExecution:
    """Ray actors that send their columns of one rollout.

    Raises:
        UserError: More workers than environments or CPUs of the cluster, Ray is not installed, or no cluster answers.
        WorkerError: From any call, when workers failed more often than ``restarts`` allows, or Ray itself ended.
    """

    def __init__(
        self, setup: Setup, num_workers: int, timeout: float = 600.0, restarts: int = 0, address: str = ""
    ) -> None:
        """Start the actors.

        Args:
            setup: The run.
            num_workers: How many.
            timeout: Seconds without a step after which an actor counts as hung.
            restarts: Actors that may be replaced.
            address: HOST:PORT of a cluster's head node, ``auto`` for the cluster that this machine belongs to, empty
                for Ray on this machine alone.
        """
        columns = columns_of(setup, num_workers)
        spaces = spaces_of(setup.env)
        traced = setup.student if setup.traced else None
        layout, size = rollout_layout(*spaces, setup.steps, len(setup.seeds), traced, replayed=setup.replayed)
        self._out = rollout_views(layout, np.zeros(size, np.uint8))
        self._cluster = Cluster(address, num_workers, size)
        self._weights: Any = None
        self._version = self._steps = 0
        try:
            self.pool = RayPool(self._cluster, setup, columns, spaces, timeout=timeout, restarts=restarts)
        except BaseException:
            self._cluster.close()
            raise

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int, restart: int | None = None) -> None:
        """Start all actors on a rollout."""
        self._cluster.check()  # to put an object where no scheduler is ends the process
        self._steps = steps
        if student is not None:
            self._weights = self._cluster.ray.put(dict(student))
            self._version += 1
        version, weights = (self._version, self._weights) if mixture.asks_student else (0, None)
        for i in range(len(self.pool)):
            self.pool.order(i, ("collect", mixture, steps, restart, version, weights))

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Wait for all actors; columns are copied as they come."""
        found: dict[int, Collected] = {}
        out = self._out.first(self._steps)
        for number, (info, rollout) in one_answer_each(self.pool, range(len(self.pool))):
            columns = self.pool.places[number].columns
            out.columns(slice(columns.start, columns.stop)).copy_from(rollout)
            found[number] = info
        return out, merge_collected([found[i] for i in sorted(found)])

    def evaluate(self, jobs: Sequence[EvaluationJob]) -> list[Episodes]:
        """Run the jobs, each shared out over all actors."""
        self._cluster.check()
        found = []
        for job in jobs:
            weights = None if job.arrays is None else self._cluster.ray.put(dict(job.arrays))
            found.append(evaluate_shared(self.pool, replace(job, arrays=None), weights))
        return found

    @property
    def faults(self) -> Faults:
        """What went wrong so far."""
        return Faults(self.pool.restarts.used, self.pool.restarts.lost_episodes)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        self.pool.close()
        self._cluster.close()
