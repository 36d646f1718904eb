"""One place where environments are stepped: some columns of a rollout, and a share of the evaluation episodes.

The single execution has one station in the learner's process; every worker process of the others is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from understudy.data import Rollout
from understudy.envs.base import VectorEnv
from understudy.envs.make import make
from understudy.envs.multitask import task_actions, whole_tasks
from understudy.execution.base import Arrays, EvaluationJob, Portable, Setup, actor_of, update_actor
from understudy.rollouts.behaviour import Actor, Mixture
from understudy.rollouts.collect import Collected, Collector
from understudy.rollouts.episodes import Episodes, random_policy, run_episodes


class Station:
    """Environments ``columns`` of a setup and the policies that act in them; everything is built on first use."""

    def __init__(
        self, setup: Setup, columns: range, out: Rollout, eval_envs: int, teacher: Actor | None = None
    ) -> None:
        self._setup, self._columns, self._out, self._eval_count = setup, columns, out, eval_envs
        self._teacher = teacher
        self._student: Actor | None = None
        self._collector: Collector | None = None
        self._eval_env: VectorEnv | None = None

    def _act_as_student(self, arrays: Arrays | None) -> Actor:
        if self._student is None:
            assert arrays is not None, "the first command to a student carries its weights"
            self._student = actor_of(Portable(self._setup.student, arrays))
        elif arrays is not None:
            update_actor(self._student, arrays)
        return self._student

    def _act_as_teacher(self) -> Actor | None:
        if self._teacher is None and self._setup.teacher is not None:
            self._teacher = actor_of(self._setup.teacher)
        return self._teacher

    def prepare(self) -> None:
        """Build the training environments, so that the first rollout does not pay for them."""
        if self._collector is None:
            seeds = [self._setup.seeds[i] for i in self._columns]
            self._collector = Collector(make(self._setup.env, len(seeds)), seeds)

    def collect(self, mixture: Mixture, arrays: Arrays | None, steps: int) -> Collected:
        """Fill this station's columns of the first ``steps`` steps of the rollout."""
        self.prepare()
        assert self._collector is not None
        student = self._act_as_student(arrays) if mixture.beta < 1 else None
        teacher = self._act_as_teacher() if mixture.beta > 0 else None
        return self._collector.collect(steps, mixture, student, teacher, self._out)

    def evaluate(self, job: EvaluationJob, seeds: Sequence[int]) -> Episodes:
        """Run one episode per seed on environments that training never touches."""
        if self._eval_env is None:
            self._eval_env = make(self._setup.env, whole_tasks(self._setup.env, self._eval_count))
        policy: Actor | None
        if job.who == "random":
            seed = int(np.sum(seeds)) % 2**31
            policy = random_policy(self._eval_env.action_space, seed, task_actions(self._setup.env))
        elif job.who == "teacher":
            policy = self._act_as_teacher()
        else:
            policy = actor_of(Portable(self._setup.student, job.arrays))
        assert policy is not None
        return run_episodes(policy, self._eval_env, seeds)

    def close(self) -> None:
        """Close the environments."""
        for env in (self._collector.env if self._collector else None, self._eval_env):
            if env is not None:
                env.close()
        self._collector = self._eval_env = None
