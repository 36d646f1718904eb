"""Actions from distribution parameters [N, P] in plain NumPy; ``distributions`` is the same over tensors."""

from __future__ import annotations

import math

import numpy as np

from understudy.data import Array
from understudy.policies.family import Family


def mode(family: Family, params: Array) -> Array:
    """[N, P] -> the deterministic action; see ``distributions.mode``."""
    name = family.name
    if name in ("categorical", "q_values"):
        chosen: Array = params.argmax(axis=1)
        return chosen
    if name == "multi_categorical":
        pieces = np.split(params, np.cumsum(family.sizes)[:-1], axis=1)
        return np.stack([piece.argmax(axis=1) for piece in pieces], axis=1)
    if name == "deterministic":
        return params
    mean = params[:, : params.shape[1] // 2]
    return np.tanh(mean) if name == "squashed_gaussian" else mean


def sample(family: Family, params: Array, rng: np.random.Generator) -> Array:
    """[N, P] -> a random action; see ``distributions.sample``."""
    if not family.stochastic:
        return mode(family, params)
    if not family.continuous:
        return mode(family, params + rng.gumbel(size=params.shape))
    mean, log_std = np.split(params, 2, axis=1)
    if family.name == "squashed_gaussian":
        log_std = np.clip(log_std, -20, 2)
    action: Array = mean + np.exp(log_std) * rng.standard_normal(mean.shape, dtype=np.float32)
    return np.tanh(action) if family.name == "squashed_gaussian" else action


def squashed_log_prob(mean: Array, log_std: Array, action: Array) -> Array:
    """[N, A] each, squashed actions -> log density [N]; see ``distributions.log_prob``."""
    inside = np.minimum(np.maximum(action, -1 + 1e-6), 1 - 1e-6)
    above, below = np.log1p(inside), np.log1p(-inside)  # half of their difference is atanh, their sum log(1 - a^2)
    z = (0.5 * (above - below) - mean) * np.exp(-log_std)
    density: Array = -(0.5 * z * z + log_std + above + below + 0.5 * math.log(2 * math.pi)).sum(axis=1)
    return density


def choose_parts(family: Family, logits: Array, noise: Array, ones: Array) -> tuple[Array, Array]:
    """[N, P] logits and Gumbel noise [N, P] -> choices and log-probabilities [N]; see ``distributions.choose``.

    ``ones`` are float32, at least as many as the largest part has choices; a product with them is the sum.
    """
    perturbed, rows, begin = logits + noise, np.arange(len(logits)), 0
    choices, log_probs = [], []
    for size in family.sizes:
        part = slice(begin, begin + size)
        choice = perturbed[:, part].argmax(axis=1)
        # -log sum exp(l - l_chosen). No overflow: the chosen logit plus its noise is the greatest such sum, so no
        # logit exceeds it by more than the range of the noise.
        others = logits[:, part] - logits[:, part][rows, choice][:, None]
        log_probs.append(-np.log(np.exp(others, out=others).dot(ones[:size])))
        choices.append(choice)
        begin += size
    if family.name == "categorical":
        return choices[0], log_probs[0]
    return np.stack(choices, axis=1), np.sum(log_probs, axis=0)
