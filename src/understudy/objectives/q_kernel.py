"""DQN and double DQN with hand-derived gradients, for MLPs on fixed features: the fast peer of ``QLearner``'s own way.

With e = y - q(s, a) of the taken actions and importance weights w: L = mean w huber(e), so dL/dq(s, a) =
-w clip(e, -1, 1) / N and nothing for the other actions. N transitions with F features, n actions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array
from understudy.objectives.wide_layers import ACTIVATIONS, WideLayers, keep_freed_memory
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec


def supports(spec: PolicySpec) -> bool:
    """Say whether the kernel covers this network: an MLP on fixed features whose last layer gives the values."""
    plain = (spec.lstm, spec.tasks, spec.quantiles, spec.mean_clip, spec.head_bias) == (0, 1, 1, 0.0, True)
    free = not spec.mask and spec.absent is None and spec.head_activation == "identity"
    learned = any(encoder.learned for encoder in spec.encoders)
    return plain and free and not learned and bool(spec.hidden) and spec.activation in ACTIVATIONS


class _Values:
    """One network, by the names that its tensors have in the policy."""

    def __init__(self, spec: PolicySpec, tensors: Mapping[str, Tensor], trained: bool) -> None:
        weights, biases = (
            [tensors[f"body.{2 * i}.{part}"] for i in range(len(spec.hidden))] for part in ("weight", "bias")
        )
        grads = None
        if trained:
            grads = [_grad(w) for w in weights], [_grad(b) for b in biases]
        self._hidden = WideLayers([w.data for w in weights], [b.data for b in biases], spec.activation, grads)
        head, bias = tensors["head.weight"], tensors["head.bias"]
        self._head, self._bias = head.data.numpy(), bias.data.numpy()
        if trained:
            self._grads = _grad(head).numpy(), _grad(bias).numpy()

    def forward(self, x: Tensor) -> Array:
        """[N, F] -> [N, n]."""
        self._latent = self._hidden.forward(x).numpy()
        return np.asarray(self._latent @ self._head.T + self._bias)

    def backward(self, g: Array) -> None:
        """Write all gradients, from those of the values [N, n]."""
        np.matmul(g.T, self._latent, out=self._grads[0])
        np.sum(g, axis=0, out=self._grads[1])
        self._hidden.backward(torch.from_numpy(g @ self._head))


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class QKernel:
    """Targets and gradients of a ``q_values`` policy that learns in place."""

    def __init__(self, policy: Policy, target: Mapping[str, Tensor], double: bool) -> None:
        """Take networks whose parameters and gradients stay where they are; ``target`` is named as the policy's."""
        keep_freed_memory()
        self._online = _Values(policy.spec, dict(policy.named_parameters()), True)
        self._target = _Values(policy.spec, target, False)
        self._double = double

    @torch.no_grad()
    def next_values(self, x: Tensor) -> Array:
        """Return the target's value of the next features' greedy action, [N]; see ``off_policy.greedy_value``."""
        judged = self._target.forward(x)
        if not self._double:
            return np.asarray(judged.max(axis=1))
        return np.asarray(judged[np.arange(len(x)), self._online.forward(x).argmax(axis=1)])

    @torch.no_grad()
    def gradients(self, x: Tensor, action: Array, target: Array, weight: Array) -> tuple[float, Array, Array]:
        """Fill the gradient; returns the loss, the errors [N] and the greatest values [N]."""
        q, rows = self._online.forward(x), np.arange(len(x))
        error = target - q[rows, action]
        clipped = np.minimum(np.maximum(error, -1), 1)
        loss = float((weight * clipped * (error - 0.5 * clipped)).mean())  # huber: c (e - c / 2), c = clip(e, -1, 1)
        g = np.zeros_like(q)
        g[rows, action] = weight * clipped * np.float32(-1 / len(x))
        self._online.backward(g)
        return loss, error, q.max(axis=1)
