"""Layers of ``ArrayPolicy``: plain functions of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.policies.spaces import outside, starts

Layer = tuple[Array, Array]
"""Weight [in, out], contiguous, and bias [out]."""


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # the same function, and nothing overflows


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0, out=x),
    "elu": _elu,
    "silu": lambda x: x * _sigmoid(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": _sigmoid,
    "identity": lambda x: x,
}
"""By name; some overwrite their argument."""


def select_task(out: Array, task: Array) -> Array:
    """[N, tasks * P] and one-hot [N, tasks] -> [N, P], each row from its task's head."""
    chosen: Array = (out.reshape(len(out), task.shape[1], -1) * task[:, :, None]).sum(axis=1)
    return chosen


def one_hot(x: Array, space: gym.Space[Any]) -> Array:
    """[N] or [N, parts] integers -> [N, sum of sizes] float32."""
    sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else np.ravel(space.nvec).tolist()  # type: ignore[attr-defined]
    columns = x.reshape(len(x), -1).astype(np.int64) - np.array(starts(space))
    if columns.min(initial=0) < 0:
        raise outside(x, space)
    try:
        return np.concatenate([np.eye(n, dtype=np.float32)[columns[:, i]] for i, n in enumerate(sizes)], axis=1)
    except IndexError:  # a number that is none of the classes
        raise outside(x, space) from None


def join(policy: Sequence[Layer], value: Sequence[Layer]) -> list[Layer]:
    """Return two networks of the same depth on the same input as one, with zeros between them.

    A call of NumPy costs about 0.5 us whatever it multiplies at the sizes of small networks, so half as many calls are
    worth twice as many multiplications.
    """
    joint = []
    for depth, ((weight, bias), (value_weight, value_bias)) in enumerate(zip(policy, value, strict=True)):
        (inputs, outputs), (value_inputs, value_outputs) = weight.shape, value_weight.shape
        first = 0 if depth == 0 else inputs  # the first layers read the same input
        block = np.zeros((first + value_inputs, outputs + value_outputs), np.float32)
        block[:inputs, :outputs], block[first:, outputs:] = weight, value_weight
        joint.append((block, np.concatenate((bias, value_bias))))
    return joint


def expected_value(logits: Array, support: Sequence[float]) -> Array:
    """[N, K, n] logits of K evenly spaced returns -> [N, n], their expectation."""
    atoms = np.linspace(*support, logits.shape[1], dtype=np.float32)  # type: ignore[call-overload]
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean: Array = (weight * atoms[:, None]).sum(axis=1) / weight.sum(axis=1)
    return mean
