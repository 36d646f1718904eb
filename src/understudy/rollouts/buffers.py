"""Preallocated rollout arrays, on the heap or inside one block of shared memory."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, Rollout
from understudy.policies.spaces import members

Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any], int]]
"""Name -> (shape, dtype, byte offset); observation keys are named ``obs:KEY``."""


def rollout_layout(observation: gym.Space[Any], action: gym.Space[Any], steps: int, envs: int) -> tuple[Layout, int]:
    """Return where each array of a [T, B] rollout stands in one block, and the block's size in bytes."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
    for key, space in members(observation).items():
        shapes[f"obs:{key}"] = (tuple(space.shape or ()), space.dtype)
    shapes["action"] = (tuple(action.shape or ()), action.dtype)
    shapes["reward"] = ((), np.float32)
    for flag in ("terminated", "truncated", "episode_start", "teacher_acted"):
        shapes[flag] = ((), np.bool_)
    layout: Layout = {}
    offset = 0
    for name, (shape, dtype) in shapes.items():
        full, kind = (steps, envs, *shape), np.dtype(dtype)
        layout[name] = (full, kind, offset)
        offset += -(-int(np.prod(full)) * kind.itemsize // 64) * 64
    return layout, offset


def rollout_views(layout: Layout, block: Any) -> Rollout:
    """Return a rollout whose arrays are views into ``block`` (anything with the buffer protocol)."""
    views = {
        name: np.ndarray(shape, dtype, buffer=block, offset=offset) for name, (shape, dtype, offset) in layout.items()
    }
    obs: dict[str, Array] = {name[4:]: views.pop(name) for name in list(views) if name.startswith("obs:")}
    return Rollout(obs[""] if list(obs) == [""] else obs, **views)


def new_rollout(observation: gym.Space[Any], action: gym.Space[Any], steps: int, envs: int) -> Rollout:
    """Allocate a [T, B] rollout on the heap."""
    layout, size = rollout_layout(observation, action, steps, envs)
    return rollout_views(layout, np.zeros(size, dtype=np.uint8))
