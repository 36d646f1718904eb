"""Cross-entropy and KL from a teacher to a student with hand-derived slopes at the student's outputs, in NumPy.

    discrete:  H(T, S) = -sum_j p_j log q_j,                             dH/dz_j  = b (q_j - p_j), q = softmax(b z)
    Gaussian:  H(T, S) = log s + (s_T^2 + (m_T - m)^2) / (2 s^2) + ...,  dH/dm    = (m - m_T) / s^2
                                                                        dH/dlog s = 1 - (s_T^2 + (m_T - m)^2) / s^2

summed over parts or components; KL(T||S) differs from it by H(T) and has the same slopes. Equal to
``objectives.distances`` and autograd: the distances that kickstarting takes by default, at a tenth of the calls.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from understudy.data import Array
from understudy.objectives.action_heads import log_softmax, parts_of
from understudy.objectives.distances import Distance
from understudy.policies.family import Family

_NAMES = ("cross_entropy", "forward_kl")


class Apart(NamedTuple):
    """How far a student is from its teacher in n states."""

    kl: Array
    """[n] KL(T||S)."""
    entropy: Array
    """[n] H(T)."""
    slope: Array
    """[P, n] dKL/d outputs of the state's own."""


class Slope(Protocol):
    """A distance between two families."""

    def __call__(self, teacher: Array, student: Array) -> Apart:
        """[P, n] parameters of both, in unit actions; a Gaussian's log standard deviations come last."""


def closed_form(distance: Distance, teacher: Family, student: Family) -> Slope | None:
    """Return the hand-derived peer of a distance that is defined between these families; None where there is none."""
    if distance.name not in _NAMES:
        return None
    if teacher.name == student.name == "gaussian":
        return _Gaussians(distance.std_floor)
    if not student.continuous and student.name != "q_values":
        return _Choices(student.sizes, *distance.inverse_temperatures(teacher, student))
    return None


class _Gaussians:
    def __init__(self, floor: float) -> None:
        self._floor = math.log(floor) if floor > 0 else -math.inf

    def __call__(self, teacher: Array, student: Array) -> Apart:
        size = len(student) // 2
        mean, log_std = student[:size], student[size:]
        spread = np.maximum(teacher[size:], self._floor)
        inverse = np.exp(-log_std)
        z = (mean - teacher[:size]) * inverse
        slope = np.empty_like(student)
        np.multiply(z, inverse, out=slope[:size])
        further = spread - log_std
        square = np.exp(2 * further)
        square += z * z
        np.subtract(1, square, out=slope[size:])
        kl = (0.5 * (square - 1) - further).sum(axis=0)
        return Apart(kl, spread.sum(axis=0) + 0.5 * size * math.log(2 * math.pi * math.e), slope)


class _Choices:
    def __init__(self, sizes: tuple[int, ...], teacher_scale: float, student_scale: float) -> None:
        self._parts = parts_of(sizes)
        self._scales = teacher_scale, student_scale

    def __call__(self, teacher: Array, student: Array) -> Apart:
        log_p, log_q = teacher * np.float32(self._scales[0]), student * np.float32(self._scales[1])
        p, q = np.empty_like(log_p), np.empty_like(log_q)
        log_softmax(log_p, self._parts, p)
        log_softmax(log_q, self._parts, q)
        entropy = -(p * log_p).sum(axis=0)
        q -= p
        q *= np.float32(self._scales[1])
        return Apart((p * (log_p - log_q)).sum(axis=0), entropy, q)


__all__ = ["Apart", "Slope", "closed_form"]
