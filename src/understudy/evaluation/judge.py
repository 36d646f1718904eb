"""Is the student as good as its teacher? Evaluation beside learning, spent where it decides.

A look at a student costs ``screen`` episodes if it is clearly short, ``episodes`` if the test passes at once, and is
extended up to ``max_episodes`` while the student looks good enough but the test is undecided. Stopping early for want
of return never makes a wrong success likelier; every test that could succeed spends its part of alpha.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.evaluation.parity import Parity, SequentialParity, episodes_needed
from understudy.execution.base import EvaluationJob
from understudy.rollouts.episodes import Episodes
from understudy.settings import EvaluationSettings, StopSettings

Evaluate = Callable[[Sequence[EvaluationJob]], list[Episodes]]


class Judge:
    """Keeps the returns of teacher and random policy, and tests one student after another on the same seeds."""

    def __init__(self, evaluate: Evaluate, settings: EvaluationSettings, stop: StopSettings) -> None:
        self._evaluate, self._settings, self._ratio = evaluate, settings, stop.ratio
        self.sequential = SequentialParity(stop.ratio, stop.alpha)
        self.teacher = np.zeros(0)
        self.random = np.zeros(0)
        self.seconds = 0.0
        self.env_steps = 0

    def _seeds(self, first: int, last: int) -> tuple[int, ...]:
        return tuple(range(self._settings.seed + first, self._settings.seed + last))

    def _run(self, jobs: list[EvaluationJob]) -> list[Array]:
        begin = time.perf_counter()
        results = self._evaluate(jobs)
        self.seconds += time.perf_counter() - begin
        self.env_steps += int(sum(result.lengths.sum() for result in results))
        return [result.returns for result in results]

    def prepare(self) -> None:
        """Measure the random policy and the first episodes of the teacher.

        Raises:
            UserError: The teacher is not better than the random policy, so that a ratio has no meaning.
        """
        count = self._settings.episodes
        seeds = self._seeds(0, count)
        self.random, self.teacher = self._run([EvaluationJob("random", seeds), EvaluationJob("teacher", seeds)])
        if self.teacher.mean() <= self.random.mean():
            raise UserError(
                f"the teacher's return ({self.teacher.mean():.4g}) is not above the random policy's "
                f"({self.random.mean():.4g}): does the environment fit the teacher? try  understudy evaluate TEACHER"
            )

    def ratio(self, returns: Array) -> float:
        """Return (S - R) / (T - R) of mean returns, the teacher's on the same seeds."""
        base = self.random.mean()
        return float((returns.mean() - base) / (self.teacher[: len(returns)].mean() - base))

    def look(self, student: Mapping[str, Array]) -> tuple[Parity | None, Array]:
        """Judge a student; returns the last test (None if it was clearly short), and its returns."""
        if not len(self.teacher):
            self.prepare()
        returns, tested = np.zeros(0), None
        wanted = min(self._settings.screen, self._settings.episodes)
        while True:
            (new,) = self._run([EvaluationJob("student", self._seeds(len(returns), wanted), student)])
            returns = np.concatenate((returns, new))
            if self.ratio(returns) < self._ratio:
                return tested, returns
            if wanted >= self._settings.episodes:
                tested = self.sequential.look(returns, self.teacher[: len(returns)], self.random)
                if tested.passed or not self._worth_extending(returns):
                    return tested, returns
            wanted = self._settings.episodes if wanted < self._settings.episodes else 2 * wanted
            wanted = min(wanted, max(self._settings.max_episodes, self._settings.episodes))
            if wanted > len(self.teacher):
                (more,) = self._run([EvaluationJob("teacher", self._seeds(len(self.teacher), wanted))])
                self.teacher = np.concatenate((self.teacher, more))

    def _worth_extending(self, returns: Array) -> bool:
        """Whether so many more episodes would probably decide as there may be; if not, learning is better spent."""
        if len(returns) >= self._settings.max_episodes:
            return False
        needed = episodes_needed(
            returns, self.teacher[: len(returns)], self.random, self._ratio, self.sequential.next_alpha
        )
        return needed is not None and needed <= self._settings.max_episodes

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs, as JSON-able data."""
        return {
            "teacher": self.teacher.tolist(),
            "random": self.random.tolist(),
            "sequential": self.sequential.state(),
            "seconds": self.seconds,
            "env_steps": self.env_steps,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.teacher, self.random = np.array(data["teacher"]), np.array(data["random"])
        self.sequential.restore(data["sequential"])
        self.seconds, self.env_steps = data["seconds"], data["env_steps"]
