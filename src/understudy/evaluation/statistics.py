"""Means of returns and how far to trust them: interquartile means and bootstrap intervals, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from understudy.data import Array
from understudy.errors import UserError

Statistic = Callable[[Array], Array]
"""[..., N] samples -> [...]."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def mean(returns: Array) -> Array:
    """[..., N] -> [...] arithmetic mean."""
    return np.asarray(returns.mean(axis=-1))


def iqm(returns: Array) -> Array:
    """[..., N] -> [...] mean of the middle half: a quarter, rounded down, is left out at both ends.

    The interquartile mean of Agarwal 2021 (arXiv 2108.13264), ``scipy.stats.trim_mean(x, 0.25)``. For N < 4 the mean.
    """
    count = returns.shape[-1]
    cut = count // 4
    ordered = np.sort(returns, axis=-1)
    return np.asarray(ordered[..., cut : count - cut].mean(axis=-1))


def bootstrap_interval(
    returns: Array, statistic: Statistic = mean, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the BCa bootstrap interval of a statistic (Efron 1987): corrected for bias and for skewness.

    Args:
        returns: [N] samples.
        statistic: Of samples along the last axis.
        level: Coverage aimed at. With few samples it is missed: the 95 % interval of the mean of 5, 10, 20, 50 normal
            samples covers it in 85, 90, 93, 95 % of the cases; that of the interquartile mean in 91, 93, 95, 95 %.
        resamples: Bootstrap samples.
        seed: Of the resampling; the same input gives the same interval.

    Returns:
        Both ends; equal where all samples agree, as a bootstrap cannot know of what it has never seen.

    Raises:
        UserError: There are no samples, or they are not all finite.
    """
    returns = np.asarray(returns, np.float64)
    if returns.size == 0 or not np.isfinite(returns).all():
        raise UserError("an interval needs at least one episode, and finite returns")
    count, point = len(returns), float(statistic(returns))
    if count == 1 or np.ptp(returns) == 0:
        return Interval(point, point)
    rng = np.random.default_rng(seed)
    drawn = np.sort(statistic(returns[rng.integers(0, count, (resamples, count))]))
    # Ties count half, as in scipy: discrete returns tie often.
    below = (np.searchsorted(drawn, point, "left") + np.searchsorted(drawn, point, "right")) / (2 * resamples)
    bias = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    left_out = np.broadcast_to(returns, (count, count))[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    influence = statistic(left_out)
    influence = influence.mean() - influence
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(drawn, ndtr(bias + z / (1 - acceleration * z)))
    return Interval(float(low), float(high))
