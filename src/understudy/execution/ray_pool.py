"""Workers as Ray actors, watched and replaced as the processes of ``execution.pool`` are.

An actor's step counter is asked for every second or so, through a thread of its own beside the work. An actor whose
counter stands still, or that does not answer, for ``timeout`` seconds is hung; one whose process or node died answers
with an error at once. Every wait has a limit, and Ray itself is looked after between waits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy import __version__
from understudy.errors import UserError
from understudy.execution.base import Setup
from understudy.execution.ray_actor import StationActor
from understudy.execution.ray_cluster import Cluster
from understudy.execution.restarts import Restarts, WorkerError
from understudy.rollouts.buffers import rollout_layout

START_SECONDS = 60.0
"""An actor that is not there by then never comes: the cluster is full, or its nodes cannot import what it needs."""
FETCH_SECONDS = 60.0
"""For an answer that is ready to arrive from another node."""
_WITH_NODE = "died with its node"


@dataclass
class _Place:
    """One worker."""

    columns: range
    actor: Any = None
    attempt: int = 0
    orders: list[tuple[Any, Any]] = field(default_factory=list)
    """(message, reference to its answer), oldest first."""
    count: int | None = None
    """The step counter when it was last heard; None before the actor lives."""
    since: float = 0.0
    """When it last moved."""
    asked: float = 0.0
    question: Any = None
    """Reference to the next count."""
    home: str = ""
    """Process and machine, for messages."""
    pid: int = 0
    """Of the process, once it was heard."""


class RayPool:
    """N actors.

    Attributes:
        restarts: The failures so far.
        places: The workers.
    """

    def __init__(
        self,
        cluster: Cluster,
        setup: Setup,
        columns: Sequence[range],
        spaces: tuple[Any, Any],
        *,
        timeout: float,
        restarts: int,
    ) -> None:
        """Start the actors; they build their environments at once."""
        self._cluster, self._ray, self._setup, self._spaces = cluster, cluster.ray, setup, spaces
        self._timeout = timeout
        self._interval = min(1.0, timeout / 4)
        self._watched = time.monotonic()
        self.restarts = Restarts("worker", restarts)
        self.places = [_Place(part) for part in columns]
        self._eval_envs = -(-setup.eval_envs // len(columns))
        self._shared = self._ray.put(setup)  # once, though a teacher in it may be large
        # Two threads: one for orders, so that they come in turn and always on the same thread, one for the counter.
        self._class = self._ray.remote(concurrency_groups={"watch": 1})(StationActor)
        for place in self.places:
            self._spawn(place)
            self._submit(place, ("prepare",))

    def __len__(self) -> int:
        return len(self.places)

    def _spawn(self, place: _Place) -> None:
        traced = self._setup.student if self._setup.traced else None
        layout, size = rollout_layout(
            *self._spaces, self._setup.steps, len(place.columns), traced, replayed=self._setup.replayed
        )
        # A replacement asks for no CPU: where a whole node died there may be none left, and slower is better than not.
        actor = self._class.options(num_cpus=0 if place.attempt else 1, scheduling_strategy="SPREAD")
        place.actor = actor.remote(
            __version__, self._shared, place.attempt, place.columns, self._eval_envs, layout, size
        )
        place.count, place.since, place.asked, place.question = None, time.monotonic(), 0.0, None
        place.home, place.pid = "", 0

    def _submit(self, place: _Place, message: Any) -> None:
        # References to objects must be arguments themselves: only then does Ray put the objects in their place.
        place.orders.append((message, place.actor.work.remote(*message)))

    def order(self, worker: int, message: Any) -> None:
        """Give a worker something to do: (command, *arguments); it answers every order once, in turn."""
        place = self.places[worker]
        if not place.orders and place.count is not None:
            place.since = time.monotonic()
        self._submit(place, message)

    def answers(self, workers: Sequence[int]) -> list[tuple[int, Any]]:
        """Wait until at least one of these workers answers; returns (worker, answer) of all that did.

        Raises:
            WorkerError: A worker failed once more than there are restarts, its user can mend what it says, or Ray
                ended.
        """
        while True:
            first = {self.places[i].orders[0][1]: i for i in workers}
            ready, _ = self._ray.wait(list(first), timeout=self._interval)
            found = []
            for reference in ready:
                found += self._receive(first[reference], reference)
            if found:
                return found
            if not ready:
                self._cluster.check()
                self._watch(workers)

    def _receive(self, worker: int, reference: Any) -> list[tuple[int, Any]]:
        """Take an answer; nothing if it is bad news, or was only that the environments are built."""
        place = self.places[worker]
        try:
            status, *answer = self._ray.get(reference, timeout=FETCH_SECONDS)
        except self._ray.exceptions.RayError as error:
            self._cluster.check()
            reason = self._reason(error, place)
            if place.attempt and place.count is None and reason == _WITH_NODE:
                # Ray sent the replacement to the node that was just dying: that is the same failure, not another.
                self._cluster.kill(place.actor)
                self._start_again(place)
            else:
                self._replace(worker, reason, "")
            return []
        if status == "mistake":
            raise WorkerError(f"worker {worker}: {answer[0]}")
        if status == "error":
            self._replace(worker, f"raised {answer[0]}", answer[1])
            return []
        message, _ = place.orders.pop(0)
        place.since = time.monotonic()
        return [] if message[0] == "prepare" else [(worker, answer[0])]

    def _reason(self, error: Exception, place: _Place) -> str:
        """Say in a line what Ray says in many.

        Raises:
            UserError: No replacement would do better.
        """
        text = str(error)
        if "No module named 'understudy" in text:
            raise UserError("a node of the Ray cluster cannot import understudy: install the same version on all nodes")
        if isinstance(error, self._ray.exceptions.GetTimeoutError):
            return f"{place.home}did not deliver its answer in {FETCH_SECONDS:g} s"
        if isinstance(error, self._ray.exceptions.OutOfMemoryError):
            return f"{place.home}was ended by Ray, as memory ran out"
        if "node" in text and "died" in text and "worker process has died" not in text:
            return f"{place.home}{_WITH_NODE}"
        if isinstance(error, self._ray.exceptions.RayActorError):
            return f"{place.home}died: its process ended unexpectedly"
        return f"{place.home}failed: {type(error).__name__}: {' '.join(text.split())[:200]}"

    def _watch(self, workers: Sequence[int]) -> None:
        """Ask for the step counters, and replace workers that stand still."""
        now = time.monotonic()
        # The time in which nobody looked (the learner learnt) does not count against the workers.
        blind, self._watched = max(0.0, now - self._watched - 2 * self._interval), now
        for i in workers:
            place = self.places[i]
            place.since = min(now, place.since + blind)
            if place.question is None and now - place.asked >= self._interval:
                place.question, place.asked = place.actor.beat.options(concurrency_group="watch").remote(), now
            elif place.question is not None and self._ray.wait([place.question], timeout=0)[0]:
                self._listen(place, now)
            if place.count is None and now - place.since > max(self._timeout, START_SECONDS):
                self._replace(i, f"did not start within {now - place.since:.0f} s: is the Ray cluster full?", "")
            elif place.count is not None and now - place.since > self._timeout:
                self._replace(i, f"{place.home}made no step for {self._timeout:g} s: its environment hangs?", "")

    def _listen(self, place: _Place, now: float) -> None:
        question, place.question = place.question, None
        try:
            count, process, machine = self._ray.get(question, timeout=1)
        except self._ray.exceptions.RayError:
            return  # the order that waits there says it better
        place.home, place.pid = f"(process {process} on {machine}) ", process
        if count != place.count:
            place.count, place.since = count, now

    def _replace(self, worker: int, reason: str, details: str) -> None:
        """Start a fresh actor in the place of one that failed, and give it the unanswered orders again."""
        place = self.places[worker]
        self._cluster.kill(place.actor)
        self.restarts.note(worker, reason, details, len(place.columns))
        place.attempt += 1
        self._start_again(place)

    def _start_again(self, place: _Place) -> None:
        self._spawn(place)
        orders, place.orders = place.orders, []
        for message, _ in orders:
            self._submit(place, message)

    def close(self) -> None:
        """End the actors."""
        for place in self.places:
            self._cluster.kill(place.actor)
            place.orders, place.question = [], None
