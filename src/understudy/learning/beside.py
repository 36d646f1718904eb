"""Evaluation beside reinforcement learning: ordered now and then, read when it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from understudy.data import Array
from understudy.envs.multitask import task_names
from understudy.evaluation.task_score import Level, capped_score
from understudy.execution.evaluator import Evaluator
from understudy.learning.from_rollouts import TrainProgress
from understudy.loop import Metrics
from understudy.objectives.feedback import Curriculum
from understudy.rollouts.episodes import Episodes
from understudy.settings.replayed import ReplayedSettings
from understudy.settings.train import TrainSettings


class BesideExaminer:
    """Orders an evaluation every so many env steps, and does not wait for it by default; see ``loop.Examiner``."""

    def __init__(
        self,
        settings: TrainSettings | ReplayedSettings,
        evaluator: Evaluator | None,
        progress: TrainProgress,
        weights: Callable[[], dict[str, Array]],
        keep_best: Callable[[dict[str, Array], float, int], None],
        wait: bool = False,
        curriculum: Curriculum | None = None,
        levels: Sequence[Level] = (),
    ) -> None:
        """Keep the parts.

        With ``wait`` the learner waits for every evaluation, as a ``curriculum`` needs it; ``levels`` are those of the
        tasks' teachers.
        """
        self._wait, self._curriculum = wait, curriculum
        self._levels, self._tasks = levels, task_names(settings.env.spec())
        self._settings, self._evaluator, self._progress = settings, evaluator, progress
        self._weights, self._keep_best = weights, keep_best
        self._judged: dict[str, Array] = {}
        self._judged_steps = 0

    def look(self, metrics: Metrics) -> str:
        """Read the result of the last order if it is there, and give the next one if it is time."""
        evaluator, progress, evaluation = self._evaluator, self._progress, self._settings.evaluation
        if evaluator is None:
            return ""
        if self._read(evaluator.result(), metrics):
            return "score"
        if evaluation.every and progress.env_steps >= progress.next_evaluation and not evaluator.busy:
            progress.next_evaluation = progress.env_steps + evaluation.every
            if self._order(evaluator, metrics):
                return "score"
            self._move_curriculum(evaluator, metrics)
        return ""

    def _order(self, evaluator: Evaluator, metrics: Metrics) -> bool:
        """Begin the evaluation of the policy as it is now, and wait for it if so it is; whether the run may end."""
        self._judged = {name: np.array(array) for name, array in self._weights().items()}
        self._judged_steps = self._progress.env_steps
        evaluator.begin(self._judged, self._settings.evaluation_seeds, self._settings.evaluation.deterministic)
        return self._wait and self._read(evaluator.result(wait=True), metrics)

    def make_up(self, metrics: Metrics) -> str:
        """Evaluate the policy of the checkpoint, in place of an evaluation that ended with the killed run."""
        evaluator = self._evaluator
        if evaluator is None or not self._settings.evaluation.every:
            return ""
        return "score" if self._order(evaluator, metrics) else ""

    @property
    def judging(self) -> int | None:
        """Env steps of the policy that is being evaluated; None where none is."""
        return self._judged_steps if self._evaluator is not None and self._evaluator.busy else None

    def _move_curriculum(self, evaluator: Evaluator, metrics: Metrics) -> None:
        """Play the same seeds with the teacher in front, and let it play less if that went well."""
        curriculum, evaluation = self._curriculum, self._settings.evaluation
        jump = 0 if curriculum is None else round(curriculum.value(self._progress.env_steps))
        if curriculum is None or not jump:
            return
        evaluator.begin(self._judged, self._settings.evaluation_seeds, evaluation.deterministic, jump)
        episodes = evaluator.result(wait=True)
        assert episodes is not None
        metrics["jump_return"] = float(episodes.returns.mean())
        curriculum.note(metrics["jump_return"])

    def _read(self, episodes: Episodes | None, metrics: Metrics) -> bool:
        """Note the episodes, where there are some; returns whether the run may end."""
        score = self._settings.stop.score
        if episodes is None:
            return False
        self._note(episodes, metrics)
        return score is not None and self._progress.score >= score

    def _note(self, episodes: Episodes, metrics: Metrics) -> None:
        progress = self._progress
        progress.score = float(episodes.returns.mean())
        metrics |= {"eval_return": progress.score, "eval_env_steps": self._judged_steps}
        metrics |= {"eval_std": float(episodes.returns.std()), "eval_length": float(episodes.lengths.mean())}
        metrics["eval_seconds"] = episodes.seconds
        if len(self._tasks) > 1:
            returns = [float(part.returns.mean()) for part in episodes.by_task()]
            metrics |= {f"eval_return/{name}": own for name, own in zip(self._tasks, returns, strict=True)}
            if self._levels:
                metrics["eval_capped_score"] = capped_score(returns, self._levels)
        if progress.score > progress.best:
            progress.best = progress.score
            self._keep_best(self._judged, progress.score, self._judged_steps)

    def finish(self, metrics: Metrics) -> None:
        """Wait for the evaluation that is running, once training is over."""
        if self._evaluator is not None and self._evaluator.busy:
            episodes = self._evaluator.result(wait=True)
            if episodes is not None:
                self._note(episodes, metrics)
