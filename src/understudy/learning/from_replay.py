"""Learning from a replay: every rollout goes into it, and gradient steps draw from all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from understudy.data import Array, Rollout, with_prefix
from understudy.envs.stacking import stacked_pictures
from understudy.errors import UserError
from understudy.learning.continuous_learner import ContinuousLearner
from understudy.learning.from_rollouts import TrainProgress
from understudy.learning.q_learner import QLearner
from understudy.learning.replay_teaching import ReplayTeacher
from understudy.loop import Metrics, Order
from understudy.objectives.returns import RunningMoments
from understudy.objectives.schedules import parse
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec, default_encoders, mask_of, stored, vector_keys
from understudy.policies.weights import load_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.collect import Collected
from understudy.rollouts.priorities import actor_errors
from understudy.rollouts.replay import Prioritised, Replay, ReplayBatch
from understudy.rollouts.replay_bytes import check_bytes
from understudy.settings.replayed import (
    ContinuousSettings,
    DeterministicSettings,
    QLearningSettings,
    ReplayedSettings,
    SoftSettings,
)


def replayed_spec(settings: ReplayedSettings, observations: gym.Space[Any], actions: gym.Space[Any]) -> PolicySpec:
    """Describe the policy that acts.

    Raises:
        UserError: A key that the environment does not have, or actions or observations of a kind that the method
            cannot learn from.
    """
    spaces = space_to_json(observations), space_to_json(actions)
    if isinstance(settings, QLearningSettings):
        if not isinstance(actions, gym.spaces.Discrete):
            take = "sac" if isinstance(actions, gym.spaces.Box) else "ppo"
            raise UserError(
                f"method q_learning (dqn and its kin) needs one discrete action, not {actions}: take --preset {take}"
            )
        network, objective = settings.policy, settings.objective
        encoders = default_encoders(observations, network.keys, network.features, network.encoder, network.text)
        kind = objective.distribution
        return PolicySpec(
            *spaces, "q_values", encoders=encoders, hidden=network.hidden, activation=network.activation,
            quantiles=1 if kind == "none" else objective.atoms,
            support=(objective.low, objective.high) if kind == "categorical" else (),
            normalized=vector_keys(encoders) if network.normalize else (), mask=mask_of(observations, actions),
        )  # fmt: skip
    assert isinstance(settings, ContinuousSettings)
    if not isinstance(actions, gym.spaces.Box):
        take = "dqn" if isinstance(actions, gym.spaces.Discrete) else "ppo"
        raise UserError(f"method {settings.method} needs continuous actions, not {actions}: take --preset {take}")
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        raise UserError(f"method {settings.method} needs actions with bounds, not {actions}")
    encoders = default_encoders(observations, settings.policy.keys)
    learned = [e for e in encoders if e.learned]
    if learned:
        first, others = learned[0], "name others with --policy.keys, or " if len(encoders) > len(learned) else ""
        seen = f"the observation {first.key!r}" if first.key else "what is observed"
        raise UserError(
            f"method {settings.method} learns from vectors, but {seen} needs a {first.type}: {others}take --preset ppo"
        )
    soft = isinstance(settings, SoftSettings)
    return PolicySpec(
        *spaces, "squashed_gaussian" if soft else "deterministic", encoders=encoders,
        hidden=settings.policy.hidden, activation=settings.policy.activation, std="state" if soft else "none",
        head_activation="identity" if soft else "tanh",
        normalized=vector_keys(encoders) if settings.policy.normalize else (),
    )  # fmt: skip


def replayed_policy(spec: PolicySpec, seed: int, about: About) -> Policy:
    """Build a policy with PyTorch's own fresh weights, that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(spec, about)


class Core(Protocol):
    """Turns transitions into better weights; ``QLearner`` and ``ContinuousLearner``."""

    def behaviour(self, env_steps: int, envs: int) -> Mixture:
        """Return who acts after so many env steps, in so many environments."""

    def acting(self) -> dict[str, Array]:
        """Return the weights that explore."""

    def weights(self) -> dict[str, Array]:
        """Return the weights that are judged and saved."""

    def update(self, batch: ReplayBatch, lr: float) -> Array | None:
        """Take one gradient step; returns the absolute TD errors [N] where priorities need them."""

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call."""

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays beside the policy's own, and JSON-able data."""

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""

    @property
    def restarts_used(self) -> int:
        """How often a process of its own was replaced."""

    def close(self) -> None:
        """End processes of its own."""


