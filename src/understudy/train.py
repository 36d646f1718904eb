"""THE loop: gather, label, learn, judge, save."""

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
from understudy.evaluation.parity import Parity
from understudy.execution.base import Execution
from understudy.learner import Learner
from understudy.objectives.schedules import Schedule
from understudy.policies.policy import PolicyLike, TensorState
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.dataset import Dataset
from understudy.settings import DistillSettings


@dataclass
class Progress:
    """Where a run stands; all of it is saved and resumed."""

    round: int = 0
    env_steps: int = 0
    updates: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"collect": 0.0, "label": 0.0, "learn": 0.0})
    best: float = -np.inf
    """Best evaluation so far, as a ratio of the teacher's return."""
    ratio: float = float("nan")
    next_look: int = 1
    """Round of the next evaluation."""
    ratios: dict[str, float] = field(default_factory=dict)
    """The last ratio of every task; ``ratio`` is the least."""
    stopped: str = ""
    """Why the run ended; empty while it goes on."""


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
class Run:
    """The parts of a run, and what is told to the outside: ``report`` after each round, ``save`` when worth it."""

    settings: DistillSettings
    execution: Execution
    learner: Learner
    dataset: Dataset
    labels: TeacherLabels
    judge: Judge
    beta: Schedule
    noise: Schedule
    progress: Progress
    fit_normalizer: Callable[[Mapping[str, Array]], None]
    report: Callable[[dict[str, Any]], None]
    save: Callable[[bool], None]


def train(run: Run) -> None:
    """Go on until the student is on par with its teacher or the budget ends; ``progress.stopped`` says which."""
    settings, progress = run.settings, run.progress
    deadline = settings.stop.seconds and time.perf_counter() + settings.stop.seconds
    while not progress.stopped:
        metrics = _round(run)
        parity = None
        if progress.round >= progress.next_look and progress.updates:
            spent = run.judge.env_steps
            parity = _judge(run, metrics)
            evaluation, now = settings.evaluation, progress.round
            pause = evaluation.pause * (run.judge.env_steps - spent) / (settings.data.steps * settings.data.num_envs)
            progress.next_look = max(now + evaluation.every, math.ceil(now * evaluation.backoff), now + int(pause))
        if parity is not None and parity.passed:
            progress.stopped = "parity"
        elif progress.env_steps >= settings.stop.env_steps:
            progress.stopped = "env_steps"
        elif deadline and time.perf_counter() > deadline:
            progress.stopped = "seconds"
        run.report(metrics)
        run.save(metrics.get("best", False))


def _round(run: Run) -> dict[str, Any]:
    """Gather one rollout, label it, and learn; with ``overlap``, learn from the earlier ones meanwhile."""
    settings, progress, dataset, clock = run.settings, run.progress, run.dataset, time.perf_counter
    now = progress.env_steps
    mixture = Mixture(run.beta.value(now), run.noise.value(now), settings.behaviour.noise_share)
    steps = (settings.data.first_steps if progress.round == 0 else 0) or settings.data.steps
    updates = int(settings.learning.update_to_data * steps * settings.data.num_envs)
    learn = functools.partial(run.learner.update, dataset, updates, progress.env_steps)
    metrics: dict[str, Any] = {}
    begin = clock()
    run.execution.begin_collect(mixture, run.learner.weights() if mixture.beta < 1 else None, steps)
    overlap = settings.learning.overlap and dataset.size > 0
    if overlap:
        begin_learning = clock()
        metrics = learn()
        progress.seconds["learn"] += clock() - begin_learning
        begin += clock() - begin_learning  # what remains is the wait for the workers
    rollout, info = run.execution.end_collect()
    gathered = clock()
    labels = run.labels.label(rollout)
    if not settings.data.aggregate:
        dataset.clear()
    dataset.append(rollout, labels)
    labelled = clock()
    progress.env_steps += info.env_steps
    progress.seconds["collect"] += gathered - begin
    progress.seconds["label"] += labelled - gathered
    if progress.round == 0:
        run.fit_normalizer(dict(dataset.filled()))
    if not overlap:
        metrics = learn()
        progress.seconds["learn"] += clock() - labelled
    progress.updates += updates
    progress.round += 1
    behaviour_return = float(np.mean(info.returns)) if info.returns else float("nan")
    return metrics | {"beta": mixture.beta, "behaviour_return": behaviour_return, "samples": dataset.size}


def _judge(run: Run, metrics: dict[str, Any]) -> Parity | None:
    """Evaluate the student; adds what was found to the metrics."""
    parity, returns = run.judge.look(run.learner.weights())
    ratio = run.judge.ratio(returns)
    run.progress.ratio = ratio
    metrics |= {"student_return": float(returns.mean()), "teacher_return": float(run.judge.teacher.mean())}
    metrics |= {"random_return": float(run.judge.random.mean()), "ratio": ratio, "eval_episodes": returns.size}
    run.progress.ratios = run.judge.ratios(returns)
    if len(run.judge.tasks) > 1:
        metrics |= {f"ratio/{task}": value for task, value in run.progress.ratios.items()}
    if parity is not None:
        metrics["parity_p"] = parity.p_value
    passed = parity is not None and parity.passed
    if passed or ratio > run.progress.best:
        run.progress.best = ratio
        metrics["best"] = True
    return parity
