"""Log-probabilities and entropies of action distributions with hand-derived gradients, in NumPy.

Outputs come transposed, [P, n], so that sums over an action's components add whole rows. With c_n = dL/d log pi_n and
L containing -w * mean(H), each head turns outputs into dL/d outputs; equal to ``policies.distributions`` and autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from understudy.data import Array


def parts_of(sizes: Sequence[int]) -> list[slice]:
    """Return where the outputs of each part of an action lie."""
    ends = np.cumsum(sizes)
    return [slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]


def log_softmax(logits: Array, parts: Sequence[slice], probabilities: Array) -> None:
    """Overwrite [P, n] logits by log-probabilities, part by part, and write the probabilities."""
    for part in parts:
        log_p, p = logits[part], probabilities[part]
        log_p -= np.maximum.reduce(log_p, axis=0)
        np.exp(log_p, out=p)
        total = np.add.reduce(p, axis=0)
        p /= total
        log_p -= np.log(total, out=total)


class Head(Protocol):
    """An action distribution's part of the loss."""

    def log_prob(self, outputs: Array, action: Array, out: Array) -> None:
        """Write log pi(a|s), [n], into ``out``; overwrites ``outputs`` [P, n] and keeps what ``gradient`` needs."""

    def gradient(self, outputs: Array, c: Array, entropy_weight: float) -> float:
        """Overwrite ``outputs`` by dL/d outputs, right after ``log_prob``; return the mean entropy."""


class GaussianHead:
    """Means [A, n] with one vector of log standard deviations s.

    z = (a - mean) / e^s;  dlog pi/dmean = z / e^s,  dlog pi/ds = z^2 - 1,  H = sum(s) + A log(2 pi e) / 2,  dH/ds = 1.
    """

    def __init__(self, log_std: Array, grad_log_std: Array, rows: int) -> None:
        """Take views [A] of parameters and gradient, and buffers for up to ``rows`` rows."""
        self._log_std, self._grad, self._size = log_std, grad_log_std, len(log_std)
        self._inverse = np.ones((self._size, 1), np.float32)
        self._minus_half = np.full(self._size, -0.5, np.float32)
        self._scratch = np.zeros((2, self._size * rows), np.float32)
        self._sum = 0.0

    def log_prob(self, outputs: Array, action: Array, out: Array) -> None:
        """-sum(z^2) / 2 - sum(s) - A log(2 pi) / 2; see ``Head``. Actions are [n, A]."""
        self._z, self._square = self._scratch[:, : outputs.size].reshape(2, *outputs.shape)
        np.exp(-self._log_std, out=self._inverse[:, 0])
        self._sum = float(self._log_std.sum())
        np.subtract(action.T, outputs, out=self._z)
        self._z *= self._inverse
        np.multiply(self._z, self._z, out=self._square)
        np.matmul(self._minus_half, self._square, out=out)
        out -= self._sum + 0.5 * self._size * math.log(2 * math.pi)

    def gradient(self, outputs: Array, c: Array, entropy_weight: float) -> float:
        """See ``Head``."""
        np.multiply(self._z, c, out=outputs)
        np.multiply(outputs, self._inverse, out=outputs)
        np.matmul(self._square, c, out=self._grad)
        self._grad -= float(c.sum()) + entropy_weight
        return self._sum + 0.5 * self._size * math.log(2 * math.pi * math.e)


class DiscreteHead:
    """Logits [P, n] of one choice, or of several parts one after another.

    dlog pi/dz_j = 1[j chosen] - p_j,   dH/dz_j = -p_j (log p_j + H), H that of the part.
    """

    def __init__(self, sizes: Sequence[int], rows: int) -> None:
        """Take the number of choices of each part, and buffers for up to ``rows`` rows."""
        self._parts = parts_of(sizes)
        self._part_of = np.repeat(np.arange(len(sizes)), sizes)
        self._choice = np.concatenate([np.arange(size) for size in sizes])[:, None]
        self._scratch = np.zeros((2, sum(sizes) * rows), np.float32)

    def log_prob(self, outputs: Array, action: Array, out: Array) -> None:
        """Sum over parts of log softmax at the choice; see ``Head``. Actions are [n] or [n, parts] indices."""
        p, scratch = self._p, self._work = self._scratch[:, : outputs.size].reshape(2, *outputs.shape)
        log_softmax(outputs, self._parts, p)
        chosen = action if action.ndim == 1 else action.T[self._part_of]
        self._chosen = np.equal(chosen, self._choice)
        np.multiply(outputs, self._chosen, out=scratch)
        np.add.reduce(scratch, axis=0, out=out)

    def gradient(self, outputs: Array, c: Array, entropy_weight: float) -> float:
        """See ``Head``; ``outputs`` hold log p since ``log_prob``."""
        p, work, n = self._p, self._work, outputs.shape[1]
        entropy: float = -float(np.vdot(p, outputs)) / n
        if entropy_weight:
            np.multiply(p, outputs, out=work)
            for part in self._parts:
                outputs[part] -= np.add.reduce(work[part], axis=0)
            outputs *= p
            outputs *= entropy_weight / n
            np.subtract(self._chosen, p, out=work)
            work *= c
            outputs += work
        else:
            np.subtract(self._chosen, p, out=outputs)
            outputs *= c
        return entropy
