"""What a replay keeps of observations: every array once, and of stacked pictures only the newest one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation
from understudy.errors import UserError
from understudy.policies.spaces import members

Columns = dict[str, tuple[tuple[int, ...], Any]]


def observation_columns(space: gym.Space[Any], stacks: Mapping[str, int]) -> Columns:
    """Return the shape and dtype of every column; networks see float32, so nothing is kept more exactly."""
    columns: Columns = {}
    for key, part in members(space).items():
        shape = tuple(part.shape or ())
        if key in stacks:
            shape = (shape[0] // stacks[key], *shape[1:])
        columns[f"obs:{key}"] = shape, np.float32 if part.dtype == np.float64 else part.dtype
    return columns


class StoredObservations:
    """Rows of B environments by turns, in which a stack is read from the rows before.

    A stack [n * C, ...] holds the pictures of n steps, oldest first. Where an episode goes on, it has n - 1 of them in
    common with the stack before, so a row keeps the newest [C, ...]; the n - 1 older ones of an episode's first
    stack, whatever they are, stand in ``before`` rows of their own. What is read is therefore what was written.

    Attributes:
        columns: The arrays, by name.
        before: Rows that every episode needs before its first one.
    """

    def __init__(self, space: gym.Space[Any], size: int, envs: int, stacks: Mapping[str, int]) -> None:
        """Allocate ``size`` rows; ``stacks`` says how many pictures the stack of a key holds."""
        self._stacks, self._size, self._envs = dict(stacks), size, envs
        columns = observation_columns(space, stacks)
        self.columns: dict[str, Array] = {
            name: np.zeros((size, *shape), kind) for name, (shape, kind) in columns.items()
        }
        self.before = max(stacks.values(), default=1) - 1
        self._checked = not self.before

    def write(self, where: Array, obs: Observation) -> None:
        """Write observations [..., *shape] into rows [...]; of stacks the newest picture."""
        for key, array in _items(obs):
            column = self.columns[f"obs:{key}"]
            if key in self._stacks:
                array = array[(slice(None),) * where.ndim + (slice(-column.shape[1], None),)]
            column[where] = array

    def write_before(self, where: Array, obs: Observation) -> None:
        """Write the older pictures of first observations [M, *shape] into the rows before theirs, [M]."""
        for key, array in _items(obs):
            if count := self._stacks.get(key, 0):
                column = self.columns[f"obs:{key}"]
                frames = array.reshape(len(array), count, *column.shape[1:])
                for age in range(1, count):
                    column[(where - age * self._envs) % self._size] = frames[:, count - 1 - age]

    def read(self, index: Array) -> Observation:
        """Return the observations of rows [N]."""
        found: dict[str, Array] = {}
        for name, column in self.columns.items():
            key = name[4:]
            if count := self._stacks.get(key, 0):
                places = (index[:, None] - np.arange(count - 1, -1, -1) * self._envs) % self._size
                found[key] = column[places].reshape(len(index), -1, *column.shape[2:])
            else:
                found[key] = column[index]
        return found[""] if list(found) == [""] else found

    def check(self, obs: Observation, start: Array) -> None:
        """Look once whether the stacks of [T, B, *shape] observations slide by one picture where episodes go on.

        Raises:
            UserError: They do not, so that their older pictures would be lost.
        """
        if self._checked or len(start) < 2:
            return
        self._checked = True
        goes_on = ~start[1:]
        for key, array in _items(obs):
            if key in self._stacks:
                channels = self.columns[f"obs:{key}"].shape[1]
                older, newer = array[1:, :, :-channels], array[:-1, :, channels:]
                if not np.array_equal(older[goes_on], newer[goes_on]):
                    raise UserError(
                        "the stacked pictures of this environment do not move by one in every step: take "
                        "--replay.frames_once false"
                    )


def _items(obs: Observation) -> list[tuple[str, Array]]:
    return list(obs.items()) if isinstance(obs, dict) else [("", obs)]
