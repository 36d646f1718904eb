"""N worker processes that do not wait for the learner, or for each other.

Every worker has two rollouts ordered: while the learner learns from one, the worker gathers the other with the newest
weights it finds. A batch is as many rollouts as there are workers, whoever made them, so that batch size and env steps
mean what they mean elsewhere. With ``max_lag`` 0 only one is ordered, and nothing is gathered during an update: with
one worker that is sync, number for number.

The lag of a rollout is the number of updates between the weights that acted in it and those that learn from it. A
rollout cannot be older than its order. Two for each worker are ordered at any time, a batch takes one for each worker:
from ``max_lag - 1`` updates after an order on, batches take the oldest orders first and wait for them, so that none is
used later than ``max_lag`` updates after it was given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from understudy.data import Rollout
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.execution.base import Arrays, Faults, Setup
from understudy.execution.columns import columns_of
from understudy.execution.pool import Pool
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.collect import Collected, merge_collected


@dataclass(eq=False)
class _Ordered:
    """A rollout that a worker was told to gather."""

    worker: int
    slot: int
    version: int
    """Of the weights that were newest when it was ordered; those that act are never older."""
    info: Collected | None = None
    """Once it is there."""


class AsyncExecution:
    """Worker processes that fill rollouts of their own.

    Raises:
        UserError: More workers than environments, or environments that do not divide among them.
        WorkerError: From any call, when workers failed more often than ``restarts`` allows.
    """

    def __init__(self, setup: Setup, num_workers: int, timeout: float, restarts: int, max_lag: int = 4) -> None:
        columns = columns_of(setup, num_workers)
        if len({len(part) for part in columns}) > 1:
            raise UserError(f"async: {len(setup.seeds)} environments do not divide among {num_workers} workers")
        self._max_lag, self._slots, self._width = max_lag, 2 if max_lag else 1, len(columns[0])
        self.pool = Pool(setup, columns, timeout=timeout, restarts=restarts, slots=self._slots, own_slots=True)
        traced = setup.student if setup.traced else None
        self._batch = new_rollout(*spaces_of(setup.env), setup.steps, len(setup.seeds), traced, setup.replayed)
        self._ordered: list[_Ordered] = []
        """Oldest first."""
        self._free = [(worker, slot) for slot in range(self._slots) for worker in range(num_workers)]
        self._steps = 0

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int, restart: int | None = None) -> None:
        """Publish the weights and order a rollout for every free slot.

        With ``restart``, a worker begins new episodes when it comes to the first of these orders.
        """
        if student is not None:
            self.pool.board.publish(student)
        self._steps, told = steps, set()
        for worker, slot in self._free:
            self._ordered.append(_Ordered(worker, slot, self.pool.board.version))
            self.pool.order(worker, ("collect", mixture, steps, None if worker in told else restart, slot))
            told.add(worker)
        self._free = []

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Wait for as many rollouts as there are workers and join them into one."""
        count, now = len(self.pool), self.pool.board.version
        oldest = [order for order in self._ordered if order.version <= now - max(self._max_lag - 1, 0)][:count]
        self._receive(block=False)
        while any(order.info is None for order in oldest) or self._there() < count:
            self._receive(block=True)
        others = [order for order in self._ordered if order.info is not None and order not in oldest]
        infos = []
        # By worker, so that a column of the batch is nearly always the same environment as in the last one.
        for k, order in enumerate(sorted((oldest + others)[:count], key=lambda order: order.worker)):
            assert order.info is not None
            part = self.pool.rollouts[order.worker * self._slots + order.slot]
            self._batch.columns(slice(k * self._width, (k + 1) * self._width)).copy_from(part)
            envs = tuple(self.pool.columns[order.worker])
            infos.append(replace(order.info, lag=float(now - order.info.version), envs=envs))
            self._ordered.remove(order)
            self._free.append((order.worker, order.slot))
        return self._batch.first(self._steps), merge_collected(infos)

    def _there(self) -> int:
        return sum(order.info is not None for order in self._ordered)

    def _receive(self, block: bool) -> None:
        busy = sorted({order.worker for order in self._ordered if order.info is None})
        for worker, info in self.pool.answers(busy, block) if busy else []:
            next(o for o in self._ordered if o.worker == worker and o.info is None).info = info

    @property
    def faults(self) -> Faults:
        """What went wrong so far."""
        return Faults(self.pool.restarts.used, self.pool.restarts.lost_episodes)

    def close(self) -> None:
        """End the workers."""
        self.pool.close()
