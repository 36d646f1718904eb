"""The networks of DDPG, TD3 and SAC, and one update of them: by autograd, or by hand-derived gradients."""

from __future__ import annotations

import copy
import math
import os
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array, with_prefix
from understudy.execution.processes import cores
from understudy.learning.two_halves import TwoHalves
from understudy.objectives import off_policy
from understudy.objectives.continuous_halves import Order, Plan
from understudy.objectives.continuous_kernel import supports
from understudy.objectives.flat_parameters import FlatParameters, Target
from understudy.policies import distributions
from understudy.policies.critics import Critics
from understudy.policies.family import ActionMap
from understudy.policies.policy import Policy, as_tensors
from understudy.policies.spec import PolicySpec, encoded_size
from understudy.rollouts.replay import ReplayBatch
from understudy.settings.replayed import ContinuousSettings, DeterministicSettings, ReplayedSettings, SoftSettings

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
        halves: What makes updates without autograd, and has the vectors in its memory; None where it cannot.
    """

    def __init__(self, policy: Policy, settings: Settings) -> None:
        """Draw the critics from the seed, apart from the policy."""
        inputs = encoded_size(policy.spec) + policy.family.sizes[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + 1_000_003)
            self.critics = Critics(
                inputs, settings.policy.critic_widths, settings.objective.critics, settings.policy.activation
            )
        _blind(self.critics, ActionMap(policy.action_space).constant)
        self.actor = policy
        self.target_critics = copy.deepcopy(self.critics)
        eps, limit = settings.update.eps, settings.update.max_grad_norm
        self.halves = _halves(policy, self.critics, settings)

        def vectors(name: str) -> dict[str, Array] | None:
            return None if self.halves is None else with_prefix(self.halves.memory, f"{name}:")

        self.actor_flat = FlatParameters(policy.parameters(), eps, limit, vectors("actor"))
        self.critics_flat = FlatParameters(self.critics.parameters(), eps, limit, vectors("critics"))
        follower = Target(self.critics_flat, self.target_critics.parameters(), vectors("target_critics"))
        self.followers = {"critics": follower}
        self.target_actor = policy
        if isinstance(settings, DeterministicSettings):
            self.target_actor = copy.deepcopy(policy)
            self.followers["actor"] = Target(self.actor_flat, self.target_actor.parameters(), vectors("target_actor"))


def _blind(critics: Critics, constant: Array) -> None:
    """Zero the weights of action components [A] that are constant: 0 in every transition, they never move again."""
    actions = critics.weights[0].detach()[..., -len(constant) :]
    actions[..., torch.from_numpy(constant)] = 0


def by_hand(spec: PolicySpec, settings: ReplayedSettings) -> bool:
    """Say whether gradients are derived by hand, with a second process in the place of more threads."""
    if not isinstance(settings, ContinuousSettings) or not settings.update.kernel:
        return False
    return supports(spec) and bool(settings.policy.critic_widths)


def _halves(policy: Policy, critics: Critics, settings: Settings) -> TwoHalves | None:
    """Return what makes updates by the hand-derived gradients, if these networks and settings allow it."""
    if not by_hand(policy.spec, settings):
        return None
    actor, judges = ({name: tuple(p.shape) for name, p in network.named_parameters()} for network in (policy, critics))
    update, execution, rows = settings.update, settings.execution, settings.replay.batch_size
    soft = isinstance(settings, SoftSettings)
    plan = Plan(actor, judges, policy.spec.activation, soft, rows, update.max_grad_norm, update.eps)
    asked = execution.learner_threads
    several = os.name == "posix" and (asked > 1 or (asked == 0 and cores() > 1))
    return TwoHalves(
        plan,
        shared=several,
        at_once=several and asked > 1,
        timeout=execution.worker_timeout,
        restarts=execution.restarts,
    )


class Outcome(NamedTuple):
    """What is told of an update, N transitions and K critics."""

    loss: float
    """Of the critics, their sum."""
    target: Array
    """[N] what they should have said."""
    error: Array
    """[K, N] what they said less."""
    norm: float
    """Of their gradient."""
    log_prob: Array
    """[N] of the actor's actions, before it moved; zeros for a deterministic one."""
    actor_norm: float
    """Of its gradient; NaN if it did not move."""


