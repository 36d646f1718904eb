"""Worker processes over one block of shared memory, watched and replaced.

A worker that raises, dies, or makes no step for ``timeout`` seconds is replaced by a fresh one with the same
environments; only its own unfinished episodes are lost. After ``restarts`` replacements the run ends with an error.
Every wait has a limit and notices a dead process at once, through the end of its pipe.

Silence is only held against a worker that was looked at twice, with time for a slow step between: whoever was stopped
and goes on (Ctrl-Z and fg, a machine that slept) finds all workers silent for long, and nothing wrong with them.
"""

from __future__ import annotations

import contextlib
import mmap
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from understudy.data import Rollout
from understudy.envs.make import spaces_of
from understudy.errors import OutsideError, UserError
from understudy.execution.base import Setup
from understudy.execution.board import Board, Shapes, board_layout
from understudy.execution.place import Place
from understudy.execution.processes import LEAVE_SECONDS, death_of, end_all, kill, shared_memory, spawn
from understudy.execution.restarts import Restarts
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec
from understudy.rollouts.buffers import Layout, pack, rollout_layout, rollout_views, views

START_SECONDS = 60.0
"""A worker that has made no step yet imports libraries and builds environments: it has at least this long."""
_LOOK = 0.5
"""Seconds between two looks for silent workers."""
_GRACE = 10.0
"""Seconds that a worker has after it was first seen to be silent for too long, or half of the limit if that is less."""


