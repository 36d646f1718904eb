"""What several tasks show as one environment: their observations, brought to one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.policies.spaces import flat_size, members


def shared_keys(spaces: Sequence[gym.Space[Any]]) -> dict[str, gym.Space[Any]] | None:
    """Return the parts of the dict that all tasks see; None where they see different things, or no dict."""
    if not all(isinstance(space, gym.spaces.Dict) for space in spaces):
        return None
    first = members(spaces[0])
    kinds = [
        {key: (type(part), part.shape, part.dtype, flat_size(part)) for key, part in members(space).items()}
        for space in spaces
    ]
    return dict(first) if all(kind == kinds[0] for kind in kinds) and "task" not in first else None


def multitask_observations(spaces: Sequence[gym.Space[Any]]) -> gym.spaces.Dict:
    """Return what the ``multitask`` environment shows of tasks with these observations."""
    keys = shared_keys(spaces)
    if keys is None:
        keys = {"observation": gym.spaces.Box(-np.inf, np.inf, (max(map(_flat_size, spaces)),), np.float32)}
    return gym.spaces.Dict({**keys, "task": gym.spaces.Box(0, 1, (len(spaces),), np.float32)})


def _flat_size(space: gym.Space[Any]) -> int:
    return sum(flat_size(part) for part in members(space).values())
