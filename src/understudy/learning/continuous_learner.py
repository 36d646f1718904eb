"""The learner of continuous actions: DDPG and TD3 (a deterministic actor), SAC (a squashed Gaussian one)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array
from understudy.learning.sums import Sums
from understudy.objectives import off_policy
from understudy.objectives.continuous_kernel import ContinuousKernel, supports
from understudy.objectives.flat_adam import FlatAdam
from understudy.objectives.flat_parameters import FlatParameters, Target
from understudy.objectives.schedules import parse
from understudy.policies import distributions
from understudy.policies.critics import Critics
from understudy.policies.policy import Policy, as_tensors
from understudy.policies.spec import encoded_size
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.replay import ReplayBatch
from understudy.settings.replayed import DeterministicSettings, SoftSettings

Settings = DeterministicSettings | SoftSettings


class ActorTerm(Protocol):
    """One more summand of the actor's loss, such as what a teacher says."""

    def loss(self, params: Tensor, batch: ReplayBatch) -> Tensor:
        """Return the loss of the batch, weighted; ``params`` [N, P] are the student's, in unit actions."""


class Nets:
    """The networks of a run, each over one vector: actor, critics, and their targets.

    Attributes:
        actor: The policy.
        critics: What judges it.
        target_actor: The copy of a deterministic actor that follows it; of a stochastic one the actor itself.
        target_critics: The copy of the critics that follows them.
    """

    def __init__(self, policy: Policy, settings: Settings) -> None:
        """Draw the critics from the seed, apart from the policy."""
        widths = settings.policy.critic_hidden or settings.policy.hidden
        inputs = encoded_size(policy.spec) + policy.family.sizes[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + 1_000_003)
            self.critics = Critics(inputs, widths, settings.objective.critics, settings.policy.activation)
        self.actor = policy
        self.target_critics = copy.deepcopy(self.critics)
        eps, limit = settings.update.eps, settings.update.max_grad_norm
        self.actor_flat = FlatParameters(policy.parameters(), eps, limit)
        self.critics_flat = FlatParameters(self.critics.parameters(), eps, limit)
        self.followers = {"critics": Target(self.critics_flat, self.target_critics.parameters())}
        self.target_actor = policy
        if isinstance(settings, DeterministicSettings):
            self.target_actor = copy.deepcopy(policy)
            self.followers["actor"] = Target(self.actor_flat, self.target_actor.parameters())


