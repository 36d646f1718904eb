"""How many bytes a replay takes, so that one that does not fit is refused before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.errors import UserError
from understudy.rollouts.priorities import SumTree
from understudy.rollouts.stored_observations import Columns, observation_columns

NO_STACKS: Mapping[str, int] = MappingProxyType({})


def row_bytes(observation: gym.Space[Any], action: gym.Space[Any], stacks: Mapping[str, int] = NO_STACKS) -> int:
    """Return the bytes of one row."""
    columns = observation_columns(observation, stacks) | step_columns(action)
    return sum(int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize for shape, kind in columns.values())


def check_bytes(
    observation: gym.Space[Any],
    action: gym.Space[Any],
    capacity: int,
    prioritised: bool,
    most: float,
    stacks: Mapping[str, int] = NO_STACKS,
) -> None:
    """Refuse a replay that would not fit.

    Raises:
        UserError: With an estimate.
    """
    each = row_bytes(observation, action, stacks)
    size = each * capacity + (SumTree.bytes_for(capacity) if prioritised else 0)
    if size > most:
        fits = int(capacity * most / size)
        raise UserError(
            f"a replay of {capacity:,} steps takes {size / 1e9:.2f} GB ({each:,} bytes a step), more than "
            f"replay.max_bytes {most:.3g}: take --replay.capacity {fits}, or raise --replay.max_bytes"
        )


def step_columns(action: gym.Space[Any]) -> Columns:
    """Return the shape and dtype of every column beside the observations."""
    box = isinstance(action, gym.spaces.Box)
    kinds: Columns = {"action": ((int(np.prod(action.shape or ())),), np.float32) if box else ((), np.int64)}
    flags: Columns = {name: ((), np.bool_) for name in ("terminated", "ended", "valid")}
    return kinds | {"reward": ((), np.float32)} | flags
