"""Observations as people and environments hand them over, brought to batches [N, ...] of their space."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.errors import UserError


def batch_observation(observation: Any, space: gym.Space[Any], keys: Collection[str] | None = None) -> tuple[Any, bool]:
    """Add the batch axis where it is missing and bring images into the space's layout.

    Args:
        observation: One observation of the space, or a batch [N, ...].
        space: The observation space.
        keys: The keys that are needed of a dict observation; all by default.

    Returns:
        Arrays [N, ...], and whether the batch axis was added.

    Raises:
        UserError: The observation does not fit the space.
    """
    if isinstance(observation, tuple):
        raise UserError("predict got a tuple: env.reset() returns (observation, info), pass the observation")
    if isinstance(space, gym.spaces.Dict):
        keys = sorted(keys if keys is not None else space.spaces)
        if not isinstance(observation, Mapping):
            raise UserError(f"predict needs a dict observation with keys {', '.join(space.spaces)}")
        missing = set(keys) - set(observation)
        if missing:
            raise UserError(f"the observation lacks the keys {', '.join(sorted(missing))}")
        pairs = {key: _batch_one(np.asarray(observation[key]), space.spaces[key], key) for key in keys}
        return {key: value for key, (value, _) in pairs.items()}, all(single for _, single in pairs.values())
    return _batch_one(np.asarray(observation), space, "")


def in_layout(x: Any, shape: tuple[int, ...]) -> Any:
    """Return pictures [..., H, W, C] (arrays or tensors) as [..., C, H, W], or back, where ``shape`` has it so; a view.

    Stable-Baselines3 saves [C, H, W] for environments that show [H, W, C]. Everything else is returned as it is.
    """
    if len(shape) != 3 or x.ndim < 3 or x.shape[-3:] == shape:
        return x
    height, width, channels = x.shape[-3:]
    if (channels, height, width) == shape:
        return x.swapaxes(-1, -2).swapaxes(-2, -3)
    if (width, channels, height) == shape:
        return x.swapaxes(-3, -2).swapaxes(-2, -1)
    return x


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say whether observations of one shape are of the other, at most with a picture's channels elsewhere."""
    return bool(in_layout(np.empty((0, *shape)), wanted).shape[1:] == wanted)


def _batch_one(array: Array, space: gym.Space[Any], key: str) -> tuple[Array, bool]:
    """Return [N, *space.shape] and whether the batch axis was added; transposes images whose channels differ."""
    shape = tuple(space.shape or ())
    if array.shape == shape:
        return array[None], True
    if array.shape[1:] == shape and array.ndim == len(shape) + 1:
        return array, False
    moved = in_layout(array, shape)
    if len(shape) == 3 and moved.shape[-3:] == shape:
        return (moved[None], True) if moved.ndim == 3 else (moved, False)
    where = f" under key {key!r}" if key else ""
    raise UserError(f"observation{where} has shape {array.shape}, the policy expects {shape} (one) or (N, *{shape})")
