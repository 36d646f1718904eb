"""How often workers may fail: every failure is told and counted, the one too many ends the run."""

from __future__ import annotations

import time
from dataclasses import dataclass

from understudy.errors import OutsideError, tell


class WorkerError(OutsideError):
    """A worker raised, died, or stood still; ``details`` has its traceback if there is one."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Failure:
    """A worker that was replaced, or ended the run."""

    time: float
    """When it was noticed, in ``time.time()``."""
    worker: int
    reason: str


class Restarts:
    """The failures of some workers.

    Attributes:
        used: Replacements so far.
        lost_episodes: Unfinished episodes that went with replaced workers.
        failures: What happened, in order.
    """

    def __init__(self, name: str, limit: int) -> None:
        """Count from zero.

        Args:
            name: What messages call a worker.
            limit: How many may be replaced.
        """
        self._name, self._limit = name, limit
        self.used = self.lost_episodes = 0
        self.failures: list[Failure] = []

    def note(self, worker: int, reason: str, details: str, episodes: int) -> None:
        """Count a failed worker, which is going to be replaced, and the episodes that it had begun.

        Raises:
            WorkerError: There are no restarts left.
        """
        line = f"{self._name} {worker} {reason}"
        self.failures.append(Failure(time.time(), worker, reason))
        if self.used >= self._limit:
            limit = f" (all {self._limit} restarts are used up)" if self._limit else ""
            raise WorkerError(f"{line}{limit}", details)
        self.used += 1
        self.lost_episodes += episodes
        tell(f"{details}understudy: {line}; replaced, restart {self.used} of {self._limit}\n")
