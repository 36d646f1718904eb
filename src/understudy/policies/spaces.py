"""Gymnasium spaces as plain JSON, and the sizes that networks need of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.errors import UserError


def _bounds_to_json(bound: np.ndarray) -> Any:
    """One number when all elements agree, otherwise the nested list. Infinities become strings: JSON has none."""
    flat = np.unique(bound)
    if flat.size == 1:
        value = float(flat[0])
        return value if np.isfinite(value) else str(value)
    return [v if np.isfinite(v) else str(v) for v in bound.astype(float).ravel().tolist()]


def _bounds_from_json(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(value, list):
        return np.array([float(v) for v in value]).reshape(shape)
    return np.full(shape, float(value))


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Describe a space in plain JSON.

    Raises:
        UserError: The space is of a kind that policies here cannot see or act in.
    """
    if isinstance(space, gym.spaces.Box):
        low, high = _bounds_to_json(space.low), _bounds_to_json(space.high)
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        start = {"start": np.asarray(space.start).tolist()} if any(starts(space)) else {}
        return {"type": "MultiDiscrete", "nvec": np.asarray(space.nvec).tolist(), **start}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"type": "MultiBinary", "n": list(space.shape) if len(space.shape) > 1 else int(np.prod(space.shape))}
    if isinstance(space, gym.spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(sub) for key, sub in space.spaces.items()}}
    raise UserError(f"a space of type {type(space).__name__} is not supported: {space}")


def space_from_json(data: Mapping[str, Any]) -> gym.Space[Any]:
    """Build the space that ``space_to_json`` described."""
    kind = data["type"]
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        low, high = _bounds_from_json(data["low"], shape), _bounds_from_json(data["high"], shape)
        return gym.spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)
    if kind == "Discrete":
        return gym.spaces.Discrete(data["n"], start=data.get("start", 0))
    if kind == "MultiDiscrete":
        return gym.spaces.MultiDiscrete(data["nvec"], start=data.get("start"))
    if kind == "MultiBinary":
        return gym.spaces.MultiBinary(data["n"])
    if kind == "Dict":
        return gym.spaces.Dict({key: space_from_json(sub) for key, sub in data["spaces"].items()})
    raise UserError(f"space type {kind!r} is unknown")


def members(space: gym.Space[Any]) -> dict[str, gym.Space[Any]]:
    """Return the spaces by observation key; a space that is not a dict has the one key ``""``."""
    return dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}


def same_choices(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Say whether two action spaces are of one kind and shape, with the same choices; bounds of numbers may differ."""
    kind = type(one) is type(other) and one.shape == other.shape
    choices = ("n", "nvec", "start")
    return kind and all(np.array_equal(getattr(one, name, 0), getattr(other, name, 0)) for name in choices)


def outside(observations: np.ndarray, space: gym.Space[Any]) -> UserError:
    """Return the error of observations [N, ...] that are not all in a space of choices."""
    bad = next((row.tolist() for row in observations if not space.contains(row.astype(space.dtype))), None)
    return UserError(f"an environment with observations of {space} shows {bad}, which is not one: its space is wrong")


def is_image(space: gym.Space[Any]) -> bool:
    """Say whether a space is an 8-bit image (3 axes, 0 to 255)."""
    return (
        isinstance(space, gym.spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )


def has_channels_last(space: gym.spaces.Box) -> bool:
    """Say whether a picture's space is [H, W, C] rather than [C, H, W].

    Of a square picture the odd axis holds the channels, however many there are (stacked frames); of any other the
    shorter one of the first and the last axis, as Stable-Baselines3 has it.
    """
    first, middle, last = space.shape
    if (first == middle) != (middle == last):
        return first == middle
    return last < first


def picture_shape(space: gym.Space[Any]) -> tuple[int, int, int]:
    """Return the channels, height and width of a picture's space.

    Raises:
        UserError: The space has not three axes.
    """
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 3:
        raise UserError(f"a picture has three axes: height, width and channels; {space} has not")
    channels, height, width = (space.shape[i] for i in ((2, 0, 1) if has_channels_last(space) else (0, 1, 2)))
    return channels, height, width


def starts(space: gym.Space[Any]) -> tuple[int, ...]:
    """Return the first number of each part of a space of whole numbers; a Box has no parts."""
    if isinstance(space, gym.spaces.MultiBinary):
        return (0,) * int(np.prod(space.shape))
    return tuple(int(n) for n in np.ravel(getattr(space, "start", ())))


def flat_size(space: gym.Space[Any]) -> int:
    """Return how many numbers a flattened (or one-hot) observation has."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    return int(np.prod(space.shape or (1,)))
