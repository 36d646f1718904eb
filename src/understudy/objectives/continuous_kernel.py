"""DDPG, TD3 and SAC with hand-derived gradients: the fast peer of ``learning.continuous_learner.AutogradGradients``.

Critics, with y the target and w the importance weights: L = sum_k mean_n w (y - q_k)^2 / 2, dL/dq_k = -w (y - q_k) / N.
The actor's loss needs the critics' gradient in the action alone, never in their weights, and that of a minimum needs
each row's least critic alone:

    deterministic  L = -mean q_1(s, tanh(m)),                          dL/dm = dL/da (1 - a^2)
    soft           L = mean(alpha log pi - min_k q_k(s, a)),           a = tanh(u), u = m + e^l noise
                   log pi = sum(-noise^2 / 2 - l - log(2 pi) / 2 - log(1 - a^2))
                   log(1 - a^2) = 2 (log 2 - |u| - log(1 + e^(-2 |u|)))
                   dL/du = dL/da (1 - a^2) + 2 alpha a / N,            d log(1 - a^2) / du = -2 a
                   dL/dm = dL/du,   dL/dl = dL/du e^l noise - alpha / N where l is within its bounds, else 0

Hidden layers are ``wide_layers``; what is as narrow as the actions is cheapest in NumPy. N transitions with F features
and A action components, K critics with H units in the last hidden layer.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array
from understudy.objectives.wide_layers import ACTIVATIONS, WideLayers, keep_freed_memory
from understudy.policies.critics import Critics
from understudy.policies.distributions import LOG_STD_MAX, LOG_STD_MIN
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def supports(spec: PolicySpec) -> bool:
    """Say whether the kernel covers this actor: an MLP on fixed features, deterministic with tanh, or soft."""
    plain = (spec.lstm, spec.tasks, spec.mean_clip, spec.head_bias, spec.unit_actions) == (0, 1, 0.0, True, True)
    kind = (spec.family, spec.std, spec.head_activation)
    known = (("deterministic", "none", "tanh"), ("squashed_gaussian", "state", "identity"))
    learned = any(encoder.learned for encoder in spec.encoders)
    return plain and kind in known and not learned and bool(spec.hidden) and spec.activation in ACTIVATIONS


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class Critic:
    """One of the critics; parameters and gradients are theirs."""

    def __init__(self, critics: Critics, k: int, activation: str) -> None:
        weights, biases = list(critics.weights), list(critics.biases)
        grads = None
        if weights[0].grad is not None:
            grads = [_grad(w)[k] for w in weights[:-1]], [_grad(b)[k, 0] for b in biases[:-1]]
            self._grads = _grad(weights[-1])[k, 0].numpy(), _grad(biases[-1])[k, 0].numpy()
        data = [w.data[k] for w in weights], [b.data[k, 0] for b in biases]
        self.hidden = WideLayers(data[0][:-1], data[1][:-1], activation, grads)
        self._last = data[0][-1][0]  # [H]
        self._weight, self._bias = self._last.numpy(), data[1][-1].numpy()

    def forward(self, x: Tensor) -> Array:
        """[N, F + A] -> values [N]."""
        self._latent = latent = self.hidden.forward(x)
        return np.asarray(latent.numpy().dot(self._weight) + self._bias)

    def backward(self, g: Array) -> None:
        """Write all gradients, from those of the values [N]."""
        np.dot(g, self._latent.numpy(), out=self._grads[0])
        self._grads[1][0] = g.sum()
        self.hidden.backward(torch.mul(torch.from_numpy(g)[:, None], self._last))

    def action_gradient(self, rows: Array | None, share: float, actions: slice) -> Array:
        """Return the gradient in the actions [n, A] of ``share`` times the values of some rows, or of all."""
        picked = None if rows is None else torch.from_numpy(rows)
        return self.hidden.input_gradient(self._last * share, picked, actions).numpy()


class Actor:
    """A policy's hidden layers and last layers; parameters and gradients are the policy's own."""

    def __init__(self, policy: Policy) -> None:
        linear = [layer for layer in policy.body if isinstance(layer, nn.Linear)]
        grads = None
        if policy.head.weight.grad is not None:
            grads = [_grad(layer.weight) for layer in linear], [_grad(layer.bias) for layer in linear]
        weights, biases = [layer.weight.data for layer in linear], [layer.bias.data for layer in linear]
        self._body = WideLayers(weights, biases, policy.spec.activation, grads)
        self._soft = policy.spec.std == "state"
        self._heads = [policy.head, policy.log_std_head] if self._soft else [policy.head]
        self._size, width = policy.head.weight.shape
        self._weight = np.zeros((len(self._heads) * self._size, width), np.float32)  # of all heads
        self._bias = np.zeros(len(self._weight), np.float32)
        self._weight_grad = np.zeros_like(self._weight)
        self._ones = np.ones(self._size, np.float32)

    def forward(self, x: Tensor, noise: Array) -> tuple[Array, Array]:
        """[N, F] and [N, A] -> actions [N, A] and log-probabilities [N] (0 for a deterministic actor)."""
        size = self._size
        for i, head in enumerate(self._heads):
            part = slice(i * size, (i + 1) * size)
            self._weight[part], self._bias[part] = head.weight.data.numpy(), head.bias.data.numpy()
        self._latent = self._body.forward(x).numpy()
        out = self._latent @ self._weight.T
        out += self._bias
        if not self._soft:
            self._action = np.tanh(out, out=out)
            return self._action, np.zeros(len(out), np.float32)
        mean, raw = out[:, :size], out[:, size:]
        log_std = np.minimum(np.maximum(raw, LOG_STD_MIN), LOG_STD_MAX)
        self._inside = log_std == raw
        self._spread = np.exp(log_std)
        self._spread *= noise
        u = mean + self._spread
        self._action = np.tanh(u)
        far = np.abs(u)
        slope = np.log1p(np.exp(-2 * far))
        slope += far
        each = 0.5 * noise * noise + log_std - 2 * slope
        return self._action, -(each @ self._ones) - size * (_HALF_LOG_2PI + 2 * math.log(2))

    def backward(self, g_action: Array, alpha: float) -> None:
        """Write all gradients, from that of the loss in the action [N, A] of the last ``forward``."""
        action, size = self._action, self._size
        g = g_action * (1 - action * action)
        if self._soft:
            share = np.float32(alpha / len(action))
            g += 2 * share * action
            g = np.concatenate((g, (g * self._spread - share) * self._inside), axis=1)
        np.matmul(g.T, self._latent, out=self._weight_grad)
        biases = g.sum(axis=0)
        for i, head in enumerate(self._heads):
            part = slice(i * size, (i + 1) * size)
            _grad(head.weight).numpy()[:], _grad(head.bias).numpy()[:] = self._weight_grad[part], biases[part]
        self._body.backward(torch.from_numpy(g @ self._weight))


class ContinuousKernel:
    """The gradients of critics and actor."""

    def __init__(
        self, actor: Policy, target_actor: Policy, critics: Critics, target_critics: Critics, soft: bool
    ) -> None:
        """Take networks whose parameters and gradients stay where they are."""
        keep_freed_memory()
        name, count = actor.spec.activation, len(critics.weights[0])
        self._actor, self._soft = Actor(actor), soft
        self._target_actor = self._actor if soft else Actor(target_actor)
        self._critics = [Critic(critics, k, name) for k in range(count)]
        self._judges = self._critics if soft else self._critics[:1]
        self._target_critics = [Critic(target_critics, k, name) for k in range(count)]
        self._inputs: dict[int, Tensor] = {}
        self._size = critics.weights[0].shape[2]

    def _join(self, x: Array, action: Array) -> Tensor:
        """[N, F] and [N, A] -> [N, F + A], valid until the next call."""
        joint = self._inputs.get(len(x))
        if joint is None:
            joint = self._inputs[len(x)] = torch.empty(len(x), self._size)
        array = joint.numpy()
        array[:, : x.shape[1]] = x
        array[:, x.shape[1] :] = action
        return joint

    @torch.no_grad()
    def next_values(self, x: Array, noise: Array, alpha: float, std: float, clip: float) -> Array:
        """Return the targets' values of the next features, [N]; see ``off_policy.soft_value`` and ``smoothed``."""
        action, log_prob = self._target_actor.forward(torch.from_numpy(x), noise)
        if not self._soft:
            action += np.minimum(np.maximum(std * noise, -clip), clip)
            action = np.minimum(np.maximum(action, -1, out=action), 1, out=action)
        joint = self._join(x, action)
        least, *others = (critic.forward(joint) for critic in self._target_critics)
        for other in others:
            least = np.minimum(least, other)
        return least - np.float32(alpha) * log_prob

    @torch.no_grad()
    def critics(self, x: Array, action: Array, target: Array, weight: Array) -> tuple[float, Array]:
        """Fill the critics' gradient; returns the loss and the errors [K, N]."""
        joint = self._join(x, action)
        errors, loss = np.empty((len(self._critics), len(x)), np.float32), 0.0
        for error, critic in zip(errors, self._critics, strict=True):
            np.subtract(target, critic.forward(joint), out=error)
            weighted = error * weight
            loss += 0.5 * float(weighted @ error) / len(x)
            critic.backward(weighted * np.float32(-1 / len(x)))
        return loss, errors

    @torch.no_grad()
    def actor(self, x: Array, noise: Array, alpha: float) -> Array:
        """Fill the actor's gradient; returns the log-probabilities [N].

        Differs from autograd in: critics whose values are exactly equal do not share the gradient, the first has it.
        """
        action, log_prob = self._actor.forward(torch.from_numpy(x), noise)
        joint, judges, actions = self._join(x, action), self._judges, slice(x.shape[1], None)
        q = [judge.forward(joint) for judge in judges]
        if len(judges) == 1:
            g_action = judges[0].action_gradient(None, -1 / len(x), actions)
        else:
            g_action, least = np.empty_like(action), np.argmin(q, axis=0)
            for k, judge in enumerate(judges):
                rows = np.flatnonzero(least == k)
                g_action[rows] = judge.action_gradient(rows, -1 / len(x), actions)
        self._actor.backward(g_action, alpha)
        return log_prob
