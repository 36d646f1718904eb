"""Random choices among those that a state's action mask allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.policies.family import ActionMap, action_sizes
from understudy.policies.spec import MASK


def mask_in(obs: Any, actions: gym.Space[Any]) -> Array | None:
    """Return which choices observations [B, ...] allow, [B, P] bool; None where they hold no mask for these actions."""
    if not isinstance(obs, dict) or MASK not in obs:
        return None
    if not isinstance(actions, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return None
    mask = np.asarray(obs[MASK])
    return mask >= 0.5 if mask.ndim == 2 and mask.shape[1] == sum(action_sizes(actions)) else None


def keep_allowed(action: Array, mask: Array, actions: ActionMap, rngs: Sequence[np.random.Generator]) -> Array:
    """Draw forbidden ones of uniformly random actions [B, ...] again, among what the mask [B, P] allows.

    All that is allowed stays equally likely. Where nothing is, the action stays as it is.

    Args:
        action: In environment units.
        mask: See ``mask_in``.
        actions: Their map.
        rngs: One for every row.
    """
    choices = np.array(actions.to_unit(action))
    parts = choices.reshape(len(choices), -1)
    begin = 0
    for part, size in enumerate(action_sizes(actions.space)):
        allowed = mask[:, begin : begin + size]
        begin += size
        forbidden = ~allowed[np.arange(len(parts)), parts[:, part]] & allowed.any(axis=1)
        for row in np.flatnonzero(forbidden).tolist():
            parts[row, part] = rngs[row].choice(np.flatnonzero(allowed[row]))
    return actions.to_env(choices)
