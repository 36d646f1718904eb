"""Networks of DDPG, TD3 and SAC with hand-derived gradients; ``continuous_halves`` makes an update of them.

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
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array
from understudy.objectives.wide_layers import ACTIVATIONS, WideLayers
from understudy.policies.distributions import LOG_STD_MAX, LOG_STD_MIN
from understudy.policies.spec import PolicySpec

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
Named = Mapping[str, Tensor]
"""A network's parameters, or their gradients, under the names of the module's."""


def supports(spec: PolicySpec) -> bool:
    """Say whether the kernel covers this actor: an MLP on fixed features, deterministic with tanh, or soft."""
    plain = (spec.lstm, spec.tasks, spec.mean_clip, spec.head_bias, spec.unit_actions) == (0, 1, 0.0, True, True)
    kind = (spec.family, spec.std, spec.head_activation)
    known = (("deterministic", "none", "tanh"), ("squashed_gaussian", "state", "identity"))
    learned = any(encoder.learned for encoder in spec.encoders)
    return plain and kind in known and not learned and bool(spec.hidden) and spec.activation in ACTIVATIONS


class Critic:
    """One of the critics of a ``policies.critics.Critics``, over views of its parameters."""

    def __init__(self, values: Named, grads: Named | None, k: int, activation: str) -> None:
        """Take the k-th; without gradients it is only run."""
        weights, biases = _numbered(values, "weights", k), [b[0] for b in _numbered(values, "biases", k)]
        places = None
        if grads is not None:
            to_weights, to_biases = _numbered(grads, "weights", k), [b[0] for b in _numbered(grads, "biases", k)]
            places = to_weights[:-1], to_biases[:-1]
            self._grads = to_weights[-1][0].numpy(), to_biases[-1].numpy()
        self._hidden = WideLayers(weights[:-1], biases[:-1], activation, places)
        self._last = weights[-1][0]  # [H]
        self._weight, self._bias = self._last.numpy(), biases[-1].numpy()

    def forward(self, x: Tensor) -> Array:
        """[N, F + A] -> values [N]."""
        self._latent = latent = self._hidden.forward(x)
        return np.asarray(latent.numpy().dot(self._weight) + self._bias)

    def backward(self, g: Array) -> None:
        """Write all gradients, from those of the values [N]."""
        np.dot(g, self._latent.numpy(), out=self._grads[0])
        self._grads[1][0] = g.sum()
        self._hidden.backward(torch.mul(torch.from_numpy(g)[:, None], self._last))

    def action_gradient(self, rows: Array | None, share: float, actions: slice) -> Array:
        """Return the gradient in the actions [n, A] of ``share`` times the values of some rows, or of all."""
        picked = None if rows is None else torch.from_numpy(rows)
        return self._hidden.input_gradient(self._last * share, picked, actions).numpy()


class Actor:
    """The hidden and the last layers of a policy, over views of its parameters."""

    def __init__(self, values: Named, grads: Named | None, activation: str) -> None:
        """Take the layers; without gradients they are only run."""
        names = [
            name.removesuffix(".weight") for name in values if name.startswith("body.") and name.endswith("weight")
        ]
        places = None
        if grads is not None:
            places = [grads[f"{n}.weight"] for n in names], [grads[f"{n}.bias"] for n in names]
        weights, biases = [values[f"{n}.weight"] for n in names], [values[f"{n}.bias"] for n in names]
        self._body = WideLayers(weights, biases, activation, places)
        self._soft = "log_std_head.weight" in values
        heads = ["head", "log_std_head"] if self._soft else ["head"]
        self._heads = [(values[f"{n}.weight"].numpy(), values[f"{n}.bias"].numpy()) for n in heads]
        if grads is not None:
            self._head_grads = [(grads[f"{n}.weight"].numpy(), grads[f"{n}.bias"].numpy()) for n in heads]
        self._size, width = self._heads[0][0].shape
        self._weight = np.zeros((len(heads) * self._size, width), np.float32)  # of all heads
        self._bias = np.zeros(len(self._weight), np.float32)
        self._weight_grad = np.zeros_like(self._weight)
        self._ones = np.ones(self._size, np.float32)

    def forward(self, x: Tensor, noise: Array) -> tuple[Array, Array]:
        """[N, F] and [N, A] -> actions [N, A] and log-probabilities [N] (0 for a deterministic actor)."""
        size = self._size
        for i, (weight, bias) in enumerate(self._heads):
            part = slice(i * size, (i + 1) * size)
            self._weight[part], self._bias[part] = weight, bias
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

    def backward(self, g_action: Array, alpha: float, total: int) -> None:
        """Write all gradients, from that of the loss in the actions [n, A] of the last n rows of ``forward``.

        Args:
            g_action: Of the critics' share of the loss.
            alpha: What entropy is worth.
            total: Rows whose mean the loss is.
        """
        rows, size = slice(len(self._action) - len(g_action), None), self._size
        action, latent = self._action[rows], self._latent[rows]
        g = g_action * (1 - action * action)
        if self._soft:
            share = np.float32(alpha / total)
            g += 2 * share * action
            g = np.concatenate((g, (g * self._spread[rows] - share) * self._inside[rows]), axis=1)
        np.matmul(g.T, latent, out=self._weight_grad)
        biases = g.sum(axis=0)
        for i, (weight, bias) in enumerate(self._head_grads):
            part = slice(i * size, (i + 1) * size)
            weight[:], bias[:] = self._weight_grad[part], biases[part]
        self._body.keep(rows)
        self._body.backward(torch.from_numpy(g @ self._weight))


def _numbered(named: Named, kind: str, k: int) -> list[Tensor]:
    """Return the k-th network's part of every layer."""
    return [tensor[k] for name, tensor in named.items() if name.startswith(f"{kind}.")]
