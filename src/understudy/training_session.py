"""One training run and its folder: builds the parts, saves and restores them."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from understudy.data import Array
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.execution.base import Execution, Faults, Setup
from understudy.execution.evaluator import Evaluator
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.beside import BesideExaminer
from understudy.learning.from_gradients import FromGradients, SharedGradientExecution, SharedWeights
from understudy.learning.from_replay import FromReplay, OffPolicy, replayed_policy, replayed_spec
from understudy.learning.from_rollouts import FromRollouts, TrainProgress
from understudy.learning.replay_teaching import ReplayTeacher
from understudy.learning.teaching import Teaching
from understudy.loop import Learning, Metrics, Run
from understudy.policies.files import save_policy
from understudy.policies.initialisation import orthogonal_init
from understudy.policies.policy import About, Policy, PolicyLike
from understudy.policies.policy import build as build_policy
from understudy.policies.spaces import is_image, members, space_to_json
from understudy.policies.spec import PICTURES, TEXTS, PolicySpec, default_encoders, mask_of
from understudy.session import Report, portable
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.settings.train import NetworkSettings, TrainExecution

Teach = Callable[[Policy], Teaching | ReplayTeacher]
"""Fits teachers to a student; it may change the student's weights."""


def policy_spec(
    settings: NetworkSettings, observations: gym.Space[Any], actions: gym.Space[Any], value: bool
) -> PolicySpec:
    """Describe the policy's network.

    Raises:
        UserError: A key the environment does not have, or a family that cannot act there.
    """
    spaces = members(observations)
    seen = [spaces[key] for key in settings.keys or spaces if key in spaces]
    picture = settings.encoder if settings.encoder != "auto" and any(map(is_image, seen)) else None
    encoders = default_encoders(observations, settings.keys or None, settings.features, picture)
    encoders = tuple(replace(e, type=settings.text) if e.type in TEXTS else e for e in encoders)
    family = settings.family
    if family == "auto":
        single = isinstance(actions, gym.spaces.Discrete)
        box = isinstance(actions, gym.spaces.Box)
        family = "gaussian" if box else "categorical" if single else "multi_categorical"
    vectors = tuple(e.key for e in encoders if e.type == "flatten" and e.scale == 1.0)
    value_hidden = settings.hidden if settings.value_hidden is None else settings.value_hidden
    return PolicySpec(
        observation_space=space_to_json(observations),
        action_space=space_to_json(actions),
        family=family,
        encoders=encoders,
        normalized=vectors if settings.normalize else (),
        hidden=settings.hidden,
        activation=settings.activation,
        std={"gaussian": "constant", "squashed_gaussian": "state"}.get(family, "none"),
        lstm=settings.lstm,
        cell=settings.cell,
        value_hidden=value_hidden if value else None,
        mask=mask_of(observations, actions) if family in ("categorical", "multi_categorical") else "",
    )


