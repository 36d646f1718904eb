"""Priorities of replayed transitions: how one of N is drawn in proportion to them, and what actors think they are."""

from __future__ import annotations

import numpy as np

from understudy.data import Array, Rollout


class SumTree:
    """Sums over ranges of priorities, so that one of N is drawn in log N steps, many at once.

    A complete binary tree in one array; node i is the sum of nodes 2i and 2i + 1, leaves are the priorities. Every call
    works on whole arrays of indices: a Python step per level, none per index (Schaul 2016, appendix B.2.1).
    """

    def __init__(self, leaves: int) -> None:
        """Begin with priorities of 0."""
        self._depth = max(leaves - 1, 1).bit_length()
        self._first = 1 << self._depth
        self._nodes = np.zeros(2 * self._first)

    @staticmethod
    def bytes_for(leaves: int) -> int:
        """Return the size of a tree."""
        return 16 << max(leaves - 1, 1).bit_length()

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._nodes[1])

    def __getitem__(self, index: Array) -> Array:
        """Return the priorities [n] of leaves."""
        priorities: Array = self._nodes[self._first + index]
        return priorities

    def set(self, index: Array, priority: Array | float) -> None:
        """Set the priorities of leaves [n]; of a leaf that is named twice, the last one counts."""
        nodes, here = self._nodes, self._first + np.asarray(index)
        nodes[here] = priority
        for _ in range(self._depth):
            here = here >> 1
            if len(here) > 1:
                here = np.unique(here)
            nodes[here] = nodes[2 * here] + nodes[2 * here + 1]

    def find(self, mass: Array) -> Array:
        """[n] numbers in [0, total) -> leaves [n]: the first whose running sum of priorities is above the number."""
        nodes, here, left = self._nodes, np.ones(len(mass), np.int64), np.array(mass, np.float64)
        for _ in range(self._depth):
            here = 2 * here
            below = nodes[here]
            # A right child of 0 is never entered, whatever rounding says: no leaf of priority 0 is found.
            right = (left >= below) & (nodes[here + 1] > 0)
            left -= np.where(right, below, 0)
            here += right
        return here - self._first


def actor_errors(rollout: Rollout, gamma: float, n_step: int) -> Array:
    """Return the n-step TD errors by the action values of the actors, [T, B] (Horgan 2018, algorithm 1).

    delta_t = sum_{k<n} gamma^k r_{t+k} + gamma^n max_a q(s_{t+n}, a) - q(s_t, a_t), with fewer steps where the episode
    or the rollout ends. The actors wrote down what they computed to act: nothing is computed twice.
    """
    sequel = rollout.sequel
    assert sequel is not None
    steps, _ = rollout.shape
    following = np.concatenate((sequel.value[1:], sequel.last_value[None]))
    following = np.where(rollout.terminated, 0, np.where(rollout.truncated, sequel.final_value, following))
    ended = rollout.terminated | rollout.truncated
    total, factor = np.zeros_like(rollout.reward), np.ones_like(rollout.reward)
    bootstrap, alive = np.zeros_like(total), np.ones_like(ended)
    for k in range(min(n_step, steps)):
        now = slice(k, None)
        here = alive[: steps - k]
        step_reward, step_value = rollout.reward[now], following[now]
        total[: steps - k] += np.where(here, factor[: steps - k] * step_reward, 0)
        factor[: steps - k] *= np.where(here, gamma, 1).astype(np.float32)
        bootstrap[: steps - k] = np.where(here, step_value, bootstrap[: steps - k])
        alive[: steps - k] &= ~ended[now]
    error: Array = total + factor * bootstrap - sequel.chosen
    return error
