"""What a population takes of a machine's memory and disk, and whether there is as much."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from understudy.errors import UserError
from understudy.kickstart_job import KickstartJob
from understudy.policies.spaces import members as parts_of

RAY_BYTES = 400 << 20
"""Of Ray's own seven processes on one machine: 0.33 GB were seen with 2.60.0 and one member at a time."""
KEPT = 3
"""Checkpoints of each member that Tune keeps, and two in the member's own folder."""


@dataclass(frozen=True)
class Needs:
    """Bytes.

    Attributes:
        members: How many there are.
        concurrent: How many learn at once.
        member: Memory of each of those.
        disk: Of all checkpoints.
    """

    members: int
    concurrent: int
    member: int
    disk: int

    @property
    def memory(self) -> int:
        """Of all processes together."""
        return self.concurrent * self.member + RAY_BYTES

    def check(self, memory: int | None, disk: int | None) -> None:
        """Refuse a population for which there is no room.

        Args:
            memory: Free bytes; None where that is not known.
            disk: Likewise.

        Raises:
            UserError: With the estimate.
        """
        if memory is not None and self.memory > memory:
            raise UserError(
                f"a population of {self.members} needs about {_gb(self.memory)} of memory ({self.concurrent} members "
                f"at once, {_gb(self.member)} each), but {_gb(memory)} are free: lower --population or --pbt.concurrent"
            )
        if disk is not None and self.disk > disk:
            raise UserError(
                f"the checkpoints of a population of {self.members} need about {_gb(self.disk)} of disk, but "
                f"{_gb(disk)} are free: lower --population, or choose another disk with --run"
            )


def estimate(job: KickstartJob, parameters: int, concurrent: int, process: int | None = None) -> Needs:
    """Estimate what a population takes.

    A member is a process like this one (PyTorch, the teachers), which is measured; its parameters with their gradients
    and the optimiser's two moments; a rollout, twice; and 10 % more.

    Args:
        job: From ``prepare``.
        parameters: Of the student.
        concurrent: Members that learn at once.
        process: Bytes of this process; measured by default.
    """
    settings, teacher = job.settings, job.teachers[0]
    parts = parts_of(teacher.observation_space).values()
    observation = sum(np.dtype(space.dtype).itemsize * math.prod(space.shape or ()) for space in parts)
    rollout = settings.samples * (observation + 64)
    weights = 4 * parameters
    member = 1.1 * ((process or resident()) + 4 * weights + 2 * rollout)
    # A checkpoint holds the weights and both moments.
    disk = settings.pbt.population * ((KEPT + 1) * 3 + 2) * weights
    return Needs(settings.pbt.population, concurrent, int(member), disk)


def resident() -> int:
    """Return the bytes of memory of this process (Linux; elsewhere 400 MB, what PyTorch takes)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 400 << 20


def free_memory() -> int | None:
    """Return the bytes that can be had without swapping, within the container's limit; None where not known."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        found += [free_in_group(Path("/sys/fs/cgroup"))]
    return min(found, default=None)


def free_in_group(folder: Path) -> int:
    """Return the bytes that a control group (version 2) may still take; files that are only cached are in nobody's way.

    Raises:
        OSError: There is none.
        ValueError: It has no limit.
    """
    limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
    lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    cached = sum(int(size) for name, size in lines if name in ("active_file", "inactive_file"))
    return limit - used + cached


def free_disk(folder: Path) -> int | None:
    """Return the bytes that can be written where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def _gb(number: int) -> str:
    return f"{number / 1e9:.3g} GB" if number >= 1e8 else f"{number / 1e6:.3g} MB"
