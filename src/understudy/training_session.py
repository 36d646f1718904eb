"""One training run and its folder: builds the parts, saves and restores them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from threadpoolctl import threadpool_limits

from understudy.data import Array
from understudy.envs.make import spaces_of
from understudy.execution.base import Execution, Setup
from understudy.execution.evaluator import Evaluator
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.beside import BesideExaminer
from understudy.learning.from_gradients import FromGradients, SharedGradientExecution, SharedWeights
from understudy.learning.from_rollouts import FromRollouts, TrainProgress
from understudy.loop import Learning, Metrics, Run
from understudy.policies.files import save_policy
from understudy.policies.initialisation import orthogonal_init
from understudy.policies.policy import About, Policy
from understudy.policies.policy import build as build_policy
from understudy.policies.spaces import is_image, members, space_to_json
from understudy.policies.spec import PICTURES, TEXTS, PolicySpec, default_encoders
from understudy.session import Report
from understudy.settings import TrainSettings
from understudy.settings.train import NetworkSettings


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
        value_hidden=value_hidden if value else None,
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


def make_execution(settings: TrainSettings, setup: Setup) -> Execution:
    """Start the execution that the settings name."""
    execution = settings.execution
    limits = execution.num_workers, execution.worker_timeout, execution.restarts
    if execution.type == "single":
        from understudy.execution.single import SingleExecution

        return SingleExecution(setup)
    if execution.type == "async":
        from understudy.execution.asynchronous import AsyncExecution

        return AsyncExecution(setup, *limits, execution.max_lag)
    if execution.type == "ray":
        from understudy.execution.ray_execution import RayExecution

        return RayExecution(setup, *limits, execution.ray_address)
    from understudy.execution.sync import SyncExecution

    return SyncExecution(setup, *limits)


def set_threads(settings: TrainSettings, spec: PolicySpec) -> None:
    """Set the threads of PyTorch and of NumPy's BLAS in the learner's process.

    One for small networks, which are slower with more (ten times, where other processes are busy). Networks that see
    pictures gain from more, but only where the other cores are idle while the learner learns.
    """
    execution = settings.execution
    waiting = execution.type in ("single", "sync")
    pictures = any(encoder.type in PICTURES for encoder in spec.encoders)
    automatic = len(os.sched_getaffinity(0)) if waiting and pictures else 1
    torch.set_num_threads(execution.learner_threads or automatic)
    threadpool_limits(1, user_api="blas")


class TrainSession:
    """One run and its folder: builds the parts, saves and restores them."""

    def __init__(self, settings: TrainSettings, folder: Path, resume: bool = False) -> None:
        saved = read_arrays(folder / "state.safetensors") if resume else None
        self.settings, self.folder, self.env = settings, folder, settings.env.spec()
        spaces = spaces_of(self.env)
        self.spec = policy_spec(settings.policy, *spaces, bool(settings.objective.value_weight))
        set_threads(settings, self.spec)
        about = About("understudy", "", self.env, [f"trained by reinforcement in {self.env.id}, seed {settings.seed}"])
        self.policy = new_policy(self.spec, settings.policy, settings.seed, about)
        rollout = settings.rollout
        seeds = tuple(settings.seed * 1_000 + i for i in range(rollout.num_envs))
        setup = Setup(self.env, seeds, rollout.steps, self.spec, None, settings.evaluation.num_envs, traced=True)
        # Before the learner is built, so that workers start meanwhile.
        self.execution: Execution
        self.learner: ActorCritic | SharedWeights
        if settings.execution.shared_gradients:
            execution = SharedGradientExecution(setup, self.policy, settings)
            self.execution, self.learner = execution, SharedWeights(self.policy, execution.pool.shared)
        else:
            self.execution = make_execution(settings, setup)
            self.learner = ActorCritic(self.policy, settings)
        limits = settings.execution
        evaluating = settings.evaluation.every or settings.evaluation.final
        self.evaluator = Evaluator(setup, limits.worker_timeout, limits.restarts) if evaluating else None
        self.progress = TrainProgress(
            next_checkpoint=settings.checkpoint_every, next_evaluation=settings.evaluation.every
        )
        if saved is not None:
            self.progress.__dict__.update(saved[1]["progress"])
            self.progress.stopped = ""
            self.learner.restore(saved[0], saved[1]["learner"])

    def run(self, report: Report) -> Run:
        """Return the run for ``loop.train``."""
        settings, progress = self.settings, self.progress
        learning: Learning
        if isinstance(self.learner, ActorCritic):
            learning = FromRollouts(self.learner, settings.rollout.steps, progress)
        else:
            learning = FromGradients(settings.rollout.steps, progress)
        self.examiner = BesideExaminer(settings, self.evaluator, progress, self.learner.weights, self._keep_best)
        stop = settings.stop
        return Run(self.execution, learning, self.examiner, progress, stop.env_steps, stop.seconds, report, self.save)

    def _policy(self, weights: Mapping[str, Array]) -> Policy:
        return build_policy(self.spec, weights, self.policy.about)

    def _keep_best(self, weights: dict[str, Array], score: float, env_steps: int) -> None:
        save_policy(self._policy(weights), self.folder / "best.safetensors", {"score": score, "env_steps": env_steps})

    def save(self, metrics: Metrics) -> None:
        """Write a checkpoint if it is time; the next rollout then begins new episodes, so that resume is exact."""
        progress, every = self.progress, self.settings.checkpoint_every
        if not progress.stopped and (not every or progress.env_steps < progress.next_checkpoint):
            return
        progress.next_checkpoint = progress.env_steps + every
        progress.checkpoints += 1
        progress.restart = progress.checkpoints
        self.save_last()
        arrays, data = self.learner.state()
        write_arrays(self.folder / "state.safetensors", arrays, {"learner": data, "progress": asdict(progress)})

    def save_last(self) -> None:
        """Write the policy as it is now."""
        policy = self._policy(self.learner.weights())
        save_policy(policy, self.folder / "last.safetensors", {"env_steps": self.progress.env_steps})

    def close(self) -> None:
        """End every process."""
        self.execution.close()
        if self.evaluator is not None:
            self.evaluator.close()


def final_seeds(settings: TrainSettings) -> tuple[int, ...]:
    """Return the seeds of the last evaluation: episodes that chose nothing."""
    first = settings.evaluation_seed + 500_000
    return tuple(range(first, first + settings.evaluation.final))


__all__ = ["TrainSession", "final_seeds", "new_policy", "policy_spec"]
