"""One place where environments are stepped: some columns of a rollout, and a share of the evaluation episodes.

The single execution has one station in the learner's process; every worker process of the others is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.data import Array, EnvSpec, Rollout
from understudy.envs.base import Step, VectorEnv
from understudy.envs.closing import close_all
from understudy.envs.judged import judged
from understudy.envs.make import make
from understudy.envs.multitask import task_actions, whole_tasks
from understudy.execution.base import Arrays, EvaluationJob, Portable, Setup, actor_of, update_actor
from understudy.policies.tape import Tape
from understudy.rollouts.behaviour import Actor, Mixture
from understudy.rollouts.collect import Collected, Collector
from understudy.rollouts.episodes import Episodes, random_policy, run_episodes
from understudy.rollouts.jump_start import JumpStart
from understudy.rollouts.own_clocks import collector_for


class Station:
    """Environments ``columns`` of a setup and the policies that act in them; everything is built on first use."""

    def __init__(
        self,
        setup: Setup,
        columns: range,
        eval_envs: int,
        teacher: Actor | None = None,
        beat: Array | None = None,
    ) -> None:
        """Remember what to build.

        Args:
            setup: The run.
            columns: Which of its environments.
            eval_envs: How many run evaluation episodes together.
            teacher: The teacher, where it need not be built.
            beat: [1 or more] int64 for those who watch: the first entry counts steps, the second signs of life between.
        """
        self._setup, self._columns, self._eval_count = setup, columns, eval_envs
        self._teacher = teacher
        self._student: Actor | None = None
        self.tape: Tape | None = None
        """Where the student keeps what it computes while a rollout is gathered, if anybody wants it.

        Environments with their own clocks leave it empty.
        """
        self._collector: Collector | None = None
        self._eval_env: VectorEnv | None = None
        self._beat = np.zeros(1, np.int64) if beat is None else beat

    def _act_as_student(self, arrays: Arrays | None) -> Actor:
        if self._student is None:
            assert arrays is not None, "the first command to a student carries its weights"
            self._student = actor_of(Portable(self._setup.student, arrays), half=self._setup.half)
        elif arrays is not None:
            update_actor(self._student, arrays)
        return self._student

    def _act_as_teacher(self) -> Actor | None:
        if self._teacher is None and self._setup.teacher is not None:
            self._teacher = actor_of(self._setup.teacher)
        return self._teacher

    def _make(self, env: EnvSpec, count: int) -> VectorEnv:
        return Watched(make(env, count, alive=self._alive), self._beat)

    def _alive(self) -> None:
        """Tell those who watch that a simulator is waited for, which has time limits of its own."""
        if len(self._beat) > 1:
            self._beat[1] += 1

    def _seeds(self, restart: int) -> list[int]:
        """Return the seeds of a restart; a worker that replaces another must not live the same episodes again."""
        return [_seed(self._setup, self._setup.seeds[i], restart) for i in self._columns]

    def prepare(self) -> None:
        """Build the training environments, so that the first rollout does not pay for them."""
        if self._collector is None and len(self._columns):
            self._collector = collector_for(self._make(self._setup.env, len(self._columns)), self._seeds(0))

    def collect(
        self, mixture: Mixture, arrays: Arrays | None, steps: int, out: Rollout, restart: int | None = None
    ) -> Collected:
        """Fill the first ``steps`` steps of ``out``; with ``restart`` from new episodes, whose seeds it numbers."""
        self.prepare()
        assert self._collector is not None
        if restart is not None:
            self._collector.restart(self._seeds(restart))
        student = self._act_as_student(arrays) if mixture.asks_student else None
        if self.tape is not None and student is not None:
            kept = self._collector.in_step and self.tape.begin(steps)
            student.tape = self.tape if kept else None  # type: ignore[attr-defined]
        teacher = self._act_as_teacher() if mixture.asks_teacher else None
        return self._collector.collect(steps, mixture.share(self._columns), student, teacher, out)

    def evaluate(self, job: EvaluationJob, seeds: Sequence[int]) -> Episodes:
        """Run one episode per seed on environments that training never touches."""
        if self._eval_env is None:
            env = judged(self._setup.env)
            self._eval_env = self._make(env, whole_tasks(env, self._eval_count))
        policy: Actor | None
        if job.who == "random":
            seed = int(np.sum(seeds)) % 2**31
            policy = random_policy(self._eval_env.action_space, seed, task_actions(self._setup.env))
        elif job.who == "teacher":
            policy = self._act_as_teacher()
        else:
            policy = actor_of(Portable(self._setup.student, job.arrays), int(np.sum(seeds)) % 2**31)
            teacher = self._act_as_teacher() if job.jump else None
            policy = policy if teacher is None else JumpStart(teacher, policy, job.jump)
        assert policy is not None
        return run_episodes(policy, self._eval_env, seeds, job.deterministic)

    def close(self) -> None:
        """Close the environments."""
        envs = [self._collector.env if self._collector else None, self._eval_env]
        self._collector = self._eval_env = None
        close_all([env for env in envs if env is not None], self._setup.env.id)


def _seed(setup: Setup, first: int, restart: int) -> int:
    """Return an environment's seed: ``first`` at first, then one from [2^30, 2^31); never one of the evaluations."""
    words: list[int] = np.random.SeedSequence((first, restart, setup.attempt)).generate_state(64).tolist()
    drawn = [2**30 + word % 2**30 for word in words]
    candidates = drawn if restart or setup.attempt else [first, *drawn]
    return next(seed for seed in candidates if not any(seed in part for part in setup.judged))


class Watched:
    """A vector environment that counts its steps where others can see them: who hangs does not count on."""

    def __init__(self, env: VectorEnv, beat: Array) -> None:
        self._env, self._beat, self._step = env, beat, env.step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step the environment."""
        self._beat[0] += 1
        return self._step(actions, active)
