"""N worker processes step their share of the environments; the learner waits for all of them.

Between ``begin_collect`` and ``end_collect`` the learner is free, so collection and learning overlap; what happens is
fixed by the order of the calls, never by timing, so the same seed gives the same run.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from understudy.data import Rollout
from understudy.envs.make import spaces_of
from understudy.envs.multitask import whole_tasks
from understudy.errors import UserError
from understudy.execution.base import Arrays, EvaluationJob, Setup
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import rollout_layout, rollout_views
from understudy.rollouts.collect import Collected
from understudy.rollouts.episodes import Episodes, merge_episodes


class WorkerError(UserError):
    """A worker raised, died, or did not answer in time; ``details`` has its traceback if there is one."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def shares(total: int, workers: int) -> list[range]:
    """Split ``total`` columns over workers, sizes differing by one at most."""
    cuts = [total * i // workers for i in range(workers + 1)]
    return [range(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


class SyncExecution:
    """Worker processes over one block of shared memory.

    Raises:
        UserError: More workers than environments.
        WorkerError: From any call, when a worker raised, died, or stayed silent for ``timeout`` seconds.
    """

    def __init__(self, setup: Setup, num_workers: int, timeout: float = 600.0) -> None:
        unit = whole_tasks(setup.env, 1)  # every worker has environments of all tasks
        if not 1 <= num_workers <= len(setup.seeds) // unit:
            raise UserError(f"{num_workers} workers cannot share {len(setup.seeds)} environments: lower --num-workers")
        self._timeout = timeout
        parts = shares(len(setup.seeds) // unit, num_workers)
        self._columns = [range(part.start * unit, part.stop * unit) for part in parts]
        # A temporary file that has no name any more is shared memory that no crash can leave behind.
        with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
            self._processes, self._controls = zip(*(self._spawn(file.fileno()) for _ in self._columns), strict=True)
            layout, size = rollout_layout(*spaces_of(setup.env), setup.steps, len(setup.seeds))
            file.truncate(size)
            self._block = mmap.mmap(file.fileno(), size)
        self._rollout = rollout_views(layout, self._block)
        eval_envs = -(-setup.eval_envs // num_workers)
        for i, columns in enumerate(self._columns):
            self._send(i, (setup, columns, layout, eval_envs, size))

    @staticmethod
    def _spawn(block: int) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = Pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-m", "understudy.execution.worker", str(theirs.fileno()), str(block)],
            pass_fds=(theirs.fileno(), block),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        theirs.close()
        return process, ours

    def _send(self, worker: int, message: Any) -> None:
        try:
            self._controls[worker].send(message)
        except (BrokenPipeError, ConnectionResetError):
            self._receive(worker)  # its last words say why
            raise WorkerError(f"worker {worker} closed its pipe") from None

    def _receive(self, worker: int) -> Any:
        control, process = self._controls[worker], self._processes[worker]
        try:
            if not control.poll(self._timeout):
                raise WorkerError(f"worker {worker} did not answer within {self._timeout:g} s: its environment hangs?")
            status, *answer = control.recv()
        except (EOFError, ConnectionResetError):
            code = process.wait()
            raise WorkerError(f"worker {worker} died (exit code {code}); the last checkpoint is intact") from None
        if status == "error":
            raise WorkerError(f"worker {worker}: {answer[0]}", answer[1])
        return answer[0]

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int) -> None:
        """Start all workers on a rollout."""
        self._steps = steps
        for i in range(len(self._controls)):
            self._send(i, ("collect", mixture, student, steps))

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Wait for all workers."""
        infos: list[Collected] = [self._receive(i) for i in range(len(self._controls))]
        returns = [r for info in infos for r in info.returns]
        lengths = [n for info in infos for n in info.lengths]
        return self._rollout.first(self._steps), Collected(sum(info.env_steps for info in infos), returns, lengths)

    def evaluate(self, jobs: Sequence[EvaluationJob]) -> list[Episodes]:
        """Run the jobs, each shared out over all workers."""
        workers = len(self._controls)
        results = []
        for job in jobs:
            parts = [[job.seeds[k] for k in columns] for columns in shares(len(job.seeds), workers)]
            busy = [i for i in range(workers) if parts[i]]
            for i in busy:
                self._send(i, ("evaluate", job, parts[i]))
            results.append(merge_episodes([self._receive(i) for i in busy]))
        return results

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
