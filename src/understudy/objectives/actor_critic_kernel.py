"""Policy gradients for small MLP actor-critics with hand-derived gradients: the fast peer of the autograd path.

The loss is that of ``objectives.rl`` (Schulman 2017),

    L = mean(-min(r A, clip(r) A)) + value_weight * mean((V - G)^2 / 2) - entropy_weight * mean(H),

and what teachers add (``output_terms``). Slopes come from ``actor_critic_losses``, then from ``action_heads`` and
``actor_critic_net``; ``flat_adam`` takes the step. All parameters lie in one vector, so do gradients and
moments. Nothing is masked: leave invalid states out. Input that is not finite makes metrics that are not.

For networks this small calls cost more than arithmetic: in NumPy a call costs half of PyTorch's, and no graph is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.data import Array
from understudy.errors import UserError
from understudy.objectives.action_heads import DiscreteHead, GaussianHead, Head
from understudy.objectives.actor_critic_losses import METRICS, ActorCriticLosses
from understudy.objectives.actor_critic_net import ActorCriticNet, Layout
from understudy.objectives.flat_adam import FlatAdam
from understudy.objectives.mlp_stack import ACTIVATIONS
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec

More = Callable[[Array, Array], tuple[Array, Array] | None]
"""Parameters [P, n] and values [n] -> their slopes of one more part of the loss, shaped alike; None: it is constant."""


def supports(spec: PolicySpec) -> bool:
    """Say whether the kernel can train this student.

    Students are MLPs on fixed features (no CNN, no LSTM, one task, no mask) with separate policy and value networks of
    at least one hidden layer each; categorical, multi-categorical, or Gaussian with one deviation for all states and
    unit actions.
    """
    std = {"categorical": "none", "multi_categorical": "none", "gaussian": "constant"}.get(spec.family)
    return (
        spec.std == std
        and (spec.unit_actions or spec.family != "gaussian")
        and not any(e.learned for e in spec.encoders)
        and (spec.lstm, spec.tasks, spec.task_actions, spec.quantiles) == (0, 1, (), 1)
        and bool(spec.hidden and spec.value_hidden and not spec.mask)
        and spec.activation in ACTIVATIONS
        and (spec.head_bias, spec.head_activation, spec.mean_clip) == (True, "identity", 0.0)
    )


class ActorCriticKernel:
    """A policy and a value MLP on the same features, the gradient of their loss, and Adam.

    Attributes:
        parameters: All weights and biases as one vector, live.
    """

    def __init__(
        self,
        spec: PolicySpec,
        features: int,
        batch_size: int,
        *,
        clip: float | None,
        value_clip: float | None,
        value_weight: float,
        max_grad_norm: float | None,
        normalize_advantage: bool,
        eps: float = 1e-5,
    ) -> None:
        """Allocate everything, parameters 0; see ``from_policy``.

        Args:
            spec: The student.
            features: F, the number of its encoded features.
            batch_size: Most rows that a step will see; ``evaluate`` works in chunks of it.
            clip: How far the ratio may leave 1; None for the plain policy gradient.
            value_clip: How far the value may leave the old one; None for no limit.
            value_weight: Of the value loss.
            max_grad_norm: Gradients are scaled down to this norm, None for no limit.
            normalize_advantage: Over each batch, as ``rl.normalize_advantage`` does.
            eps: Of Adam.
        """
        family = spec.distribution
        self._losses = ActorCriticLosses(clip, value_clip, value_weight, normalize_advantage)
        self._choices = None if family.continuous else np.array(family.sizes)
        self._layout = Layout(spec, features)
        self._adam = FlatAdam(self._layout.size, max_grad_norm, eps)
        self.parameters, self._grad = self._adam.params, self._adam.grad
        self._net = ActorCriticNet(self._layout, self.parameters, self._grad, spec.activation, batch_size)
        log_std = self._net.log_std
        gaussian = None if log_std is None else GaussianHead(*log_std, batch_size)
        self._head: Head = gaussian or DiscreteHead(family.sizes, batch_size)
        self._means = np.zeros(len(METRICS), np.float32)
        self._entropy = math.nan
        self._reset_metrics()

    @classmethod
    def from_policy(cls, policy: Policy, batch_size: int, **options: Any) -> ActorCriticKernel:
        """Train ``policy`` in place: its parameters become views of the kernel's, so it is always up to date.

        Args:
            policy: On the CPU.
            batch_size: See ``__init__``, as the options.
            **options: Keyword arguments of ``__init__``.

        Raises:
            UserError: The policy is not one that the kernel covers.
        """
        spec = policy.spec
        if not supports(spec) or policy.device.type != "cpu":
            raise UserError(f"the actor-critic kernel does not cover this {spec.family} student; use autograd")
        kernel = cls(spec, next(m for m in policy.body if isinstance(m, nn.Linear)).in_features, batch_size, **options)
        for name, view in kernel.named(kernel.parameters).items():
            parameter = policy.get_parameter(name)
            view[...] = parameter.detach().numpy()
            parameter.data = torch.from_numpy(view)
        return kernel

    def named(self, vector: Array) -> dict[str, Array]:
        """Cut a vector like ``parameters`` into views named as the policy names its parameters."""
        return self._layout.named(vector)

    def step(
        self,
        x: Array,
        action: Array,
        log_prob: Array,
        advantage: Array,
        target_value: Array,
        old_value: Array | None,
        *,
        lr: float,
        entropy_weight: float = 0.0,
        more: More | None = None,
    ) -> None:
        """Take one Adam step on the batch; see ``gradient``."""
        self.gradient(x, action, log_prob, advantage, target_value, old_value, entropy_weight, more)
        self._adam.step(lr)
        self._sums += self._means
        self._scalars += (self._entropy, entropy_weight * self._entropy, self._adam.norm)
        self._counted += 1

    def gradient(
        self,
        x: Array,
        action: Array,
        log_prob: Array,
        advantage: Array,
        target_value: Array,
        old_value: Array | None = None,
        entropy_weight: float = 0.0,
        more: More | None = None,
    ) -> Array:
        """Return the gradient of the loss before clipping as one vector, overwritten by the next call.

        Args:
            x: [n, F] float32 features, n at most ``batch_size``.
            action: [n, A] float32 unit actions before clipping, or [n] or [n, parts] indices.
            log_prob: [n] float32, of the actions under the old policy.
            advantage: [n] float32.
            target_value: [n] float32.
            old_value: [n] float32; read where ``value_clip`` is set.
            entropy_weight: Of the entropy bonus.
            more: What else there is to the loss.
        """
        rows, losses = self._net.forward(x), self._losses.rows(len(x))
        params, value = rows.outputs[:-1], rows.outputs[-1]
        slopes = None if more is None else more(self._params(params), value.copy())
        self._head.log_prob(params, action, losses.log_prob)
        self._losses.policy(losses, log_prob, advantage)
        self._losses.value(losses, value, target_value, old_value)
        np.matmul(losses.metrics, losses.inverse, out=self._means)
        self._entropy = self._head.gradient(params, losses.c, entropy_weight)
        if slopes is not None:
            params += slopes[0][: len(params)]
            value += slopes[1]
            if self._net.log_std is not None:
                self._net.log_std[1][...] += slopes[0][len(params) :].sum(axis=1)
        self._net.backward(x, rows)
        return self._grad

    def _params(self, outputs: Array) -> Array:
        """[M, n] outputs -> [P, n], a copy: the Gaussian's one deviation is every state's."""
        if self._net.log_std is None:
            return outputs.copy()
        return np.concatenate((outputs, np.broadcast_to(self._net.log_std[0][:, None], outputs.shape)))

    def evaluate(self, x: Array, action: Array) -> tuple[Array, Array]:
        """Return log pi(a|s) and V(s), [N] float32 each, for any number of rows; see ``gradient``.

        Raises:
            ValueError: An index is not one of the actions; ``gradient`` trusts what was evaluated.
        """
        if self._choices is not None and not ((action >= 0) & (action < self._choices)).all():
            raise ValueError(f"an action outside of its {self._choices.tolist()} choices")
        log_prob, value = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
        for part in self._chunks(len(x)):
            outputs = self._net.forward(x[part]).outputs
            self._head.log_prob(outputs[:-1], action[part], log_prob[part])
            value[part] = outputs[-1]
        return log_prob, value

    def params(self, x: Array) -> Array:
        """Return the distribution's parameters, [N, P] float32 in unit actions, for any number of rows of features."""
        parts = [self._params(self._net.forward(x[part]).outputs[:-1]).T for part in self._chunks(len(x))]
        return np.concatenate(parts)

    def values(self, x: Array) -> Array:
        """Return V(s), [N] float32, for any number of rows of features."""
        value = np.empty(len(x), np.float32)
        for part in self._chunks(len(x)):
            value[part] = self._net.forward(x[part]).outputs[-1]
        return value

    def _chunks(self, n: int) -> list[slice]:
        size = self._net.batch_size
        return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]

    @property
    def approx_kl(self) -> float:
        """KL(old||new) over the last batch, before its step; see ``rl.approximate_kl``."""
        return float(self._means[1] - self._means[2])

    def _reset_metrics(self) -> None:
        self._sums, self._scalars, self._counted = np.zeros(len(METRICS)), np.zeros(3), 0

    def metrics(self) -> dict[str, float]:
        """Return means over the steps since the last call, named as ``Objective`` names them; empty without steps."""
        if not self._counted:
            return {}
        surrogate, ratio, log_ratio, square, clipped = (self._sums / self._counted).tolist()
        entropy, bonus, norm = (self._scalars / self._counted).tolist()
        parts = {"policy_gradient": -surrogate, "value_regression": 0.5 * square, "entropy": entropy}
        parts |= {"loss": -surrogate + 0.5 * self._losses.value_weight * square - bonus}
        parts |= {"approx_kl": ratio - log_ratio, "grad_norm": norm}
        if self._losses.clip is not None:
            parts["clip_fraction"] = clipped
        self._reset_metrics()
        return parts

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return copies of the parameters and moments, and the number of steps, for an exact resume."""
        return self._adam.state()

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            UserError: It belongs to another network.
        """
        self._adam.restore(arrays, data)
