"""Reinforcement learning from the student's own rewards: policy gradients, value regression, entropy.

Pure functions give one number per state, [...]; terms for ``Objective`` take their mean over the valid states in which
the student acted. Columns of the batch (``action``, ``log_prob``, ``advantage``, ``target_value``, ``old_value``) come
from ``objectives.returns``.

| method              | terms                                                                                          |
|---------------------|------------------------------------------------------------------------------------------------|
| REINFORCE           | ``PolicyGradient(clip=None)``, advantages without a value function                             |
| A2C, A3C, IMPALA    | ``PolicyGradient(clip=None)``, ``ValueRegression``, ``EntropyBonus``                           |
| PPO                 | the same with ``clip``                                                                         |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.errors import UserError
from understudy.objectives.batch import Batch
from understudy.objectives.objective import mean_valid
from understudy.objectives.schedules import Constant, Weight
from understudy.policies import distributions
from understudy.policies.policy import Output, Policy


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-A log pi(a|s), whose gradient is the policy gradient's (Sutton 2000, theorem 1; Mnih 2016); [...] -> [...]."""
    return -advantage * log_prob


def clipped_policy_gradient(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A), r = exp(log_prob - old_log_prob) (Schulman 2017, eq. 7)."""
    ratio = torch.exp(log_prob - old_log_prob)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def value_loss(value: Tensor, target: Tensor, old_value: Tensor | None = None, clip: float | None = None) -> Tensor:
    """(V - G)^2 / 2, or with ``clip`` max of it and (clip(V, V_old - clip, V_old + clip) - G)^2 / 2; [...] -> [...].

    The maximum is that of the authors' code of PPO (Dhariwal 2017, baselines, ppo2); the paper has no clipping.
    """
    square = (value - target).square()
    if clip is not None:
        if old_value is None:
            raise ValueError("a clipped value loss needs the old values")
        near = old_value + (value - old_value).clamp(-clip, clip)
        square = torch.maximum(square, (near - target).square())
    return 0.5 * square


def normalize_advantage(advantage: Tensor, valid: Tensor | None = None) -> Tensor:
    """(A - mean) / (std + 1e-8) over the valid states; [...] -> [...].

    Differs in: the population's deviation, so one state gives 0, where Stable-Baselines3 divides by N - 1.
    """
    center = advantage - mean_valid(advantage, valid)
    return center / (mean_valid(center.square(), valid).sqrt() + 1e-8)


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """(r - 1) - log r, r = pi/pi_old; [...] -> [...], whose mean estimates KL(pi_old||pi).

    Schulman 2020, "Approximating KL divergence", k3: unbiased, never negative, of low variance.
    """
    log_ratio = log_prob - old_log_prob
    return torch.expm1(log_ratio) - log_ratio


def clip_fraction(log_prob: Tensor, old_log_prob: Tensor, clip: float) -> Tensor:
    """1 where the ratio is outside [1 - clip, 1 + clip], else 0; [...] -> [...]."""
    return ((torch.exp(log_prob - old_log_prob) - 1).abs() > clip).float()


@dataclass(frozen=True)
class PolicyGradient:
    """Mean over valid states of the (clipped) policy gradient loss.

    Diagnostics: ``entropy`` of the student and, where the batch has ``log_prob``, ``approx_kl`` and ``clip_fraction``.

    Attributes:
        clip: How far the ratio may leave 1 (PPO); None for the plain policy gradient.
        normalize: Normalise the advantages over the batch.
    """

    weight: Weight = Constant(1.0)
    clip: float | None = 0.2
    normalize: bool = True
    name: str = "policy_gradient"

    def __post_init__(self) -> None:
        _positive("the policy gradient's clip", self.clip)

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """E[-min(r A, clip(r) A)] or E[-A log pi]; see ``Term``."""
        return self.diagnosed_loss(policy, batch, output)[0]

    def diagnosed_loss(self, policy: Policy, batch: Batch, output: Output) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the diagnostics; see ``DiagnosedTerm``.

        Raises:
            UserError: The student has no probabilities, or several tasks whose continuous actions are padded.
        """
        family = policy.family
        if not family.stochastic:
            raise UserError(f"policy gradients need a student with probabilities, not a {family.name} one")
        if batch.mask is not None and family.continuous:
            raise UserError("policy gradients do not cover several tasks with continuous actions of different sizes")
        advantage = _column(batch.advantage, "advantage")
        if self.normalize:
            advantage = normalize_advantage(advantage, batch.acted)
        log_prob = distributions.log_prob(family, output.params, _column(batch.action, "action"))
        if self.clip is None:
            losses = policy_gradient(log_prob, advantage)
        else:
            losses = clipped_policy_gradient(log_prob, _column(batch.log_prob, "log_prob"), advantage, self.clip)
        with torch.no_grad():
            diagnostics = {"entropy": distributions.entropy(family, output.params)}
            if batch.log_prob is not None:
                diagnostics["approx_kl"] = approximate_kl(log_prob, batch.log_prob)
                if self.clip is not None:
                    diagnostics["clip_fraction"] = clip_fraction(log_prob, batch.log_prob, self.clip)
            means = {name: mean_valid(each, batch.acted) for name, each in diagnostics.items()}
        return mean_valid(losses, batch.acted), means


@dataclass(frozen=True)
class ValueRegression:
    """Half the mean squared error of the value function against returns, over valid states.

    Attributes:
        clip: How far the value may move from ``old_value``; None for no limit. In the scale of the returns.
    """

    weight: Weight = Constant(0.5)
    clip: float | None = None
    name: str = "value_regression"

    def __post_init__(self) -> None:
        _positive("the value loss's clip", self.clip)

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """E[(V(s) - G)^2] / 2; see ``Term``.

        Raises:
            UserError: The student has no value function.
        """
        if output.value is None:
            raise UserError("value regression: the student has no value function; give it one or switch the term off")
        old = None if self.clip is None else _column(batch.old_value, "old_value")
        losses = value_loss(output.value, _column(batch.target_value, "target_value"), old, self.clip)
        return mean_valid(losses, batch.acted)


@dataclass(frozen=True)
class EntropyBonus:
    """Minus the mean entropy of the student over valid states, in nats (Williams 1991; Mnih 2016)."""

    weight: Weight = Constant(0.01)
    name: str = "entropy_bonus"

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """-E[H(pi(.|s))]; see ``Term``.

        Raises:
            UserError: The student has no entropy.
        """
        if not policy.family.stochastic:
            raise UserError(f"an entropy bonus needs a student with probabilities, not a {policy.family.name} one")
        return -mean_valid(distributions.entropy(policy.family, output.params), batch.acted)


def _column(column: Tensor | None, name: str) -> Tensor:
    """A missing column is a mistake of the learner, not of the user."""
    if column is None:
        raise ValueError(f"the batch has no {name}")
    return column


def _positive(what: str, number: float | None) -> None:
    if number is not None and not number > 0:
        raise UserError(f"{what} must be above 0, not {number}")
