"""The learner of action values: replayed transitions in, a better ``q_values`` policy out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, map_obs
from understudy.learning.sums import Sums
from understudy.objectives import off_policy, q_kernel
from understudy.objectives.flat_parameters import FlatParameters, Target
from understudy.objectives.q_kernel import QKernel
from understudy.objectives.schedules import parse
from understudy.policies.policy import Policy, as_tensors, on_device
from understudy.policies.q_network import QNetwork
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.replay import ReplayBatch
from understudy.settings.replayed import QLearningSettings


class ValueTerm(Protocol):
    """One more summand of the loss of action values, such as what a teacher says."""

    def loss(self, values: Tensor, batch: ReplayBatch) -> Tensor:
        """Return the loss of the batch, weighted; ``values`` [N, n] are the student's."""


class QLearner:
    """DQN and its variants, as the settings say; see ``objectives.off_policy`` and ``policies.q_network``."""

    def __init__(self, policy: Policy, settings: QLearningSettings, term: ValueTerm | None = None) -> None:
        """Build network, target network and optimiser; the policy learns in place."""
        self._device = torch.device(settings.device)
        self.policy, self._settings, self._term = policy.to(self._device), settings, term
        self._net = QNetwork(policy, settings.policy.dueling, settings.policy.noisy)
        online = self._net.parameters
        self._flat = FlatParameters(online.values(), settings.update.eps, settings.update.max_grad_norm)
        self._target = {name: tensor.detach().clone() for name, tensor in online.items()}
        self._follower = Target(self._flat, self._target.values())
        self._rng = np.random.default_rng((settings.seed, 3))
        self._epsilon = parse(settings.exploration.epsilon, "exploration.epsilon", settings.stop.env_steps)
        support = policy.spec.support
        atoms = off_policy.support(support[0], support[1], policy.spec.quantiles) if support else None
        self._atoms = None if atoms is None else atoms.to(self._device)
        objective, plain = settings.objective, not self._net.changed and settings.objective.distribution == "none"
        self._kernel: QKernel | None = None
        here = self._device.type == "cpu"
        if settings.update.kernel and here and plain and term is None and q_kernel.supports(policy.spec):
            self._kernel = QKernel(policy, self._target, objective.double)
        self._updates = 0
        self._sums = Sums()

    def behaviour(self, env_steps: int, envs: int) -> Mixture:
        """Return who acts now: the greatest value, or with probability epsilon a random action."""
        epsilon, ladder = self._epsilon.value(env_steps), self._settings.exploration.ladder
        noise: float | tuple[float, ...] = epsilon
        if ladder:
            noise = tuple(epsilon ** (1 + ladder * i / max(envs - 1, 1)) for i in range(envs))
        return Mixture(0.0, noise=noise, values=self._settings.replay.initial == "actors")

    def acting(self) -> dict[str, Array]:
        """Return the weights that explore: of noisy networks, with fresh noise for every rollout."""
        if not self._settings.policy.noisy:
            return self.weights()
        self._net.write(self._noise())
        arrays = {name: array.copy() for name, array in named_arrays(self.policy).items()}
        self._net.write()
        return arrays

    def weights(self) -> dict[str, Array]:
        """Return the policy's arrays, without noise; the live ones."""
        self._net.write()
        return named_arrays(self.policy)

    def _noise(self) -> dict[str, Tensor]:
        return {name: e.to(self._device, non_blocking=True) for name, e in self._net.noise(self._rng).items()}

    def _move(self, array: Array) -> Tensor:
        return on_device(array, self._device)

    def update(self, batch: ReplayBatch, lr: float) -> Array | None:
        """Take one gradient step; returns the absolute TD errors [N] where priorities need them."""
        errors = self._descend(batch, lr) if self._kernel is None else self._descend_by_hand(self._kernel, batch, lr)
        self._updates += 1
        update = self._settings.update
        if self._updates % update.target_every == 0:
            self._follower.follow(update.tau)
        if not self._settings.replay.prioritised:
            return None
        found: Array = errors.abs().cpu().numpy()
        return found

    def _descend(self, batch: ReplayBatch, lr: float) -> Tensor:
        """Take the step by autograd; returns the TD errors [N]."""
        obs, action = map_obs(self._move, batch.obs), self._move(batch.action)
        target = self._targets(batch)
        out = self._net(self._net.parameters, obs, self._noise())  # [N, K, n]
        each, errors = self._losses(off_policy.pick(out, action), target)
        loss = (each * self._move(batch.weight)).mean()
        self._sums.add(td_loss=loss)
        if self._term is not None:
            loss = loss + self._term.loss(self._values(out, obs), batch)
        self._flat.descend(loss, lr)
        self._sums.add(loss=loss, q=self._values(out.detach(), obs).amax(dim=1).mean(), grad_norm=self._flat.norm)
        return errors.detach()

    def _descend_by_hand(self, kernel: QKernel, batch: ReplayBatch, lr: float) -> Tensor:
        """Take the same step by the hand-derived gradients of ``objectives.q_kernel``; returns the same."""
        with torch.no_grad():
            x, after = (self.policy.encode(as_tensors(obs)) for obs in (batch.obs, batch.next_obs))
        target = batch.reward + batch.discount * kernel.next_values(after)
        loss, errors, greatest = kernel.gradients(x, batch.action, target, batch.weight)
        self._flat.step(lr)
        self._sums.add(td_loss=loss, loss=loss, q=float(greatest.mean()), grad_norm=self._flat.norm)
        return torch.from_numpy(errors)

    @torch.no_grad()
    def _targets(self, batch: ReplayBatch) -> Tensor:
        """Return [N] values, [N, K] probabilities, or [N, K] quantiles of the return."""
        after = map_obs(self._move, batch.next_obs)
        reward, discount = self._move(batch.reward), self._move(batch.discount)
        out = self._net(self._target, after, self._noise())  # [N, K, n]
        judged = chooser = self._values(out, after)
        if self._settings.objective.double:
            chooser = self._values(self._net(self._net.parameters, after, self._noise()), after)
        choice = chooser.argmax(dim=1)
        if self._settings.objective.distribution == "none":
            return off_policy.td_target(reward, discount, off_policy.pick(judged, choice))
        chosen = off_policy.pick(out, choice)
        if self._atoms is None:
            return off_policy.td_target(reward, discount, chosen)
        return off_policy.project(chosen.softmax(dim=1), reward, discount, self._atoms)

    def _values(self, out: Tensor, obs: Any) -> Tensor:
        """[N, K, n] -> [N, n] action values, ``ABSENT`` where observations [N, ...] forbid the action."""
        if self._atoms is None:
            return self.policy.allowed(out.mean(dim=1), obs)
        return self.policy.allowed((out.softmax(dim=1) * self._atoms.unsqueeze(-1)).sum(dim=1), obs)

    def _losses(self, chosen: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """[N, K] of the taken actions and their targets -> losses [N], and the errors [N] that priorities follow."""
        kind = self._settings.objective.distribution
        if kind == "none":
            error = target - chosen.squeeze(1)
            return off_policy.huber(error), error
        if kind == "quantiles":
            return off_policy.quantile_huber(chosen, target), target.mean(dim=1) - chosen.mean(dim=1)
        loss = off_policy.categorical_loss(chosen, target)
        # Priorities follow the loss (Hessel 2018). Differs in: theirs is the KL; this adds the entropy of the target.
        return loss, loss

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call."""
        return self._sums.means()

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays beside the policy's own, and JSON-able data."""
        arrays, data = self._flat.state()
        arrays["target"] = self._follower.vector.cpu().numpy()
        return arrays, {"adam": data, "updates": self._updates, "rng": self._rng.bit_generator.state}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._flat.restore(arrays, data["adam"])
        self._follower.vector.copy_(torch.from_numpy(arrays["target"]))
        self._updates, self._rng.bit_generator.state = data["updates"], data["rng"]

    @property
    def restarts_used(self) -> int:
        """See ``from_replay.Core``; there are none."""
        return 0

    def close(self) -> None:
        """See ``from_replay.Core``; there is nothing to end."""