def make_core(policy: Policy, settings: ReplayedSettings, teacher: ReplayTeacher | None = None) -> Core:
    """Build the learner of the settings' method."""
    if isinstance(settings, QLearningSettings):
        return QLearner(policy, settings, teacher)
    assert isinstance(settings, DeterministicSettings | SoftSettings)
    return ContinuousLearner(policy, settings, teacher)


class OffPolicy:
    """A replay, and the learner that draws from it.

    ``update.update_to_data`` gradient steps are owed for every env step after the warm-up, whoever made it; what is
    less than one step is kept for later, so that after k such env steps floor(k * update_to_data) were taken in every
    execution.
    """

    def __init__(self, policy: Policy, settings: ReplayedSettings, teacher: ReplayTeacher | None = None) -> None:
        """Build the parts; a teacher adds its term.

        Raises:
            UserError: The replay would be too large, or too small for a rollout.
        """
        self.policy, self.settings, self.teacher = policy, settings, teacher
        kept = settings.replay
        spaces = policy.observation_space, policy.action_space
        stacks = stacked_pictures(settings.env.spec(), spaces[0]) if kept.frames_once else {}
        check_bytes(*spaces, kept.capacity, kept.prioritised, kept.max_bytes, stacks)
        gamma = settings.objective.gamma  # type: ignore[attr-defined]
        prioritised = Prioritised(kept.alpha) if kept.prioritised else None
        envs = settings.rollout.num_envs
        self.replay = Replay(
            *spaces, envs, kept.capacity, gamma=gamma, n_step=kept.n_step, prioritised=prioritised, stacks=stacks
        )
        self.replay.check_room(settings.rollout.steps)
        self._gamma, self._clip = gamma, settings.objective.reward_clip  # type: ignore[attr-defined]
        run = settings.stop.env_steps
        self._lr, self._beta = parse(settings.update.lr, "update.lr", run), parse(kept.beta, "replay.beta", run)
        self._moments = {
            key: RunningMoments(policy.get_buffer(f"normalizer_mean:{stored(key)}").shape)
            for key in policy.spec.normalized
        }
        self._rng = np.random.default_rng((settings.seed, 2))
        self.owed = 0.0
        """Gradient steps that are still to be taken."""
        self.taken = 0
        """Those that were taken by this object so far, also by calls that were interrupted."""
        self.offline = teacher is not None and teacher.offline.env_steps > 0
        """Whether the replay holds the teacher's data still."""
        self.core = make_core(policy, settings, teacher)  # last: it may start a process

    def add(self, rollout: Rollout, info: Collected) -> None:
        """Put a rollout into the replay and its observations into the statistics; owe the gradient steps for it."""
        if self._clip:
            rollout = replace(rollout, reward=np.clip(rollout.reward, -self._clip, self._clip))
        kept = self.settings.replay
        errors = actor_errors(rollout, self._gamma, kept.n_step) if kept.initial == "actors" else None
        for key, moments in self._moments.items():
            obs = rollout.obs[key] if isinstance(rollout.obs, dict) else rollout.obs
            moments.update(obs.reshape(-1, *moments.mean.shape))
            self.policy.set_normalizer(key, moments.mean, moments.var)
        before = self.replay.added
        self.replay.append(rollout, info.envs, errors, info.env_steps)
        learnt = max(self.replay.added - max(before, kept.warm_up), 0)
        if not self.offline:
            self.owed += learnt * self.settings.update.update_to_data

    def end_offline(self, env_steps: int) -> Metrics:
        """Learn from the teacher's data, then begin a replay of the student's own."""
        assert self.teacher is not None
        if not self.owed:  # an interrupt may have left some
            self.owed = float(self.teacher.offline.updates)
        metrics = self.learn(env_steps)
        self.replay.clear()
        self.offline = False
        return metrics

    def learn(self, env_steps: int) -> Metrics:
        """Take the gradient steps that are owed; ``updates`` among the metrics says how many.

        Raises:
            UserError: A loss or gradient was not finite; nothing has been saved since.
        """
        updates = math.floor(self.owed + 1e-9)
        lr, beta, size = self._lr.value(env_steps), self._beta.value(env_steps), self.settings.replay.batch_size
        replay, core = self.replay, self.core
        for batch in replay.batches(updates, size, self._rng, beta):
            errors = core.update(batch, lr)
            self.owed -= 1
            self.taken += 1
            if errors is not None:
                if not np.isfinite(errors).all():
                    break  # the check below names it; the tree stays sound
                replay.set_errors(batch.place, errors)
        metrics = core.metrics()
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if bad:
            raise UserError(
                f"not finite in the updates after {env_steps} env steps: {', '.join(bad)}; lower update.lr or set "
                "update.max_grad_norm; the last checkpoint is intact"
            )
        told = {} if self.teacher is None else self.teacher.metrics()
        return {"updates": updates, "lr": lr, **metrics, **told}

    def weights(self) -> dict[str, Array]:
        """Return the policy's arrays, without exploration."""
        return self.core.weights()

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays and JSON-able data from which ``restore`` goes on exactly, where the replay is saved."""
        arrays = {name: array.copy() for name, array in self.weights().items()}
        own, data = self.core.state()
        arrays |= {f"core:{name}": array for name, array in own.items()}
        for key, moments in self._moments.items():
            arrays |= {f"moments:{key}:{name}": np.asarray(array) for name, array in moments.state().items()}
        data = {"core": data, "rng": self._rng.bit_generator.state, "owed": self.owed, "offline": self.offline}
        data["learnt"] = self.settings.learnt
        if self.settings.replay.save:
            kept, data["replay"] = self.replay.state()
            arrays |= {f"replay:{name}": array for name, array in kept.items()}
        return arrays, data

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            UserError: Settings that it depends on are others now.
        """
        learnt, saved = self.settings.learnt, data.get("learnt", {})  # runs of earlier versions do not say it
        if changed := [name for name in learnt if saved.get(name, learnt[name]) != learnt[name]]:
            raise UserError(f"the saved run learns other networks: resume without changing {' and '.join(changed)}")
        load_arrays(self.policy, arrays)
        self.core.restore(with_prefix(arrays, "core:"), data["core"])
        for key, moments in self._moments.items():
            moments.restore(with_prefix(arrays, f"moments:{key}:"))
        self._rng.bit_generator.state, self.offline = data["rng"], data["offline"]
        if "replay" in data:  # what was owed for transitions that are lost cannot be learnt from them
            self.owed = data["owed"]
            self.replay.restore(with_prefix(arrays, "replay:"), data["replay"])


