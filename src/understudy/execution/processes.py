"""How the processes of workers begin and end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

LEAVE_SECONDS = 2.0
"""What workers have to close their environments, once they know that it is over."""


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use, a container's share of them (``docker run --cpus 2``) rounded up.

    Args:
        groups: Where Linux tells of control groups; a container sees its own as the root (cgroups 2, or 1).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # not told, or "max": no limit
            quota, period = (int(word) for name in names for word in (groups / name).read_text().split())
            if quota > 0 < period:
                return max(min(allowed, -(-quota // period)), 1)
    return allowed


def shared_memory() -> IO[bytes]:
    """Return an open file without a name for processes to map: memory that no crash can leave behind.

    On Linux it is no part of any file system: /dev/shm has 64 MB in a Docker container, less than the rollouts of many
    games, and whoever writes beyond that dies of a bus error.
    """
    with contextlib.suppress(AttributeError, OSError):  # another system, or a container that forbids it
        return os.fdopen(os.memfd_create("understudy"), "w+b", buffering=0)
    return tempfile.TemporaryFile()


def spawn(module: str, memory: int) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a worker; returns it and our end of its pipe.

    Args:
        module: Its body, run with the numbers of its end of the pipe, of the shared memory, and of this process.
        memory: The open file that is the shared memory.
    """
    ours, theirs = Pipe()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    words = (theirs.fileno(), memory, os.getpid())
    # A terminal sends Ctrl-C to everybody in it. It is ours to handle, and a worker inherits what is blocked: so
    # one that has only begun to start does not die of it with a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            pass_fds=words[:2],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return process, ours


def death_of(process: subprocess.Popen[bytes]) -> str:
    """Say what became of a worker whose pipe has ended."""
    try:
        return f"died (exit code {process.wait(1.0)})"
    except subprocess.TimeoutExpired:  # alive, but something in it closed the pipe
        return "closed its pipe"


def end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes whose pipes are closed: those that wait leave, those that are busy are told to, the rest killed."""
    begin = time.perf_counter()
    if not _wait(processes, 0.3):
        for process in processes:
            process.terminate()
        _wait(processes, LEAVE_SECONDS - (time.perf_counter() - begin))
    for process in processes:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and see it off.

    Not by ``Popen.wait``: an interrupt in the middle of its ``poll`` may leave the lock taken that ``wait`` takes.
    """
    process.kill()
    if process.returncode is None:
        with contextlib.suppress(ChildProcessError):  # seen off already
            process.returncode = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Wait until all have ended, or so many seconds are over; returns whether they have."""
    end = time.perf_counter() + seconds
    for process in processes:
        try:
            process.wait(max(end - time.perf_counter(), 0.0))
        except subprocess.TimeoutExpired:
            return False
    return True