class AutogradUpdates:
    """Updates of the networks through PyTorch; ``KernelUpdates`` is the fast peer.

    N transitions with F features and A action components, K critics.
    """

    def __init__(self, nets: Nets, soft: bool) -> None:
        self._nets, self._soft = nets, soft

    @torch.no_grad()
    def features(self, obs: Any) -> Array:
        """[N, ...] -> [N, F]."""
        found: Array = self._nets.actor.encode(as_tensors(obs)).numpy()
        return found

    def update(
        self, batch: ReplayBatch, order: Order, next_noise: Array, noise: Array | None, term: ActorTerm | None
    ) -> Outcome:
        """Take a step with the critics, and if the order says so with the actor and the targets.

        Args:
            batch: The transitions.
            order: What to do.
            next_noise: [N, A] standard normal, of the next actions.
            noise: Of the actions, where the actor moves.
            term: One more summand of the actor's loss.
        """
        nets = self._nets
        x, next_x = self.features(batch.obs), self.features(batch.next_obs)
        target = batch.reward + batch.discount * self._next_values(
            next_x, next_noise, order
        )  # ``off_policy.td_target``
        loss, error = self._critics(x, batch.action, target, batch.weight)
        nets.critics_flat.step(order.lr)
        if order.follows:
            nets.followers["critics"].follow(order.tau)
        log_prob = np.zeros_like(target)
        if order.moves:
            assert noise is not None
            log_prob = self._move_actor(x, noise, order, term, batch)
        norm = float(nets.actor_flat.norm) if order.moves else math.nan
        return Outcome(loss, target, error, float(nets.critics_flat.norm), log_prob, norm)

    @torch.no_grad()
    def _next_values(self, x: Array, noise: Array, order: Order) -> Array:
        """Return the targets' values of the next features, [N]."""
        nets, features, drawn = self._nets, torch.from_numpy(x), torch.from_numpy(noise)
        params = _params(nets.target_actor, features)
        if self._soft:
            action, log_prob = distributions.choose(nets.actor.family, params, drawn)
            value = off_policy.soft_value(nets.target_critics(features, action), log_prob, order.alpha)
        else:
            action = off_policy.smoothed(params, drawn, order.std, order.clip)
            value = nets.target_critics(features, action).amin(dim=0)
        found: Array = value.numpy()
        return found

    def _critics(self, x: Array, action: Array, target: Array, weight: Array) -> tuple[float, Array]:
        """Fill the critics' gradient; returns the loss and the errors [K, N]."""
        nets = self._nets
        nets.critics_flat.grad.zero_()
        q, aim = nets.critics(torch.from_numpy(x), torch.from_numpy(action)), torch.from_numpy(target)
        loss = (off_policy.double_q_loss(q, aim) * torch.from_numpy(weight)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), (aim - q).detach().numpy()

    def _move_actor(self, x: Array, noise: Array, order: Order, term: ActorTerm | None, batch: ReplayBatch) -> Array:
        """Take the actor's step, and let its target follow; returns the log-probabilities [N]."""
        nets, features = self._nets, torch.from_numpy(x)
        nets.actor_flat.grad.zero_()
        params = _params(nets.actor, features)
        if self._soft:
            action, log_prob = distributions.choose(nets.actor.family, params, torch.from_numpy(noise))
            worst = _frozen(nets.critics, features, action).amin(dim=0)
            loss = (order.alpha * log_prob - worst).mean()
        else:
            action, log_prob = params, params.new_zeros(len(params))
            # The first critic's alone (Fujimoto 2018, algorithm 1).
            loss = -_frozen(nets.critics, features, action)[0].mean()
        if term is not None:
            loss = loss + term.loss(params, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nets.actor_flat.step(order.lr)
        if order.follows and "actor" in nets.followers:
            nets.followers["actor"].follow(order.tau)
        found: Array = log_prob.detach().numpy()
        return found


class KernelUpdates(AutogradUpdates):
    """The same by the hand-derived gradients of ``objectives.continuous_halves``; terms of teachers need autograd."""

    def __init__(self, nets: Nets, soft: bool) -> None:
        super().__init__(nets, soft)
        assert nets.halves is not None
        self._halves = nets.halves
        (encoder, *others), space = nets.actor.spec.encoders, nets.actor.observation_space
        self._plain = not others and (encoder.key, encoder.type, encoder.scale) == ("", "flatten", 1.0)
        self._plain &= len(space.shape or ()) == 1 and not nets.actor.spec.normalized

    def features(self, obs: Any) -> Array:
        """See ``AutogradUpdates``; vectors are their own features."""
        return obs if self._plain and obs.dtype == np.float32 else super().features(obs)

    def update(
        self, batch: ReplayBatch, order: Order, next_noise: Array, noise: Array | None, term: ActorTerm | None
    ) -> Outcome:
        """See ``AutogradUpdates``."""
        desk, n, taught = self._halves.memory, len(batch.reward), term is not None and order.moves
        desk["order"][:] = order._replace(moves=order.moves and not taught)
        desk["rows"][0] = n
        x = self.features(batch.obs)
        told = {"x": x, "next_x": self.features(batch.next_obs), "next_noise": next_noise, "action": batch.action}
        told |= {"reward": batch.reward, "discount": batch.discount, "weight": batch.weight}
        if noise is not None:
            told["noise"] = noise
        for name, array in told.items():
            desk[name][:n] = array
        desk["critics:steps"] += 1
        if order.moves and not taught:
            desk["actor:steps"] += 1
        self._halves.update()
        log_prob, actor_norm = np.zeros(n, np.float32), math.nan
        if taught:
            assert noise is not None
            log_prob, actor_norm = self._move_actor(x, noise, order, term, batch), float(self._nets.actor_flat.norm)
        elif order.moves:
            actor_norm = math.sqrt(desk["actor_squares"].sum())
            log_prob = desk["log_prob"][:n] if self._soft else log_prob
        norm = math.sqrt(desk["squares"].sum())
        return Outcome(float(desk["loss"].sum()), desk["target"][:n], desk["error"][:, :n], norm, log_prob, actor_norm)


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
