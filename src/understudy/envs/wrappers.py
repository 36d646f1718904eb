"""Wrappers that an ``EnvSpec`` names, from the inside out; each is one gymnasium wrapper.

``time_feature``, ``frame_stack`` and ``atari`` give exactly the observations that policies of Stable-Baselines3 were
trained with (tests compare them with the originals).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, EnvSpec
from understudy.errors import UserError, suggest
from understudy.policies.spaces import has_channels_last, is_image

Env = gym.Env[Any, Any]


class TimeFeature(gym.Wrapper[Any, Any, Any, Any]):
    """Appends the share of the episode that is left, 1 - t / max_steps, to a vector or to the key ``observation``.

    As in sb3-contrib, the environment's own time limit goes before ``max_steps``, which counts where there is none.
    """

    def __init__(self, env: Env, max_steps: int | None = None) -> None:
        super().__init__(env)
        space = env.observation_space
        self._key = "observation" if isinstance(space, gym.spaces.Dict) else None
        part = space.spaces.get("observation") if isinstance(space, gym.spaces.Dict) else space
        if not isinstance(part, gym.spaces.Box) or len(part.shape) != 1:
            raise UserError(
                f"the wrapper time_feature needs a vector observation (or a key 'observation'), not {space}"
            )
        longer = _box(part, np.append(part.low, 0.0), np.append(part.high, 1.0))
        self._size, self._dtype = part.shape[0], part.dtype
        self.observation_space = longer if self._key is None else _replace(space, self._key, longer)
        self._max_steps = time_limit_of(env) or max_steps or 1000
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode with all time left."""
        self._t = 0
        obs, info = self.env.reset(seed=seed, options=options)
        return self._add(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, with a little less time left."""
        self._t += 1
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._add(obs), reward, terminated, truncated, info

    def _add(self, obs: Any) -> Any:
        longer = np.empty(self._size + 1, self._dtype)
        longer[:-1] = obs if self._key is None else obs[self._key]
        longer[-1] = 1 - self._t / self._max_steps
        return longer if self._key is None else {**obs, self._key: longer}


class FrameStack(gym.Wrapper[Any, Any, Any, Any]):
    """The last ``n`` observations side by side, oldest first, zeros before the first of an episode.

    As Stable-Baselines3's VecFrameStack: along the last axis, for images along the channels, which then come first
    ([n*C, H, W]) as its networks see them. Every key of a dict is stacked.
    """

    def __init__(self, env: Env, n: int) -> None:
        super().__init__(env)
        if not isinstance(n, int) or n < 1:
            raise UserError(f"the wrapper frame_stack needs n >= 1, not {n!r}")
        space = env.observation_space
        spaces = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}
        self._stacks = {key: _Stack(key, part, n) for key, part in spaces.items()}
        stacked: dict[str, gym.Space[Any]] = {key: stack.space for key, stack in self._stacks.items()}
        self._is_dict = isinstance(space, gym.spaces.Dict)
        self.observation_space = gym.spaces.Dict(stacked) if self._is_dict else stacked[""]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode from empty stacks."""
        obs, info = self.env.reset(seed=seed, options=options)
        for stack in self._stacks.values():
            stack.frames.fill(0)
        return self._push(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and push the new observation."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._push(obs), reward, terminated, truncated, info

    def _push(self, obs: Any) -> Any:
        if self._is_dict:
            return {key: stack.push(obs[key]) for key, stack in self._stacks.items()}
        return self._stacks[""].push(obs)


class _Stack:
    """The stack of one observation array; ``frames`` is rewritten at every push."""

    def __init__(self, key: str, space: gym.Space[Any], n: int) -> None:
        if not isinstance(space, gym.spaces.Box) or not space.shape:
            raise UserError(f"the wrapper frame_stack cannot stack {space}" + (f" (key {key!r})" if key else ""))
        # Stable-Baselines3 takes the shortest axis of an image for its channels.
        self._to_front = is_image(space) and int(np.argmin(space.shape)) == 2
        self._axis = 0 if is_image(space) else -1
        low, high = self._arrange(space.low), self._arrange(space.high)
        self._size = low.shape[self._axis]
        self.space = _box(space, np.repeat(low, n, self._axis), np.repeat(high, n, self._axis))
        if is_image(space) and has_channels_last(self.space):
            raise UserError(
                f"the wrapper frame_stack makes pictures {list(self.space.shape)} of {list(space.shape)}"
                + (f" (key {key!r})" if key else "")
                + ", and networks would take the last axis for their channels: stack fewer, or show larger pictures"
            )
        self.frames = np.zeros(self.space.shape, space.dtype)

    def _arrange(self, obs: Array) -> Array:
        return np.moveaxis(obs, -1, 0) if self._to_front else obs

    def push(self, obs: Array) -> Array:
        frames, size = self.frames, self._size
        if self._axis == 0:
            frames[:-size] = frames[size:]
            frames[-size:] = self._arrange(obs)
        else:
            frames[..., :-size] = frames[..., size:]
            frames[..., -size:] = obs
        # A fresh array: callers may keep it as the last observation of an episode.
        return frames.copy()


class PadObservation(gym.ObservationWrapper[Any, Any, Any]):
    """Appends zeros to a vector until it has ``size`` numbers."""

    def __init__(self, env: Env, size: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or space.shape[0] > size:
            raise UserError(f"the wrapper pad_observation needs a vector of at most {size} numbers, not {space}")
        zeros = np.zeros(size - space.shape[0])
        self.observation_space = _box(space, np.append(space.low, zeros), np.append(space.high, zeros))
        self._used, self._size, self._dtype = space.shape[0], size, space.dtype

    def observation(self, observation: Array) -> Array:
        """[used] -> [size]."""
        longer = np.zeros(self._size, self._dtype)
        longer[: self._used] = observation
        return longer


class Mission(gym.ObservationWrapper[Any, Any, Any]):
    """The text under the key ``mission`` (BabyAI, MiniGrid) as ``length`` bytes of UTF-8, zeros behind its end."""

    def __init__(self, env: Env, length: int) -> None:
        super().__init__(env)
        if not isinstance(length, int) or length < 1:
            raise UserError(f"the wrapper mission needs length >= 1, not {length!r}")
        space = env.observation_space
        text = space.spaces.get("mission") if isinstance(space, gym.spaces.Dict) else None
        # MiniGrid's own space of missions is not a gymnasium Text, but its elements are strings as well.
        if text is None or text.dtype is None or text.dtype.kind != "U":
            raise UserError(f"the wrapper mission needs a text under the observation key 'mission', not {space}")
        self._length = length
        self.observation_space = _replace(space, "mission", gym.spaces.Box(0, 255, (length,), np.uint8))

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Replace the string by [length] uint8.

        Raises:
            UserError: The text is longer; the message says how long.
        """
        text = observation["mission"].encode()
        if len(text) > self._length:
            raise UserError(
                f"the mission {observation['mission']!r} needs {len(text)} bytes: give the wrapper mission that length "
                f"or more, not {self._length}"
            )
        padded = np.zeros(self._length, np.uint8)
        padded[: len(text)] = np.frombuffer(text, np.uint8)
        return {**observation, "mission": padded}


def _time_limit(env: Env, max_steps: int) -> Env:
    if not isinstance(max_steps, int) or max_steps < 1:
        raise UserError(f"the wrapper time_limit needs max_steps >= 1, not {max_steps!r}")
    return gym.wrappers.TimeLimit(env, max_steps)


def _flatten_observation(env: Env) -> Env:
    return gym.wrappers.FlattenObservation(env)


def _atari(env: Env, **options: Any) -> Env:
    from understudy.envs.atari import AtariOptions, preprocess  # needs OpenCV

    return preprocess(env, AtariOptions.read(options))


WRAPPERS: dict[str, Callable[..., Env]] = {
    "time_feature": TimeFeature,
    "frame_stack": FrameStack,
    "pad_observation": PadObservation,
    "mission": Mission,
    "flatten_observation": _flatten_observation,
    "time_limit": _time_limit,
    "atari": _atari,
}


def wrap(env: Env, spec: EnvSpec) -> Env:
    """Put the wrappers of ``spec`` around an environment.

    Raises:
        UserError: A wrapper or one of its arguments is not known, or does not fit the observations.
    """
    from understudy.envs.atari import fold_stack

    for options in fold_stack(spec.wrappers):
        kind, arguments = check(spec.id, options)
        try:
            env = WRAPPERS[kind](env, **arguments)
        except UserError as error:
            raise UserError(f"{spec.id}: {error}") from error
    return env


def check(env_id: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a wrapper and its arguments.

    Raises:
        UserError: There is no such wrapper, or it does not take (or lacks) an argument.
    """
    arguments = dict(options)
    kind = arguments.pop("type", None)
    if kind not in WRAPPERS:
        known = f"{suggest(str(kind), WRAPPERS)} (there are {', '.join(sorted(WRAPPERS))})"
        raise UserError(f"{env_id}: the wrapper {kind!r} is not known{known}")
    try:
        inspect.signature(WRAPPERS[kind]).bind(None, **arguments)
    except TypeError as error:
        raise UserError(f"{env_id}: the wrapper {kind!r}: {error}") from error
    return kind, arguments


def time_limit_of(env: Env) -> int | None:
    """Return the steps after which an environment is truncated, None if it never is."""
    return env.spec.max_episode_steps if env.spec is not None else None


def _box(like: gym.spaces.Box, low: Array, high: Array) -> gym.spaces.Box:
    dtype: Any = like.dtype
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def _replace(space: gym.Space[Any], key: str, part: gym.Space[Any]) -> gym.spaces.Dict:
    assert isinstance(space, gym.spaces.Dict)
    return gym.spaces.Dict({**space.spaces, key: part})
