"""What every environment library shares: buffers, finite numbers, spaces that policies can see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation
from understudy.errors import OutsideError, UserError
from understudy.policies.spaces import members, space_to_json


def check_space(env_id: str, space: gym.Space[Any]) -> None:
    """Refuse observations that no policy here can see.

    Raises:
        UserError: A part is neither numbers nor choices, or a dict holds another one.
    """
    for key, part in members(space).items():
        try:
            space_to_json(part)
            nested = isinstance(part, gym.spaces.Dict)
        except UserError:
            nested = True
        if nested:
            where = f" (key {key!r}), even where other keys are chosen" if key else ""
            mission = key == "mission" and part.dtype is not None and part.dtype.kind == "U"
            wrapper = '{"type": "mission", "length": 64}' if mission else '{"type": "flatten_observation"}'
            remedy = f"try the wrapper {wrapper}"
            if not mission and not _flattens(space):
                remedy = "let the environment show arrays of one size instead"
            seen = (
                type(part).__name__ if " at 0x" in str(part) else part
            )  # a space of functions, as MiniGrid's missions
            raise UserError(f"{env_id}: policies cannot see observations of the space {seen}{where}; {remedy}")


def _flattens(space: gym.Space[Any]) -> bool:
    """Say whether every observation of a space becomes as many numbers."""
    try:
        return space.is_np_flattenable
    except NotImplementedError:  # a space of somebody's own
        return False


def check_observation(env_id: str, space: gym.Space[Any], obs: Any) -> None:
    """Refuse an observation that is not what its space says, before it is cast or broadcast into one that is.

    Raises:
        UserError: A key is missing, or a part has another shape, or numbers that its dtype cannot hold.
    """
    if isinstance(space, gym.spaces.Dict) and not isinstance(obs, Mapping):
        raise UserError(f"{env_id} shows {type(obs).__name__}, but its observation space is a dict")
    for key, part in members(space).items():
        where = f" under the key {key!r}" if key else ""
        if key and key not in obs:
            raise UserError(f"{env_id} shows nothing{where}, which its observation space names")
        seen, dtype = np.asarray(obs[key] if key else obs), np.dtype(part.dtype)
        if seen.shape != tuple(part.shape or ()):
            what = f"the shape {seen.shape}, but its space says {tuple(part.shape or ())}"
        elif seen.dtype.kind not in "biuf" or (seen.dtype.kind == "f" and dtype.kind != "f"):
            what = f"the dtype {seen.dtype}, but its space says {dtype}"
        elif dtype.kind != "f" and (seen.astype(dtype) != seen).any():
            what = f"numbers that {dtype} cannot hold, as its space says"
        else:
            continue
        raise UserError(f"{env_id}: the first observation{where} has {what}: correct the environment or its space")


_MUST = {
    "reset": "reset(seed=..., options=...) must return an observation and info",
    "step": "step(action) must return an observation of its space, a number as reward, terminated, truncated, info",
}
_CALLERS = ("understudy.envs.gymnasium_env", "understudy.envs.wrappers", "gymnasium.wrappers", "gymnasium.core")
"""Modules that call an environment: what fails there is what it takes or returns, not something inside it."""
CONTRACT_ERRORS = (TypeError, ValueError, KeyError, IndexError)
"""What is raised by taking apart what is not as it must be."""


def check_contract(env_id: str, method: str, error: Exception) -> None:
    """Refuse an environment whose method failed where it was called; an error from inside it is left alone.

    Raises:
        UserError: It does not take or return what Gymnasium says.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is not None and place.tb_frame.f_globals["__name__"].startswith(_CALLERS):
        raise UserError(f"{env_id}: {_MUST[method]} (Gymnasium's interface), but: {error}") from error


def new_observation(space: gym.Space[Any], num_envs: int) -> Observation:
    """Return zeros [B, ...] in the space's dtype, one array per key of a dict."""
    if isinstance(space, gym.spaces.Dict):
        return {key: np.zeros((num_envs, *(part.shape or ())), part.dtype) for key, part in space.spaces.items()}
    return np.zeros((num_envs, *(space.shape or ())), space.dtype)


class Finite:
    """Checks [B, ...] arrays, always the same ones, for nan and inf: one dot product each."""

    def __init__(self, env_id: str, obs: Observation, reward: Array) -> None:
        self.env_id = env_id
        self.step = 0
        """Steps since the reset, for the message."""
        named = {f"observation {key!r}": a for key, a in obs.items()} if isinstance(obs, dict) else {"observation": obs}
        # A view each; a vector's product with itself is finite where all its elements are (and not huge).
        self._flat = [(name, a, a.reshape(-1)) for name, a in named.items() if a.dtype.kind == "f"]
        self._flat.append(("reward", reward, reward))

    def check(self, rows: Sequence[int] | None = None) -> None:
        """Check the arrays, in ``rows`` only if given.

        Raises:
            OutsideError: A number is nan or inf. The message says which, where and when.
        """
        for name, array, flat in self._flat:
            # The product of huge but finite numbers overflows, so a suspicion is looked at element by element.
            if not math.isfinite(flat.dot(flat)):
                self._look(name, array, rows)

    def _look(self, name: str, array: Array, rows: Sequence[int] | None) -> None:
        bad = np.argwhere(~np.isfinite(array))
        for place in bad.tolist():
            if rows is None or place[0] in rows:
                value, where = array[tuple(place)], f", element {place[1:]}" if len(place) > 1 else ""
                raise OutsideError(
                    f"{self.env_id}: the {name} of environment {place[0]} is {value}{where} in step {self.step} "
                    "after the reset; the environment is at fault, or an action drove it out of its range"
                )