@dataclass
class FromReplay:
    """One round of learning from a replay; see ``loop.Learning``.

    In ``async`` the gradient steps for a rollout are taken while the next one is gathered.
    """

    learner: OffPolicy
    settings: ReplayedSettings
    progress: TrainProgress

    def order(self) -> Order:
        """Let the student act with its exploration; at first actions are random."""
        progress, rollout = self.progress, self.settings.rollout
        restart, progress.restart = progress.restart, None
        now, teacher = progress.env_steps, self.learner.teacher
        mixture = self.learner.core.behaviour(now, rollout.num_envs)
        if teacher is not None and self.learner.offline:
            mixture = Mixture(1.0, noise=teacher.offline.noise)
        elif now < self.settings.replay.warm_up and (teacher is None or not teacher.offline.env_steps):
            mixture = Mixture(0.0, uniform=True)  # a student that a teacher's data taught acts by itself
        return Order(mixture, self.learner.core.acting(), rollout.steps, restart)

    def meanwhile(self) -> Metrics:
        """In ``async``, learn from what is there."""
        return self._learn() if self.settings.execution.type == "async" else {}

    def learn(self, rollout: Rollout, info: Collected) -> Metrics:
        """Keep the rollout, and learn unless that is done meanwhile; the last one of a run is always learnt from."""
        progress = self.progress
        self.learner.add(rollout, info)
        teacher = self.learner.teacher
        if teacher is not None and self.learner.offline:
            if self.learner.replay.added < teacher.offline.env_steps:  # a resumed run may have lost what was there
                return {"lag": info.lag, "replay": self.learner.replay.added} | progress.note(info)
            return self._learn(self.learner.end_offline) | progress.note(info)
        now = self.settings.execution.type != "async" or progress.env_steps >= self.settings.stop.env_steps
        metrics: Metrics = self._learn() if now else {}
        return metrics | {"lag": info.lag, "replay": self.learner.replay.added} | progress.note(info)

    def _learn(self, learn: Callable[[int], Metrics] | None = None) -> Metrics:
        if self.learner.teacher is not None:
            self.learner.teacher.begin(self.progress.env_steps, self.progress.score)
        before = self.learner.taken
        try:
            metrics = (learn or self.learner.learn)(self.progress.env_steps)
        finally:
            self.progress.updates += self.learner.taken - before
        del metrics["updates"]
        return metrics
