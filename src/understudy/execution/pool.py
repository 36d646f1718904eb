"""Worker processes over one block of shared memory, watched and replaced.

A worker that raises, dies, or makes no step for ``timeout`` seconds is replaced by a fresh one with the same
environments; only its own unfinished episodes are lost. After ``restarts`` replacements the run ends with an error.
Every wait has a limit and notices a dead process at once, through the end of its pipe.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from understudy.data import Rollout
from understudy.envs.make import spaces_of
from understudy.envs.multitask import whole_tasks
from understudy.errors import UserError
from understudy.execution.base import Setup
from understudy.execution.board import Board, Shapes, board_layout
from understudy.execution.restarts import Restarts, WorkerError
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec
from understudy.rollouts.buffers import Layout, pack, rollout_layout, rollout_views, views


def shares(total: int, workers: int) -> list[range]:
    """Split ``total`` columns over workers, sizes differing by one at most."""
    cuts = [total * i // workers for i in range(workers + 1)]
    return [range(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def columns_of(setup: Setup, num_workers: int) -> list[range]:
    """Return the environments of each worker; every worker has environments of all tasks.

    Raises:
        UserError: More workers than environments.
    """
    unit = whole_tasks(setup.env, 1)
    if not 1 <= num_workers <= len(setup.seeds) // unit:
        raise UserError(f"{num_workers} workers cannot share {len(setup.seeds)} environments: lower --num-workers")
    return [range(part.start * unit, part.stop * unit) for part in shares(len(setup.seeds) // unit, num_workers)]


def weight_shapes(spec: PolicySpec) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and dtype of every array of a policy, without building its weights."""
    with torch.device("meta"):
        tensors = Policy(spec).state_dict()
    return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}


@dataclass(frozen=True)
class Place:
    """What a worker is told once: its part of the setup, and where things stand in shared memory.

    Attributes:
        setup: The run.
        columns: The worker's environments.
        eval_envs: Environments of its evaluation episodes.
        rollouts: One layout per rollout that can be in the making.
        board: Of the weights.
        beats: Of the step counters.
        number: Which of the counters is the worker's.
        size: Bytes of the block.
        shared: More arrays that all workers see.
        extra: What other bodies than the rollout worker's need to know.
    """

    setup: Setup
    columns: range
    eval_envs: int
    rollouts: tuple[Layout, ...]
    board: Layout
    beats: Layout
    number: int
    size: int
    shared: Layout
    extra: Any = None


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
        # A temporary file that has no name any more is shared memory that no crash can leave behind. Workers start
        # before its size is known: building an environment to learn its spaces takes as long as they take to start.
        self._file = tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)  # noqa: SIM115
        self._processes: list[subprocess.Popen[bytes]] = []
        self._controls: list[Connection] = []
        for _ in range(count):
            process, control = self._spawn()
            self._processes.append(process)
            self._controls.append(control)
        spaces, traced = spaces_of(setup.env), setup.student if setup.traced else None
        board, end = board_layout(weight_shapes(setup.student))
        beats, end = pack({"beats": ((count, 8), np.int64)}, end)
        layouts: list[Layout] = []
        widths = [len(c) for c in self.columns for _ in range(slots)] if own_slots else [len(setup.seeds)] * slots
        for width in widths:
            layout, end = rollout_layout(*spaces, setup.steps, width, traced, end)
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
        self._last_beat = [(0, time.perf_counter())] * count
        for i, place in enumerate(self._places):
            self._post(i, place)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def restarts_used(self) -> int:
        """Replacements so far."""
        return self.restarts.used

    @property
    def lost_episodes(self) -> int:
        """Unfinished episodes that went with replaced workers."""
        return self.restarts.lost_episodes

    @property
    def processes(self) -> Sequence[subprocess.Popen[bytes]]:
        """The workers that are alive, or were the last to be."""
        return tuple(self._processes)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = Pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(theirs.fileno()), str(self._file.fileno())],
            pass_fds=(theirs.fileno(), self._file.fileno()),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        theirs.close()
        return process, ours

    def _post(self, worker: int, message: Any) -> None:
        # A broken pipe says nothing that the next wait does not say better.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._controls[worker].send(message)

    def order(self, worker: int, message: Any) -> None:
        """Give a worker something to do; it answers every order once, in turn."""
        if not self._orders[worker]:
            self._last_beat[worker] = int(self._beats[worker, 0]), time.perf_counter()
        self._orders[worker].append(message)
        self._post(worker, message)

    def pending(self, worker: int) -> int:
        """Return how many orders a worker has not answered."""
        return len(self._orders[worker])

    def answers(self, workers: Sequence[int], block: bool = True) -> list[tuple[int, Any]]:
        """Wait until at least one of these workers answers; returns (worker, answer) of all that did.

        Raises:
            WorkerError: A worker failed once more than there are restarts, or its user can mend what it says.
        """
        while True:
            controls = {self._controls[i]: i for i in workers}
            ready: list[Any] = wait(list(controls), timeout=min(1.0, self._timeout / 4) if block else 0)
            found = []
            for control in ready:
                number = controls[control]
                try:
                    status, *answer = control.recv()
                except (EOFError, OSError):
                    code = self._processes[number].wait()
                    self._replace(number, f"died (exit code {code})", "")
                    continue
                if status == "mistake":
                    raise WorkerError(f"{self._name} {number}: {answer[0]}", "")
                if status == "error":
                    self._replace(number, f"raised {answer[0]}", answer[1])
                    continue
                self._orders[number].pop(0)
                self._last_beat[number] = int(self._beats[number, 0]), time.perf_counter()
                found.append((number, answer[0]))
            self._find_hanging(workers)
            if found or not block:
                return found

    def _find_hanging(self, workers: Sequence[int]) -> None:
        now = time.perf_counter()
        for i in workers:
            beat, since = self._last_beat[i]
            if not self._orders[i] or int(self._beats[i, 0]) != beat:
                self._last_beat[i] = int(self._beats[i, 0]), now
            elif now - since > self._timeout:
                self._replace(i, f"made no step for {self._timeout:g} s: its environment hangs?", "")

    def _replace(self, worker: int, reason: str, details: str) -> None:
        """Start a fresh worker in the place of one that failed, and give it the unanswered orders again."""
        self._end(worker)
        self.restarts.note(worker, reason, details, len(self.columns[worker]))
        self._processes[worker], self._controls[worker] = self._spawn()
        place = self._places[worker]
        self._places[worker] = replace(place, setup=replace(place.setup, attempt=place.setup.attempt + 1))
        self._last_beat[worker] = int(self._beats[worker, 0]), time.perf_counter()
        for message in (self._places[worker], *self._orders[worker]):
            self._post(worker, message)

    def _end(self, worker: int) -> None:
        self._controls[worker].close()
        self._processes[worker].kill()
        self._processes[worker].wait()

    def close(self) -> None:
        """Close the pipes, wait a moment, kill what is left."""
        for control in self._controls:
            control.close()
        for process in self._processes:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._file.close()
