"""The losses of an actor-critic on n states with their slopes, in NumPy: what ``actor_critic_kernel`` sums up.

With r_n = pi(a_n|s_n) / pi_old(a_n|s_n) and advantages A_n (Schulman 2017, equation 7; values clipped as in its code),

    L = mean(-min(r A, clip(r) A)) + value_weight * mean((V - G)^2 / 2)

    dL/d log pi_n = -A_n r_n / n where r A <= clip(r) A, else 0    (without a clip -A_n / n),
    dL/dV_n       = value_weight (V_n - G_n) / n, with a clip 0 where the clipped error is the larger and V beyond it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from understudy.data import Array

METRICS = ("policy_gradient", "ratio", "log_ratio", "value_regression", "clip_fraction")
"""Rows of numbers per state, see ``LossRows``."""


class LossRows(NamedTuple):
    """Buffers for n states."""

    log_prob: Array
    c: Array
    """[n] dL/d log pi."""
    work: Array
    """[3, n]."""
    metrics: Array
    """[len(METRICS), n]."""
    inverse: Array
    """[n], all 1 / n: a product with it is a mean."""

    @staticmethod
    def of(n: int) -> LossRows:
        """Allocate for n states."""
        vectors, metrics = np.zeros((5, n), np.float32), np.zeros((len(METRICS), n), np.float32)
        return LossRows(vectors[0], vectors[1], vectors[2:], metrics, np.full(n, 1 / n, np.float32))


class ActorCriticLosses:
    """Policy gradient and value regression; equal to ``objectives.rl`` and autograd.

    Attributes:
        clip: How far the ratio may leave 1; None for the plain policy gradient.
        value_weight: Of the value loss.
    """

    def __init__(self, clip: float | None, value_clip: float | None, value_weight: float, normalize: bool) -> None:
        """Take the settings; ``normalize`` brings advantages to mean 0 and deviation 1."""
        self.clip, self.value_weight = clip, value_weight
        self._value_clip, self._normalize = value_clip, normalize
        self._rows: dict[int, LossRows] = {}

    def rows(self, n: int) -> LossRows:
        """Return the buffers for n states, overwritten by the next call."""
        rows = self._rows.get(n)
        if rows is None:
            rows = self._rows[n] = LossRows.of(n)
        return rows

    def policy(self, rows: LossRows, old_log_prob: Array, advantage: Array) -> None:
        """Write dL/d log pi and the metrics' rows from the log-probabilities; see the module."""
        c, metrics, work = rows.c, rows.metrics, rows.work
        if self._normalize:
            center = np.subtract(advantage, np.dot(advantage, rows.inverse), out=work[0])
            center *= 1 / (math.sqrt(np.dot(center, center) / len(center)) + 1e-8)
            advantage = center
        log_ratio = np.subtract(rows.log_prob, old_log_prob, out=metrics[2])
        ratio = np.exp(log_ratio, out=work[1])
        np.subtract(ratio, 1, out=metrics[1])
        if self.clip is None:
            np.multiply(advantage, rows.log_prob, out=metrics[0])
            np.multiply(advantage, -rows.inverse[0], out=c)
            return
        clipped = np.maximum(ratio, 1 - self.clip, out=work[2])
        np.minimum(clipped, 1 + self.clip, out=clipped)
        np.not_equal(clipped, ratio, out=metrics[4])
        ratio *= advantage
        clipped *= advantage
        np.minimum(ratio, clipped, out=metrics[0])
        np.less_equal(ratio, clipped, out=c)
        c *= ratio
        c *= -rows.inverse[0]

    def value(self, rows: LossRows, value: Array, target: Array, old: Array | None) -> None:
        """Overwrite the values by their gradient and write their row of the metrics; see the module."""
        square, work = rows.metrics[3], rows.work
        if self._value_clip is None:
            value -= target
            np.multiply(value, value, out=square)
        else:
            assert old is not None
            move = np.subtract(value, old, out=work[0])
            near = np.maximum(move, -self._value_clip, out=work[1])
            np.minimum(near, self._value_clip, out=near)
            follows = np.equal(move, near)
            near += old
            near -= target
            np.multiply(near, near, out=near)
            value -= target
            np.multiply(value, value, out=square)
            follows |= square >= near
            np.maximum(square, near, out=square)
            value *= follows
        value *= self.value_weight * rows.inverse[0]