def weight_shapes(spec: PolicySpec) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and dtype of every array of a policy.

    The policy is really built: on PyTorch's device "meta", which has no memory, a network for pictures or text takes
    0.5 to 2 s for 10 to 30 ms, because its first initialisation there imports PyTorch's compiler.
    """
    with torch.random.fork_rng(devices=[]):
        tensors = Policy(spec).state_dict()
    return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}


class Pool:
    """N workers, and the shared memory they write to.

    Attributes:
        rollouts: [slot] of one rollout that all workers share, each its columns; or [worker * slots + slot] with
            ``own_slots``, as wide as the worker's share.
        restarts: The failures so far.
    """

    def __init__(
        self,
        setup: Setup,
        columns: Sequence[range],
        *,
        timeout: float = 600.0,
        restarts: int = 0,
        slots: int = 1,
        own_slots: bool = False,
        module: str = "understudy.execution.worker",
        name: str = "worker",
        shared: Shapes | None = None,
        extra: Any = None,
    ) -> None:
        """Start the workers.

        Args:
            setup: The run.
            columns: The environments of each worker.
            timeout: Seconds without a step after which a worker counts as hung.
            restarts: Workers that may be replaced.
            slots: Rollouts that can be in the making at once.
            own_slots: Whether every worker has slots of its own.
            module: The body of the workers.
            name: What messages call them.
            shared: Shapes of more arrays that all workers see, ``self.shared``.
            extra: Told to the workers.
        """
        self.columns, self._timeout, self._module, self._name = list(columns), timeout, module, name
        self.restarts = Restarts(name, restarts)
        count = len(self.columns)
        # Workers start before its size is known: building an environment to learn its spaces takes as long as they
        # take to start.
        self._file = shared_memory()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._controls: list[Connection] = []
        self._leaving: list[tuple[subprocess.Popen[bytes], float]] = []
        """Replaced processes that close their environments, and until when."""
        try:
            for _ in range(count):
                process, control = self._spawn()
                self._processes.append(process)
                self._controls.append(control)
            self._prepare(setup, slots, own_slots, shared, extra)
        except BaseException:
            self.close()
            raise

    def _prepare(self, setup: Setup, slots: int, own_slots: bool, shared: Shapes | None, extra: Any) -> None:
        """Lay out the shared memory and tell the workers their places."""
        count = len(self.columns)
        spaces, traced = spaces_of(setup.env), setup.student if setup.traced else None
        board, end = board_layout(weight_shapes(setup.student))
        beats, end = pack({"beats": ((count, 8), np.int64)}, end)
        layouts: list[Layout] = []
        widths = [len(c) for c in self.columns for _ in range(slots)] if own_slots else [len(setup.seeds)] * slots
        for width in widths:
            layout, end = rollout_layout(*spaces, setup.steps, width, traced, end, setup.replayed)
            layouts.append(layout)
        more, end = pack(shared or {}, end)
        self._file.truncate(end)
        self.block = mmap.mmap(self._file.fileno(), end)
        self.shared = views(more, self.block)
        self.rollouts: list[Rollout] = [rollout_views(layout, self.block) for layout in layouts]
        self.board = Board(board, self.block)
        self._beats = views(beats, self.block)["beats"]
        eval_envs = -(-setup.eval_envs // count)
        self._places = [
            Place(
                setup,
                part,
                eval_envs,
                tuple(layouts[i * slots : (i + 1) * slots] if own_slots else layouts),
                board,
                beats,
                i,
                end,
                more,
                extra,
            )
            for i, part in enumerate(self.columns)
        ]
        self._orders: list[list[Any]] = [[] for _ in self.columns]
        self._first_beat = [0] * count
        """Before the first step of the worker that is there now."""
        self._last_beat = [((0, 0), time.perf_counter())] * count
        self._suspect: list[float | None] = [None] * count
        """When a worker was first seen to be silent for too long."""
        for i, place in enumerate(self._places):
            self._post(i, place)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def processes(self) -> Sequence[subprocess.Popen[bytes]]:
        """The workers that are alive, or were the last to be."""
        return tuple(self._processes)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], Connection]:
        return spawn(self._module, self._file.fileno())

    def _post(self, worker: int, message: Any) -> None:
        # A broken pipe says nothing that the next wait does not say better.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._controls[worker].send(message)

    def order(self, worker: int, message: Any) -> None:
        """Give a worker something to do; it answers every order once, in turn."""
        if not self._orders[worker]:
            self._heard(worker)
        self._orders[worker].append(message)
        self._post(worker, message)

    def pending(self, worker: int) -> int:
        """Return how many orders a worker has not answered."""
        return len(self._orders[worker])

    def answers(self, workers: Sequence[int], block: bool = True) -> list[tuple[int, Any]]:
        """Wait until at least one of these workers answers; returns (worker, answer) of all that did.

        Raises:
            WorkerError: A worker failed once more than there are restarts.
            UserError: A worker says what its user can mend; another one would say it again.
        """
        while True:
            controls = {self._controls[i]: i for i in workers}
            ready: list[Any] = wait(list(controls), timeout=min(_LOOK, self._timeout / 4) if block else 0)
            found = []
            for control in ready:
                number = controls[control]
                try:
                    status, *answer = control.recv()
                except (EOFError, OSError):
                    self._replace(number, death_of(self._processes[number]), "")
                    continue
                if status == "mistake":
                    kind = OutsideError if answer[1] else UserError
                    raise kind(f"{self._name} {number}: {answer[0]}")
                if status == "error":
                    self._replace(number, f"raised {answer[0]}", answer[1])
                    continue
                self._orders[number].pop(0)
                self._heard(number)
                found.append((number, answer[0]))
            self._find_dead_and_hanging(workers)
            if found or not block:
                return found

    def _heard(self, worker: int) -> None:
        self._last_beat[worker] = self._pulse(worker), time.perf_counter()
        self._suspect[worker] = None

    def _pulse(self, worker: int) -> tuple[int, int]:
        """Return the steps of a worker, and its signs of life between them."""
        return int(self._beats[worker, 0]), int(self._beats[worker, 1])

    def _find_dead_and_hanging(self, workers: Sequence[int]) -> None:
        self._reap()
        now = time.perf_counter()
        for i in workers:
            beat, since = self._last_beat[i]
            limit = self._timeout
            if beat[0] == self._first_beat[i]:
                limit = max(limit, START_SECONDS)
            if self._processes[i].poll() is not None and not self._controls[i].poll():
                # No end of the pipe tells it where a process that the environment started holds the pipe open.
                self._replace(i, death_of(self._processes[i]), "")
            elif not self._orders[i] or self._pulse(i) != beat:
                self._heard(i)
            elif now - since > limit:
                first = self._suspect[i]
                if first is None:
                    self._suspect[i] = now
                elif now - first > min(self._timeout / 2, _GRACE):
                    what = "made no step" if beat[0] != self._first_beat[i] else "did not come to its first step"
                    self._replace(i, f"{what} for {limit:g} s: its environment hangs?", "")

    def _replace(self, worker: int, reason: str, details: str) -> None:
        """Start a fresh worker in the place of one that failed, and give it the unanswered orders again."""
        self._controls[worker].close()
        if details:
            # It said what it raised and closes its environments now; what they started ends with them.
            self._leaving.append((self._processes[worker], time.perf_counter() + LEAVE_SECONDS))
        else:
            kill(self._processes[worker])
        begun = int(self._beats[worker, 0]) != self._first_beat[worker]
        self.restarts.note(worker, reason, details, len(self.columns[worker]) if begun else 0)
        self._processes[worker], self._controls[worker] = self._spawn()
        place = self._places[worker]
        self._places[worker] = replace(place, setup=replace(place.setup, attempt=place.setup.attempt + 1))
        self._first_beat[worker] = int(self._beats[worker, 0])
        self._heard(worker)
        for message in (self._places[worker], *self._orders[worker]):
            self._post(worker, message)

    def _reap(self) -> None:
        """Kill those that were given time to leave and did not."""
        for process, deadline in self._leaving:
            if process.poll() is None and time.perf_counter() > deadline:
                kill(process)
        self._leaving = [(process, deadline) for process, deadline in self._leaving if process.poll() is None]

    def close(self) -> None:
        """End the workers, within some 2 s: those that wait leave, those that are busy are told to, the rest killed."""
        for control in self._controls:
            control.close()
        end_all(self._processes + [process for process, _ in self._leaving])
        self._file.close()
