"""Distillation: the teacher labels every rollout, the student is fitted to the dataset of all of them."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.data import Array, Rollout, flatten_time
from understudy.errors import UserError
from understudy.evaluation.judge import Judge
from understudy.learning.distill_learner import Learner
from understudy.loop import Metrics, Order, Progress
from understudy.objectives.schedules import Schedule
from understudy.policies.policy import PolicyLike, TensorState
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.collect import Collected
from understudy.rollouts.dataset import Dataset
from understudy.settings import DistillSettings

_PARTS = ("start", "collect", "label", "learn")


@dataclass
class DistillProgress(Progress):
    """How far a distillation is."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))
    best: float = -np.inf
    """Best evaluation so far, as a ratio of the teacher's return."""
    best_full: bool = True
    """Whether that evaluation had as many episodes as a first test; a screen's ratio is mostly luck."""
    ratio: float = float("nan")
    next_look: int = 1
    """Round of the next evaluation."""
    ratios: dict[str, float] = field(default_factory=dict)
    """The last ratio of every task; ``ratio`` is the least."""


class TeacherLabels:
    """Asks the teacher about whole rollouts, and keeps the memory of a recurrent one between them."""

    def __init__(self, teacher: PolicyLike) -> None:
        self._teacher = teacher
        self._state: TensorState = None
        self._recurrent = teacher.initial_state(1) is not None

    def label(self, rollout: Rollout) -> dict[str, Array]:
        """[T, B, ...] -> columns of the dataset: ``params`` [T, B, P], and ``value`` [T, B], ``mask`` [T, B, A] if any.

        Raises:
            UserError: The teacher answers NaN or infinity.
        """
        steps, envs = rollout.shape
        if self._recurrent:
            state = self._state if self._state is not None else self._teacher.initial_state(envs)
            target, self._state = self._teacher.label(rollout.obs, state, rollout.episode_start)
        else:
            target, _ = self._teacher.label(flatten_time(rollout.obs))
        columns = {
            name: tensor.cpu().numpy().reshape(steps, envs, *tensor.shape[2 if self._recurrent else 1 :])
            for name, tensor in target._asdict().items()
            if tensor is not None
        }
        bad = ~np.isfinite(columns["params"]).all(axis=2)
        if bad.any():
            step, env = np.argwhere(bad)[0]
            raise UserError(
                f"the teacher {self._teacher.about.source or self._teacher.about.algorithm} answers NaN or infinity at "
                f"step {step} of environment {env}: is its normaliser or its environment the right one?"
            )
        return columns


@dataclass
class FromDataset:
    """One round of distillation; see ``loop.Learning``."""

    settings: DistillSettings
    learner: Learner
    dataset: Dataset
    labels: TeacherLabels
    beta: Schedule
    noise: Schedule
    progress: DistillProgress
    fit_normalizer: Callable[[Mapping[str, Array]], None]

    def order(self) -> Order:
        """Mix teacher and student as the schedules say."""
        data, now = self.settings.data, self.progress.env_steps
        mixture = Mixture(self.beta.value(now), self.noise.value(now), self.settings.behaviour.noise_share)
        steps = (data.first_steps if self.progress.round == 0 else 0) or data.steps
        self._updates = int(self.settings.learning.update_to_data * steps * data.num_envs)
        self._learn = functools.partial(self.learner.update, self.dataset, self._updates, now)
        self._mixture = mixture
        return Order(mixture, self.learner.weights() if mixture.beta < 1 else None, steps)

    @property
    def _overlap(self) -> bool:
        return self.settings.learning.overlap and self.progress.round > 0

    def meanwhile(self) -> Metrics:
        """Learn from the earlier rollouts, with ``learning.overlap``."""
        return dict(self._learn()) if self._overlap else {}

    def learn(self, rollout: Rollout, info: Collected) -> Metrics:
        """Label the rollout, add it to the dataset, learn unless that was done meanwhile."""
        begin = time.perf_counter()
        labels = self.labels.label(rollout)
        if not self.settings.data.aggregate:
            self.dataset.clear()
        self.dataset.append(rollout, labels)
        labelling = time.perf_counter() - begin
        self.progress.seconds["label"] += labelling
        self.progress.seconds["learn"] -= labelling
        if self.progress.round == 0:
            self.fit_normalizer(dict(self.dataset.filled()))
        metrics: Metrics = {} if self._overlap else dict(self._learn())
        self.progress.updates += self._updates
        behaviour_return = float(np.mean(info.returns)) if info.returns else float("nan")
        about = {"beta": self._mixture.beta, "behaviour_return": behaviour_return, "samples": self.dataset.size}
        return metrics | about


@dataclass
class ParityExaminer:
    """Asks the judge, and less often the longer it takes; see ``loop.Examiner``."""

    settings: DistillSettings
    learner: Learner
    judge: Judge
    progress: DistillProgress

    def look(self, metrics: Metrics) -> str:
        """Judge the student if it is time."""
        progress, now = self.progress, self.progress.round
        if now < progress.next_look or progress.env_steps < self.settings.evaluation.after or not progress.updates:
            return ""
        spent = self.judge.env_steps
        passed = self._judge(metrics)
        evaluation, data = self.settings.evaluation, self.settings.data
        pause = evaluation.pause * (self.judge.env_steps - spent) / (data.steps * data.num_envs)
        progress.next_look = max(now + evaluation.every, math.ceil(now * evaluation.backoff), now + int(pause))
        return "parity" if passed else ""

    def _judge(self, metrics: Metrics) -> bool:
        """Evaluate the student; adds what was found to the metrics."""
        judge, progress = self.judge, self.progress
        parity, returns = judge.look(self.learner.weights())
        ratio = judge.ratio(returns)
        progress.ratio, progress.ratios = ratio, judge.ratios(returns)
        random, teacher = judge.means(returns.shape[1])
        found: dict[str, Any] = {"student_return": float(returns.mean()), "teacher_return": float(teacher.mean())}
        found |= {"random_return": float(random.mean()), "ratio": ratio, "eval_episodes": returns.size}
        if len(judge.tasks) == 1:  # returns of different tasks have no common deviation
            found["student_std"] = float(returns.std())
        else:
            found |= {f"ratio/{task}": value for task, value in progress.ratios.items()}
        if parity is not None:
            found["parity_p"] = parity.p_value
        passed = parity is not None and parity.passed
        full = returns.shape[1] >= self.settings.evaluation.episodes
        if passed or self._better(ratio, full):
            progress.best, progress.best_full = ratio, full
            found["best"] = True
        metrics |= found
        return passed

    def _better(self, ratio: float, full: bool) -> bool:
        """Whether an evaluation is better than the best so far; none of a screen alone is better than a full one."""
        held = self.progress.best_full and bool(np.isfinite(self.progress.best))
        return bool(np.isfinite(ratio)) and (full, ratio) > (held, self.progress.best)
