"""Least squares that make good for rounding: weights that say what the exact ones say, in given states."""

from __future__ import annotations

import numpy as np

from understudy.data import Array

LIMIT = 1024
"""Inputs of a layer at most: an inverse of that size takes a tenth of a second."""
LEAST = 64
"""States that are enough to fit anything by."""
_RIDGES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Relative to the mean energy of the inputs."""
_DAMPING = 0.01
"""Relative to the mean energy of the inputs, for the inverse of step 2 (as in the paper)."""


def energy_of(x: Array) -> Array:
    """[N, in] -> [in, in], about the mean: the bias takes what is constant."""
    centred = x - x.mean(axis=0)
    found: Array = centred.T @ centred / len(x)
    return found


def refit(x: Array, residual: Array) -> Array:
    """Return the change [in, out] of the weights that explains a residual [N, out], 0 where none holds in new states.

    The last quarter of the states takes no part at first: episodes stand one after another, so most of it is others.
    """
    cut = len(x) * 3 // 4
    known, new = slice(0, cut), slice(cut, None)
    best, chosen = float(np.square(_centred(residual[new])).sum()), None
    for ridge in _RIDGES:
        change = _solve(x[known], residual[known], ridge)
        error = float(np.square(_centred(residual[new] - x[new] @ change)).sum())
        if error < best:
            best, chosen = error, ridge
    return np.zeros((x.shape[1], residual.shape[1])) if chosen is None else _solve(x, residual, chosen)


def _centred(x: Array) -> Array:
    found: Array = x - x.mean(axis=0)
    return found


def _solve(x: Array, residual: Array, ridge: float) -> Array:
    energy = energy_of(x)
    energy[np.diag_indices_from(energy)] += ridge * energy.trace() / len(energy) + 1e-30
    found: Array = np.linalg.solve(energy, _centred(x).T @ _centred(residual) / len(x))
    return found


def round_in_turn(weight: Array, energy: Array) -> tuple[Array, Array]:
    """[in, out] -> integers from -127 to 127 as float64, and what one is worth [out]; errors go to inputs that follow.

    Frantar 2022, "GPTQ" (arXiv 2210.17323), eq. 2 and 3; inputs in the order of falling energy.

    With U the upper Cholesky factor of the inverse energy, rounding row i by e leaves the least error when the rows
    j > i change by -e U_ij / U_ii.
    """
    energy = energy.copy()
    energy[np.diag_indices_from(energy)] += _DAMPING * energy.trace() / len(energy) + 1e-30
    step = np.maximum(np.abs(weight).max(axis=0), 1e-30) / 127
    order = np.argsort(-np.diag(energy), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(energy[np.ix_(order, order)])).T
    left = weight[order]
    rounded = np.zeros_like(left)
    for i in range(len(left)):
        rounded[i] = np.clip(np.rint(left[i] / step), -127, 127)
        error = (left[i] - rounded[i] * step) / upper[i, i]
        left[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    back = np.empty_like(rounded)
    back[order] = rounded
    return back, step
