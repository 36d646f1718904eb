"""A process that runs evaluation episodes beside training, on environments of its own; the learner never waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from understudy.data import Array
from understudy.errors import OutsideError, UserError
from understudy.execution.base import EvaluationJob, Setup
from understudy.execution.pool import Pool
from understudy.rollouts.episodes import Episodes


class Evaluator:
    """One job at a time; it is replaced as workers are."""

    def __init__(self, setup: Setup, timeout: float, restarts: int) -> None:
        plain = replace(setup, seeds=(), traced=False)
        self._pool = Pool(plain, [range(0)], timeout=timeout, restarts=restarts, slots=0, name="evaluator")
        self.seconds = 0.0
        """Wall seconds of all jobs so far."""

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._pool.pending(0) > 0

    def begin(self, weights: Mapping[str, Array], seeds: Sequence[int], deterministic: bool, jump: int = 0) -> None:
        """Start a job; the weights are taken before this returns. The teacher plays the first ``jump`` steps."""
        assert not self.busy, "one job at a time"
        # Not through the pipe: the learner would wait for whoever starts, and for ever for one that hangs.
        self._pool.board.publish(weights)
        job = EvaluationJob("student", tuple(seeds), None, deterministic, jump)
        self._pool.order(0, ("evaluate", job, job.seeds))

    def result(self, wait: bool = False) -> Episodes | None:
        """Return the episodes of the job if it is done; with ``wait``, once it is done.

        Raises:
            WorkerError: The evaluator failed more often than there are restarts.
            OutsideError: It says what the user can mend.
        """
        if not self.busy:
            return None
        try:
            answers = self._pool.answers([0], block=wait)
        except UserError as error:
            raise error if isinstance(error, OutsideError) else OutsideError(str(error)) from None
        for _, episodes in answers:
            found: Episodes = episodes
            self.seconds += found.seconds
            return found
        return None

    @property
    def restarts_used(self) -> int:
        """How often the process was replaced."""
        return self._pool.restarts.used

    def close(self) -> None:
        """End the process."""
        self._pool.close()