class AutogradGradients:
    """What the learner asks of its networks, through PyTorch; ``KernelGradients`` is the fast peer.

    N transitions with F features and A action components, K critics.
    """

    def __init__(self, nets: Nets, settings: Settings) -> None:
        self._nets = nets
        self._soft = isinstance(settings, SoftSettings)

    @torch.no_grad()
    def features(self, obs: Any) -> Array:
        """[N, ...] -> [N, F]."""
        found: Array = self._nets.actor.encode(as_tensors(obs)).numpy()
        return found

    @torch.no_grad()
    def next_values(self, x: Array, noise: Array, alpha: float, std: float, clip: float) -> Array:
        """Return the targets' values of the next features, [N]; noise [N, A] is standard normal."""
        nets, features, drawn = self._nets, torch.from_numpy(x), torch.from_numpy(noise)
        params = _params(nets.target_actor, features)
        if self._soft:
            action, log_prob = distributions.choose(nets.actor.family, params, drawn)
            value = off_policy.soft_value(nets.target_critics(features, action), log_prob, alpha)
        else:
            action = off_policy.smoothed(params, drawn, std, clip)
            value = nets.target_critics(features, action).amin(dim=0)
        found: Array = value.numpy()
        return found

    def critics(self, x: Array, action: Array, target: Array, weight: Array) -> tuple[float, Array]:
        """Fill the critics' gradient; returns the loss and the errors [K, N]."""
        nets = self._nets
        nets.critics_flat.grad.zero_()
        q, aim = nets.critics(torch.from_numpy(x), torch.from_numpy(action)), torch.from_numpy(target)
        loss = (off_policy.double_q_loss(q, aim) * torch.from_numpy(weight)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), (aim - q).detach().numpy()

    def actor(self, x: Array, noise: Array, alpha: float, term: ActorTerm | None, batch: ReplayBatch) -> Array:
        """Fill the actor's gradient; returns the log-probabilities [N], zeros for a deterministic actor."""
        nets, features = self._nets, torch.from_numpy(x)
        nets.actor_flat.grad.zero_()
        params = _params(nets.actor, features)
        if self._soft:
            action, log_prob = distributions.choose(nets.actor.family, params, torch.from_numpy(noise))
            worst = _frozen(nets.critics, features, action).amin(dim=0)
            loss = (alpha * log_prob - worst).mean()
        else:
            action, log_prob = params, params.new_zeros(len(params))
            # The first critic's alone (Fujimoto 2018, algorithm 1).
            loss = -_frozen(nets.critics, features, action)[0].mean()
        if term is not None:
            loss = loss + term.loss(params, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        found: Array = log_prob.detach().numpy()
        return found


class KernelGradients(AutogradGradients):
    """The same by the hand-derived gradients of ``objectives.continuous_kernel``; terms of teachers need autograd."""

    def __init__(self, nets: Nets, settings: Settings) -> None:
        super().__init__(nets, settings)
        self._kernel = ContinuousKernel(
            nets.actor, nets.target_actor, nets.critics, nets.target_critics, isinstance(settings, SoftSettings)
        )
        (encoder, *others), space = nets.actor.spec.encoders, nets.actor.observation_space
        self._plain = not others and (encoder.key, encoder.type, encoder.scale) == ("", "flatten", 1.0)
        self._plain &= len(space.shape or ()) == 1 and not nets.actor.spec.normalized

    def features(self, obs: Any) -> Array:
        """See ``AutogradGradients``; vectors are their own features."""
        return obs if self._plain and obs.dtype == np.float32 else super().features(obs)

    def next_values(self, x: Array, noise: Array, alpha: float, std: float, clip: float) -> Array:
        """See ``AutogradGradients``."""
        return self._kernel.next_values(x, noise, alpha, std, clip)

    def critics(self, x: Array, action: Array, target: Array, weight: Array) -> tuple[float, Array]:
        """See ``AutogradGradients``."""
        return self._kernel.critics(x, action, target, weight)

    def actor(self, x: Array, noise: Array, alpha: float, term: ActorTerm | None, batch: ReplayBatch) -> Array:
        """See ``AutogradGradients``."""
        if term is not None:
            return super().actor(x, noise, alpha, term, batch)
        return self._kernel.actor(x, noise, alpha)


def _params(policy: Policy, x: Tensor) -> Tensor:
    """[N, F] -> [N, P]."""
    return policy._params(x, None)


def _frozen(critics: Critics, x: Tensor, action: Tensor) -> Tensor:
    """[K, N] values whose gradient reaches the action alone."""
    with _without_grad(critics):
        value: Tensor = critics(x, action)
    return value


class _without_grad:  # noqa: N801 (reads as a statement)
    """Parameters that want no gradient for a while."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


class ContinuousLearner:
    """DDPG, TD3 and SAC, as the settings say; see ``objectives.off_policy``."""

    def __init__(self, policy: Policy, settings: Settings, term: ActorTerm | None = None) -> None:
        """Build networks and optimisers; the policy learns in place."""
        self.policy, self._settings, self._term = policy, settings, term
        self._nets = Nets(policy, settings)
        fast = settings.update.kernel and supports(policy.spec)
        self._gradients = (KernelGradients if fast else AutogradGradients)(self._nets, settings)
        self._rng = np.random.default_rng((settings.seed, 3))
        self._updates = 0
        self._sums = Sums()
        self._actions = policy.family.sizes[0]
        self._alpha: FlatAdam | None = None
        if isinstance(settings, SoftSettings):
            self._alpha = FlatAdam(1, None, settings.update.eps)
            self._alpha.params[0] = np.log(settings.objective.temperature)
        else:
            self._std = parse(settings.exploration.std, "exploration.std", settings.stop.env_steps)

    def behaviour(self, env_steps: int, envs: int) -> Mixture:
        """Return who acts now: samples of a stochastic actor, or a deterministic one with noise."""
        if isinstance(self._settings, SoftSettings):
            return Mixture(0.0, sample=True)
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
        settings, gradients, count = self._settings, self._gradients, len(batch.reward)
        alpha = 0.0 if self._alpha is None else float(np.exp(self._alpha.params[0]))
        std, clip = 0.0, 0.0
        every = 1
        if isinstance(settings, DeterministicSettings):
            std, clip = settings.objective.target_noise, settings.objective.target_noise_clip
            every = settings.objective.actor_every
        after = gradients.next_values(gradients.features(batch.next_obs), self._noise(count), alpha, std, clip)
        target = batch.reward + batch.discount * after  # ``off_policy.td_target``
        x = gradients.features(batch.obs)
        loss, error = gradients.critics(x, batch.action, target, batch.weight)
        self._nets.critics_flat.step(lr)
        self._sums.add(loss=loss, target=target.mean(), grad_norm=self._nets.critics_flat.norm)
        self._updates += 1
        if self._updates % every == 0:
            log_prob = gradients.actor(x, self._noise(count), alpha, self._term, batch)
            self._nets.actor_flat.step(lr)
            self._sums.add(actor_grad_norm=self._nets.actor_flat.norm)
            if self._alpha is not None:
                mean = log_prob.mean()
                self._move_temperature(mean, lr)
                self._sums.add(entropy=-mean, alpha=alpha)
            if self._updates % (every * settings.update.target_every) == 0:
                for follower in self._nets.followers.values():
                    follower.follow(settings.update.tau)
        return np.abs(error).mean(axis=0) if settings.replay.prioritised else None

    def _move_temperature(self, log_prob: np.float32, lr: float) -> None:
        """Take a step on log alpha, whose gradient is -(mean log pi + H)."""
        assert self._alpha is not None and isinstance(self._settings, SoftSettings)
        objective = self._settings.objective
        if objective.learn_temperature:
            entropy = -self._actions if objective.target_entropy is None else objective.target_entropy
            self._alpha.grad[0] = -(log_prob + entropy)
            self._alpha.step(lr)

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call."""
        return self._sums.means()

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays beside the policy's own, and JSON-able data."""
        arrays: dict[str, Array] = {}
        data: dict[str, Any] = {"updates": self._updates, "rng": self._rng.bit_generator.state}
        for name, part in self._optimizers().items():
            found, data[name] = part.state()
            arrays |= {f"{name}:{key}": array for key, array in found.items()}
        arrays |= {f"target:{name}": follower.vector.numpy() for name, follower in self._nets.followers.items()}
        return arrays, data

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        for name, part in self._optimizers().items():
            own = {key.removeprefix(f"{name}:"): array for key, array in arrays.items() if key.startswith(f"{name}:")}
            part.restore(own, data[name])
        for name, follower in self._nets.followers.items():
            follower.vector.copy_(torch.from_numpy(arrays[f"target:{name}"]))
        self._updates, self._rng.bit_generator.state = data["updates"], data["rng"]

    def _optimizers(self) -> dict[str, FlatParameters | FlatAdam]:
        parts: dict[str, FlatParameters | FlatAdam] = {
            "actor": self._nets.actor_flat,
            "critics": self._nets.critics_flat,
        }
        return parts if self._alpha is None else parts | {"alpha": self._alpha}
