"""Is the student as good as its teacher? Evaluation beside learning, spent where it decides.

A look at a student costs ``screen`` episodes if it is clearly short and ``episodes`` for a first test, and is extended
up to ``max_episodes`` while the student looks good enough but the test is undecided. Who passes on fewer than
``confirm`` episodes plays on up to so many and must pass on all of them, too: ten episodes cannot know of a student
that fails in every tenth.

The total probability of a wrong success, over all looks of a run, is at most ``stop.alpha``:

- A look that gets past its screen spends its part of alpha whatever comes of it, tested or not. If only good beginnings
  were counted, a test would pass wrongly about twice as often as its level says.
- Its stages (episodes, twice as many, ...) divide that part, 3/4, 3/16, ...: ``_STAGES``.
- A confirmation only ever takes a success back, so it spends nothing; its level is ``stop.alpha``.
- The screen is free: a student that it sends back spends nothing. A student at the boundary is sent back with
  probability s = P(t < -1), so that one which is not passes up to 1 / (1 - s) times as often; all levels are 1 - s of
  what they could be without a screen, 0.80 for 4 episodes. Students below the boundary, and looks that share the
  teacher's episodes, only make it less (p / (1 - s) rises with what is to a student's good, and so does 1 - s).

Returns are [K, n]: K tasks (usually 1), n episodes of each, all on the same seeds. The student must be on par in every
task; its ratio is that of its worst.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr

from understudy.data import Array
from understudy.errors import UserError
from understudy.evaluation.parity import Parity, SequentialParity, episodes_needed, moments
from understudy.execution.base import EvaluationJob
from understudy.rollouts.episodes import Episodes
from understudy.settings import EvaluationSettings, StopSettings

Evaluate = Callable[[Sequence[EvaluationJob]], list[Episodes]]
_STAGES = 0.25
"""Level of a stage of a look as a share of the one before: most is for the first, which decides quickly."""


class Judge:
    """Keeps the returns of teacher and random policy, and tests one student after another on the same seeds.

    Attributes:
        tasks: K names.
        teacher: [K, n] returns.
        random: [K, m] returns.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        settings: EvaluationSettings,
        stop: StopSettings,
        tasks: Sequence[str] = ("",),
        seed: int = 0,
    ) -> None:
        self._seed = seed
        self._evaluate, self._settings, self._ratio = evaluate, settings, stop.ratio
        self.tasks = tuple(tasks)
        self.sequential = SequentialParity(stop.ratio, stop.alpha, guard_falls=stop.guard_falls)
        self.teacher = np.zeros((len(tasks), 0))
        self.random = np.zeros((len(tasks), 0))
        self.episodes = settings.episodes
        """Episodes of the first test of a look: as many as the last undecided look came to."""
        self.seconds = 0.0
        self.env_steps = 0

    def _seeds(self, first: int, last: int) -> tuple[int, ...]:
        return tuple(range(self._seed + first, self._seed + last))

    def _run(self, jobs: list[EvaluationJob]) -> list[Array]:
        begin = time.perf_counter()
        results = self._evaluate(jobs)
        self.seconds += time.perf_counter() - begin
        self.env_steps += int(sum(result.lengths.sum() for result in results))
        return [np.stack([part.returns for part in result.by_task()]) for result in results]

    def prepare(self) -> None:
        """Measure the random policy and the first episodes of the teacher.

        Raises:
            UserError: The teacher is not better than the random policy, so that a ratio has no meaning.
        """
        count = self._settings.episodes
        # The random policy's return counts for 1 - ratio only: half the episodes are enough to begin with.
        jobs = [
            EvaluationJob("random", self._seeds(0, max(count // 2, 3))),
            EvaluationJob("teacher", self._seeds(0, count)),
        ]
        self.random, self.teacher = self._run(jobs)
        while self._not_above_random() and self.teacher.shape[1] < self._settings.max_episodes:
            self._extend(2 * self.teacher.shape[1])  # a teacher that scatters may be unlucky at first
        for name in self._not_above_random():
            which = self.tasks.index(name)
            raise UserError(
                f"the teacher's return{f' in {name}' if name else ''} ({self.teacher[which].mean():.4g}) is not above "
                f"the random policy's ({self.random[which].mean():.4g}): does the environment fit the teacher? try "
                "understudy evaluate TEACHER"
            )

    def _not_above_random(self, count: int | None = None) -> list[str]:
        """Return the tasks in which the teacher's first ``count`` episodes, or all, are no better than random ones."""
        pairs = zip(self.tasks, self.teacher[:, :count].mean(axis=1), self.random.mean(axis=1), strict=True)
        return [name for name, teacher, random in pairs if teacher <= random]

    def _begin(self) -> None:
        """Measure who is compared, and let a look begin with so many episodes that the teacher is above random."""
        if not self.teacher.size:
            self.prepare()
        while True:
            self._extend(self.episodes)
            if not self._not_above_random(self.episodes) or self.episodes >= self._most:
                return
            self.episodes = min(2 * self.episodes, self._most)

    def _extend(self, count: int, random: bool = True) -> None:
        """Let teacher and random policy play up to ``count`` episodes, so that neither is what leaves it open.

        The random policy has enough for the first test, and what it does weighs 1 - ratio in a confirmation.
        """
        if self.teacher.shape[1] < count:
            (new,) = self._run([EvaluationJob("teacher", self._seeds(self.teacher.shape[1], count))])
            self.teacher = np.concatenate((self.teacher, new), axis=1)
        if random and max(self.random.shape[1], self._settings.episodes) < count:
            (new,) = self._run([EvaluationJob("random", self._seeds(self.random.shape[1], count))])
            self.random = np.concatenate((self.random, new), axis=1)

    def ratios(self, returns: Array) -> dict[str, float]:
        """Return (S - R) / (T - R) of mean returns [K, n] by task, all on the same seeds; NaN where T <= R on these."""
        base, teacher = self.means(returns.shape[1])
        above = np.where(teacher > base, teacher - base, np.nan)
        return dict(zip(self.tasks, ((returns.mean(axis=1) - base) / above).tolist(), strict=True))

    def ratio(self, returns: Array) -> float:
        """Return the ratio of the worst task; NaN where that of a task is unknown."""
        return float(np.min(list(self.ratios(returns).values())))

    def means(self, count: int) -> tuple[Array, Array]:
        """Return mean returns [K] of the random policy and of the teacher on the first ``count`` seeds."""
        return self.random[:, :count].mean(axis=1), self.teacher[:, :count].mean(axis=1)

    def look(self, student: Mapping[str, Array]) -> tuple[Parity | None, Array]:
        """Judge a student; returns the test of its worst task on all episodes, None if short, and returns [K, n]."""
        self._begin()
        returns, stage = self.teacher[:, :0], 0
        wanted = min(self._settings.screen, self.episodes)
        while True:
            self._extend(wanted)
            returns = self._play_on(returns, wanted, student)
            if self._short(returns):
                if wanted >= self.episodes:  # short after all: the next student need not cost as much to find out
                    self.sequential.spend()
                    self.episodes = max(self._settings.episodes, self.episodes // 2)
                return None, returns
            if wanted >= self.episodes:
                if stage and self._not_above_random(wanted):  # the teacher's luck turned: no test is possible on these
                    self.sequential.spend()
                    return None, returns
                tested = self._test(returns, self._level(stage))
                stage += 1
                if tested.passed or not self._worth_extending(returns, self._level(stage)):
                    self.sequential.spend()
                    found: Parity | None = tested
                    if tested.passed:
                        found, returns = self._confirm(tested, returns, student)
                    # Good enough, but too few episodes to say so, or so few that they misled: testing a later student
                    # on as few would only spend more of alpha.
                    self.episodes = wanted if found and found.passed else min(2 * wanted, self._most)
                    return found, returns
            wanted = self.episodes if wanted < self.episodes else 2 * wanted
            wanted = min(wanted, self._most)

    def _confirm(self, tested: Parity, returns: Array, student: Mapping[str, Array]) -> tuple[Parity | None, Array]:
        """Test a student that has passed on ``confirm`` episodes; None if it turns out to be short before."""
        enough = min(self._settings.confirm, self._most)
        if returns.shape[1] >= enough:
            return tested, returns
        while returns.shape[1] < enough:
            wanted = min(2 * returns.shape[1], enough)
            self._extend(wanted, random=False)
            returns = self._play_on(returns, wanted, student)
            if self._not_above_random(wanted) or self._short(returns):
                return None, returns
        return self._test(returns, self.sequential.alpha), returns

    def _play_on(self, returns: Array, count: int, student: Mapping[str, Array]) -> Array:
        """[K, n] -> [K, count] returns of a student."""
        (new,) = self._run([EvaluationJob("student", self._seeds(returns.shape[1], count), student)])
        return np.concatenate((returns, new), axis=1)

    def _test(self, returns: Array, alpha: float) -> Parity:
        """Return the test of the worst task."""
        teacher = self.teacher[:, : returns.shape[1]]
        tests = self.sequential.test_each(list(returns), list(teacher), list(self.random), alpha)
        return max(tests, key=lambda test: test.p_value)

    @property
    def _most(self) -> int:
        return max(self._settings.max_episodes, self._settings.episodes)

    def _level(self, stage: int) -> float:
        """Return what a stage of this look, from 0, may spend; see the module."""
        kept = float(stdtr(self._settings.screen - 1, 1.0))
        return kept * self.sequential.next_alpha * (1 - _STAGES) * _STAGES**stage

    def _short(self, returns: Array) -> bool:
        """Whether a task's return is below what is asked for; after the screen, by more than its standard error."""
        count = returns.shape[1]
        for student, teacher, random in zip(returns, self.teacher[:, :count], self.random, strict=True):
            found = moments(student, teacher, random, paired=True)
            slack = found.error(self._ratio)[0] if count < self.episodes else 0.0
            if found.margin(self._ratio) < -slack:
                return True
        return False

    def _worth_extending(self, returns: Array, alpha: float) -> bool:
        """Whether so many more episodes would probably decide as there may be; if not, learning is better spent."""
        count = returns.shape[1]
        if count >= self._settings.max_episodes:
            return False
        for student, teacher, random in zip(returns, self.teacher[:, :count], self.random, strict=True):
            needed = episodes_needed(student, teacher, random, self._ratio, alpha)
            if needed is None or needed > self._settings.max_episodes:
                return False
        return True

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs, as JSON-able data."""
        return {
            "teacher": self.teacher.tolist(),
            "random": self.random.tolist(),
            "sequential": self.sequential.state(),
            "episodes": self.episodes,
            "asked": self._settings.episodes,
            "seed": self._seed,
            "seconds": self.seconds,
            "env_steps": self.env_steps,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from ``state``; what was measured on other seeds is measured again."""
        if data.get("seed", self._seed) == self._seed:  # runs of earlier versions do not say it
            self.teacher, self.random = np.atleast_2d(data["teacher"]), np.atleast_2d(data["random"])
        self.sequential.restore(data["sequential"])
        self.seconds, self.env_steps = data["seconds"], data["env_steps"]
        if data.get("asked", self._settings.episodes) == self._settings.episodes:
            self.episodes = min(data["episodes"], self._most)
