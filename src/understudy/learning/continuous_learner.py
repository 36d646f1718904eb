"""The learner of continuous actions: DDPG and TD3 (a deterministic actor), SAC (a squashed Gaussian one)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from understudy.data import Array, with_prefix
from understudy.learning.behaviours import STUDENT
from understudy.learning.continuous_updates import ActorTerm, AutogradUpdates, KernelUpdates, Nets, Settings
from understudy.learning.sums import Sums
from understudy.objectives.continuous_halves import Order
from understudy.objectives.flat_adam import FlatAdam
from understudy.objectives.flat_parameters import FlatParameters
from understudy.objectives.schedules import parse
from understudy.policies.family import ActionMap
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.replay import ReplayBatch
from understudy.settings.replayed import DeterministicSettings, SoftSettings


class ContinuousLearner:
    """DDPG, TD3 and SAC, as the settings say; see ``objectives.off_policy``."""

    def __init__(self, policy: Policy, settings: Settings, term: ActorTerm | None = None) -> None:
        """Build networks and optimisers; the policy learns in place."""
        self.policy, self._settings, self._term = policy, settings, term
        self._nets = Nets(policy, settings)
        kind = AutogradUpdates if self._nets.halves is None else KernelUpdates
        self._way = kind(self._nets, isinstance(settings, SoftSettings))
        self._rng = np.random.default_rng((settings.seed, 3))
        self._updates = 0
        self._sums = Sums()
        self._actions = policy.family.sizes[0]
        constant = int(ActionMap(policy.action_space).constant.sum())
        # Those that are constant are drawn too, and come to be uniform, as nothing but entropy moves them.
        self._entropy = constant * math.log(2) - (self._actions - constant)
        self._alpha: FlatAdam | None = None
        if isinstance(settings, SoftSettings):
            self._alpha = FlatAdam(1, None, settings.update.eps)
            self._alpha.params[0] = np.log(settings.objective.temperature)
        else:
            self._std = parse(settings.exploration.std, "exploration.std", settings.stop.env_steps)

    def behaviour(self, env_steps: int, envs: int) -> Mixture:
        """Return who acts now: samples of a stochastic actor, or a deterministic one with noise."""
        if isinstance(self._settings, SoftSettings):
            return STUDENT
        exploration = self._settings.exploration
        memory = 1 - exploration.theta if exploration.noise == "ou" else 0.0
        return Mixture(0.0, noise=self._std.value(env_steps), memory=memory)

    def acting(self) -> dict[str, Array]:
        """Return the weights that explore."""
        return self.weights()

    def weights(self) -> dict[str, Array]:
        """Return the policy's arrays; the live ones."""
        return named_arrays(self.policy)

    def _noise(self, count: int) -> Array:
        return self._rng.standard_normal((count, self._actions), dtype=np.float32)

    def update(self, batch: ReplayBatch, lr: float) -> Array | None:
        """Take one gradient step; returns the absolute TD errors [N] where priorities need them."""
        settings, count = self._settings, len(batch.reward)
        alpha = 0.0 if self._alpha is None else float(np.exp(self._alpha.params[0]))
        std, clip, every = 0.0, 0.0, 1
        if isinstance(settings, DeterministicSettings):
            objective = settings.objective
            std, clip, every = objective.target_noise, objective.target_noise_clip, objective.actor_every
        self._updates += 1
        moves = self._updates % every == 0
        follows = self._updates % (every * settings.update.target_every) == 0
        order = Order(lr, alpha, std, clip, settings.update.tau, moves, follows)
        next_noise, noise = self._noise(count), self._noise(count) if moves else None
        found = self._way.update(batch, order, next_noise, noise, self._term)
        self._sums.add(loss=found.loss, target=found.target.mean(), grad_norm=found.norm)
        if moves:
            self._sums.add(actor_grad_norm=found.actor_norm)
            if self._alpha is not None:
                mean = found.log_prob.mean()
                self._move_temperature(mean, lr)
                self._sums.add(entropy=-mean, alpha=alpha)
        return np.abs(found.error).mean(axis=0) if settings.replay.prioritised else None

    def _move_temperature(self, log_prob: np.float32, lr: float) -> None:
        """Take a step on log alpha, whose gradient is -(mean log pi + H)."""
        assert self._alpha is not None and isinstance(self._settings, SoftSettings)
        objective = self._settings.objective
        if objective.learn_temperature:
            entropy = self._entropy if objective.target_entropy is None else objective.target_entropy
            self._alpha.grad[0] = -(log_prob + entropy)
            self._alpha.step(lr)

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call."""
        return self._sums.means()

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays beside the policy's own, and JSON-able data."""
        if self._nets.halves is not None:
            self._nets.halves.settle()
        arrays: dict[str, Array] = {}
        data: dict[str, Any] = {"updates": self._updates, "rng": self._rng.bit_generator.state}
        for name, part in self._optimizers().items():
            found, data[name] = part.state()
            arrays |= {f"{name}:{key}": array for key, array in found.items()}
        arrays |= {f"target:{name}": follower.vector.numpy() for name, follower in self._nets.followers.items()}
        return arrays, data

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        settings = self._settings
        fixed = isinstance(settings, SoftSettings) and not settings.objective.learn_temperature
        for name, part in self._optimizers().items():
            if name != "alpha" or not fixed:  # a temperature that is not learnt is what the settings say now
                part.restore(with_prefix(arrays, f"{name}:"), data[name])
        for name, follower in self._nets.followers.items():
            follower.vector.copy_(torch.from_numpy(arrays[f"target:{name}"]))
        self._updates, self._rng.bit_generator.state = data["updates"], data["rng"]

    def close(self) -> None:
        """End the second process, if there is one."""
        if self._nets.halves is not None:
            self._nets.halves.close()

    @property
    def restarts_used(self) -> int:
        """How often that was replaced."""
        return 0 if self._nets.halves is None else self._nets.halves.restarts

    def _optimizers(self) -> dict[str, FlatParameters | FlatAdam]:
        parts: dict[str, FlatParameters | FlatAdam] = {
            "actor": self._nets.actor_flat,
            "critics": self._nets.critics_flat,
        }
        return parts if self._alpha is None else parts | {"alpha": self._alpha}