def new_policy(spec: PolicySpec, settings: NetworkSettings, seed: int, about: About) -> Policy:
    """Build a policy with fresh orthogonal weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(spec, about)
        orthogonal_init(policy)
    if spec.std == "constant":
        with torch.no_grad():
            policy.log_std.fill_(settings.log_std)
    return policy


def make_execution(
    settings: TrainSettings | ReplayedSettings, setup: Setup, teacher: PolicyLike | None = None
) -> Execution:
    """Start the execution that the settings name.

    Args:
        settings: Of the run.
        setup: Has the teacher that acts in workers.
        teacher: The same as an object, which may act in this process even if it cannot travel.

    Raises:
        UserError: It cannot travel to workers.
    """
    execution = settings.execution
    limits = execution.num_workers, execution.worker_timeout, execution.restarts
    if execution.type == "single":
        from understudy.execution.single import SingleExecution

        return SingleExecution(setup, teacher if setup.teacher is None else None)
    if teacher is not None and setup.teacher is None:
        raise UserError("this teacher is a Python object and cannot act in workers: use --execution single")
    if execution.type == "async":
        from understudy.execution.asynchronous import AsyncExecution

        return AsyncExecution(setup, *limits, execution.max_lag)
    if isinstance(execution, TrainExecution) and execution.type == "ray":
        from understudy.execution.ray_execution import RayExecution

        return RayExecution(setup, *limits, execution.ray_address)
    from understudy.execution.sync import SyncExecution

    return SyncExecution(setup, *limits)


SAVE_SECONDS = 30.0
"""Between two checkpoints where ``checkpoint_every`` is 0, at least."""


def set_threads(settings: TrainSettings | ReplayedSettings, policy: Policy) -> None:
    """Set the threads of PyTorch and of NumPy's BLAS in the learner's process, and those of the policy's pictures.

    One for small networks, which are slower with more (ten times, where other processes are busy). Networks that see
    pictures gain from more, but only where the other cores are idle while the learner learns; they have threads of
    their own (``policies.pictures``).
    """
    execution = settings.execution
    waiting = execution.type in ("single", "sync")
    pictures = any(encoder.type in PICTURES for encoder in policy.spec.encoders)
    automatic = len(os.sched_getaffinity(0)) if waiting and pictures else 1
    threads = execution.learner_threads or automatic
    policy.threads = threads if pictures else 1
    torch.set_num_threads(1 if pictures else threads)
    threadpool_limits(1, user_api="blas")


def student_of(settings: TrainSettings | ReplayedSettings) -> tuple[PolicySpec, Policy]:
    """Return the student that the settings describe, with fresh weights.

    Raises:
        UserError: The environment cannot be built, or the method cannot act there.
    """
    env = settings.env.spec()
    about = About("understudy", "", env, [f"trained by reinforcement in {env.id}, seed {settings.seed}"])
    if isinstance(settings, ReplayedSettings):
        spec = replayed_spec(settings, *spaces_of(env))
        return spec, replayed_policy(spec, settings.seed, about)
    spec = policy_spec(settings.policy, *spaces_of(env), bool(settings.objective.value_weight))
    return spec, new_policy(spec, settings.policy, settings.seed, about)


class TrainSession:
    """One run and its folder: builds the parts, saves and restores them."""

    def __init__(
        self,
        settings: TrainSettings | ReplayedSettings,
        folder: Path,
        resume: bool = False,
        teach: Teach | None = None,
    ) -> None:
        saved = read_arrays(folder / "state.safetensors") if resume else None
        self.settings, self.folder, self.env = settings, folder, settings.env.spec()
        self._next_save = time.perf_counter() + SAVE_SECONDS
        self.spec, self.policy = student_of(settings)
        set_threads(settings, self.policy)
        # Before anything starts: teachers may not fit the student.
        self.teaching = None if teach is None else teach(self.policy)
        replay_teacher = self.teaching if isinstance(self.teaching, ReplayTeacher) else None
        teaching = self.teaching if isinstance(self.teaching, Teaching) else None
        acting = replay_teacher or (None if teaching is None else teaching.acting)
        teacher = None if acting is None else acting.teacher
        travels = None if teacher is None else portable(teacher)
        rollout = settings.rollout
        seeds = tuple(settings.seed * 1_000 + i for i in range(rollout.num_envs))
        setup = Setup(
            self.env, seeds, rollout.steps, self.spec, travels, settings.evaluation.num_envs,
            traced=not isinstance(settings, ReplayedSettings), replayed=isinstance(settings, ReplayedSettings),
        )  # fmt: skip
        # Before the learner is built, so that workers start meanwhile.
        self.evaluator: Evaluator | None = None
        self.execution: Execution
        self.learner: ActorCritic | SharedWeights | OffPolicy
        if isinstance(settings, ReplayedSettings):
            self.learner = OffPolicy(self.policy, settings, replay_teacher)  # refuses a replay that is too large
            self.execution = make_execution(settings, setup, teacher)
        elif settings.execution.shared_gradients:
            execution = SharedGradientExecution(setup, self.policy, settings)
            self.execution, self.learner = execution, SharedWeights(self.policy, execution.pool.shared)
        else:
            self.execution = make_execution(settings, setup, teacher)
            self.learner = ActorCritic(self.policy, settings, teaching=teaching)
        try:
            limits = settings.execution
            if settings.evaluation.every or settings.evaluation.final:
                self.evaluator = Evaluator(setup, limits.worker_timeout, limits.restarts)
            self.progress = TrainProgress(
                next_checkpoint=settings.checkpoint_every, next_evaluation=settings.evaluation.every
            )
            if saved is not None:
                self._restore(*saved)
        except BaseException:
            self.close()
            raise
        self._begin_steps = self.progress.env_steps

    def _restore(self, arrays: dict[str, Array], data: dict[str, Any]) -> None:
        mine = {name: tuple(tensor.shape) for name, tensor in self.policy.state_dict().items()}
        if mine != {name: arrays[name].shape for name in mine if name in arrays}:
            raise UserError(f"the run in {self.folder} has another network: resume it without changing policy.*")
        self.progress.__dict__.update(data["progress"])
        self.progress.stopped = ""
        self.learner.restore(arrays, data["learner"])

    def run(self, report: Report) -> Run:
        """Return the run for ``loop.train``."""
        settings, progress = self.settings, self.progress
        learning: Learning
        if isinstance(self.learner, OffPolicy):
            learning = FromReplay(self.learner, self.learner.settings, progress)
        elif isinstance(self.learner, ActorCritic):
            learning = FromRollouts(self.learner, settings.rollout.steps, progress)
        else:
            learning = FromGradients(settings.rollout.steps, progress)
        wait = settings.evaluation.wait or (self.teaching is not None and self.teaching.gated)
        teaching = self.teaching if isinstance(self.teaching, Teaching) else None
        acting = None if teaching is None else teaching.acting
        self.examiner = BesideExaminer(
            settings, self.evaluator, progress, self.learner.weights, self._keep_best, wait,
            None if acting is None else acting.curriculum, () if teaching is None else teaching.levels,
        )  # fmt: skip
        stop = settings.stop
        return Run(self.execution, learning, self.examiner, progress, stop.env_steps, stop.seconds, report, self.save)

    def _policy(self, weights: Mapping[str, Array]) -> Policy:
        return build_policy(self.spec, weights, self.policy.about)

    def _keep_best(self, weights: dict[str, Array], score: float, env_steps: int) -> None:
        save_policy(self._policy(weights), self.folder / "best.safetensors", {"score": score, "env_steps": env_steps})

    def save(self, metrics: Metrics) -> None:
        """Write a checkpoint if it is time.

        With ``checkpoint_every`` the next rollout begins new episodes, as a resumed run does, so that resume is exact.
        Without, a checkpoint is written now and then, and training goes on as if there had been none.
        """
        progress, every = self.progress, self.settings.checkpoint_every
        due = progress.env_steps >= progress.next_checkpoint if every else time.perf_counter() > self._next_save
        if not progress.stopped and not due:
            return
        progress.next_checkpoint = progress.env_steps + every
        self.checkpoint()
        if every:
            progress.restart = progress.checkpoints

    def checkpoint(self) -> None:
        """Write the policy, and everything that is needed to go on from here.

        Raises:
            UserError: A number is not finite, or the disk is full; the last checkpoint is intact.
        """
        begin = time.perf_counter()
        self.progress.checkpoints += 1
        arrays, data = self.learner.state()
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UserError(f"no checkpoint at {self.progress.env_steps} env steps: {name} holds NaN or infinity")
        self.save_last()
        progress = asdict(self.progress) | {"restart": self.progress.checkpoints}
        write_arrays(self.folder / "state.safetensors", arrays, {"learner": data, "progress": progress})
        now = time.perf_counter()
        self._next_save = now + max(SAVE_SECONDS, 20 * (now - begin))  # a large replay is not always being written

    def rescue(self) -> str:
        """Save what there is when something ends the run early; returns a line about it."""
        state = self.folder / "state.safetensors"
        resume = f"go on with: understudy train --resume {shlex.quote(str(self.folder))}"
        try:
            if self.progress.env_steps > self._begin_steps:
                self.checkpoint()
        except UserError as error:
            return f"{error}; {resume}" if state.exists() else str(error)
        if not state.exists():
            return f"nothing was learnt yet, nothing is in {self.folder}"
        return f"{self.progress.env_steps:,} env steps are saved in {self.folder}; {resume}"

    def save_last(self) -> None:
        """Write the policy as it is now."""
        policy = self._policy(self.learner.weights())
        save_policy(policy, self.folder / "last.safetensors", {"env_steps": self.progress.env_steps})

    @property
    def faults(self) -> Faults:
        """What went wrong so far in workers and in the evaluator, whose episodes are played again."""
        faults = self.execution.faults
        more = self.evaluator.restarts_used if self.evaluator is not None else 0
        progress = self.progress
        return Faults(faults.restarts + more + progress.restarts, faults.lost_episodes + progress.lost_episodes)

    def close(self) -> None:
        """End every process."""
        try:
            self.execution.close()
        finally:
            if self.evaluator is not None:
                self.evaluator.close()


def final_seeds(settings: TrainSettings | ReplayedSettings) -> tuple[int, ...]:
    """Return the seeds of the last evaluation: episodes that chose nothing."""
    first = settings.evaluation_seed + 500_000
    return tuple(range(first, first + settings.evaluation.final))


__all__ = ["TrainSession", "final_seeds", "new_policy", "policy_spec"]
