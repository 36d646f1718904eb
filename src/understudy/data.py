"""What flows through Understudy: environment descriptions, rollouts and targets, with their shapes.

T is time, B the batch of environments, N any number of states, A the action dimension, P the number of distribution
parameters. This module does not import PyTorch, so that rollout workers can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Observation = Array | dict[str, Array]
"""One array, or one array per key for a dict space; the leading axis is the batch."""


@dataclass(frozen=True)
class EnvSpec:
    """An environment, described well enough to build it again in another process.

    Attributes:
        id: Environment id, optionally with the module that registers it, ``"module:Name-v0"``; or a class or function
            that makes it, ``"module:Name"``.
        kwargs: Keyword arguments of the constructor.
        wrappers: Wrappers from the inside out, each ``{"type": name, ...arguments}`` (see ``envs.wrappers``).
        backend: ``auto`` takes the fastest library that is installed and has the id.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[Mapping[str, Any], ...] = ()
    backend: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """Return a plain description that ``from_json`` reads back."""
        return {
            "id": self.id,
            "kwargs": dict(self.kwargs),
            "wrappers": [dict(w) for w in self.wrappers],
            "backend": self.backend,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EnvSpec:
        """Build the description that ``to_json`` wrote.

        Raises:
            TypeError: A part of it is of another kind.
        """
        env_id, wrappers, backend = data["id"], tuple(data["wrappers"]), data["backend"]
        if not isinstance(env_id, str) or not isinstance(backend, str):
            raise TypeError(f"the id and the backend of an environment are texts, not {env_id!r} and {backend!r}")
        if not all(isinstance(wrapper, Mapping) and isinstance(wrapper.get("type"), str) for wrapper in wrappers):
            raise TypeError(f"the wrappers of the environment {env_id} are mappings with a type, not {wrappers}")
        return EnvSpec(env_id, dict(data["kwargs"]), wrappers, backend)


class Target(NamedTuple):
    """What a teacher says about states: the parameters of its action distribution, and perhaps its value.

    Continuous parameters are in unit actions, where -1 and 1 are the bounds of the action space.
    """

    params: Tensor
    """[..., P], laid out as the teacher's ``family`` says."""
    value: Tensor | None = None
    """[...], the teacher's estimate of the return, in its own reward scale."""
    mask: Tensor | None = None
    """[..., A] float32, 1 for the action components that the state's task has (several tasks, padded actions)."""


@dataclass
class Trace:
    """What reinforcement learning needs to know of the student that acted.

    Attributes:
        choice: [T, B, A] the student's action in unit actions, before it was clipped to the bounds; or [T, B] or
            [T, B, parts] indices.
        log_prob: [T, B] float32, of the choice under the policy that made it (mu of V-trace, the centre of PPO).
        value: [T, B] float32, the student's value of the observation it acted on.
        bootstrap: [T, B] float32, the value of the final observation where an episode was truncated, elsewhere 0.
        last_obs: [B, ...] what was seen after the last step.
        last_value: [B] float32, its value.
        last_start: [B] bool, ``last_obs`` is the first of an episode.
        state: [B, S] float32, the student's memory before the first step: h and c of every layer; S = 0 without.
    """

    choice: Array
    log_prob: Array
    value: Array
    bootstrap: Array
    last_obs: Observation
    last_value: Array
    last_start: Array
    state: Array

    def cut(self, steps: slice, envs: slice) -> Trace:
        """Return some steps of some environments, as views."""
        timed = ("choice", "log_prob", "value", "bootstrap")
        values = {f.name: getattr(self, f.name) for f in fields(Trace)}
        return Trace(
            **{
                name: map_obs(lambda a: a[steps, envs], value) if name in timed else map_obs(lambda a: a[envs], value)
                for name, value in values.items()
            }
        )


@dataclass
class Sequel:
    """What a replay needs to know beside the rollout: what was seen after every step.

    Attributes:
        final_obs: [T, B, ...] the last observation of an episode, where one ended in that step; elsewhere undefined.
        last_obs: [B, ...] what was seen after the last step; where an episode ended in it, the first of the next one.
        value: [T, B] float32, max_a q(obs, a) of the student that acted; these four only with ``Mixture.values``.
        chosen: [T, B] float32, its q(obs, action); NaN without.
        final_value: [T, B] float32, its value of the final observation where an episode was truncated.
        last_value: [B] float32, of ``last_obs``.
    """

    final_obs: Observation
    last_obs: Observation
    value: Array
    chosen: Array
    final_value: Array
    last_value: Array

    def cut(self, steps: slice, envs: slice) -> Sequel:
        """Return some steps of some environments, as views."""
        timed = {name: getattr(self, name) for name in ("final_obs", "value", "chosen", "final_value")}
        cut = {name: map_obs(lambda a: a[steps, envs], array) for name, array in timed.items()}
        return Sequel(**cut, last_obs=map_obs(lambda a: a[envs], self.last_obs), last_value=self.last_value[envs])


@dataclass
class Rollout:
    """Experience of B environments over T steps; every array is preallocated and written in place.

    Attributes:
        obs: [T, B, ...] what the behaviour saw before acting; one array per key for dict observations.
        action: [T, B, ...] what was sent to the environment, in its own units.
        reward: [T, B] float32.
        terminated: [T, B] bool, the task ended; nothing is bootstrapped.
        truncated: [T, B] bool, time ran out; bootstraps from the final observation.
        episode_start: [T, B] bool, ``obs[t]`` is the first of an episode; a recurrent state is reset before it.
        teacher_acted: [T, B] bool.
        trace: What the student knew while it acted; None where nothing learns from the student's own actions.
        sequel: What a replay needs beside; None where there is none.
    """

    obs: Observation
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    episode_start: Array
    teacher_acted: Array
    trace: Trace | None = None
    sequel: Sequel | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(T, B)."""
        return self.reward.shape[0], self.reward.shape[1]

    def first(self, steps: int) -> Rollout:
        """Return the first ``steps`` steps, as views."""
        return self._cut(slice(steps), slice(None))

    def columns(self, envs: slice) -> Rollout:
        """Return some of the environments, as views."""
        return self._cut(slice(None), envs)

    def _cut(self, steps: slice, envs: slice) -> Rollout:
        timed = {f.name: getattr(self, f.name) for f in fields(Rollout) if f.name not in _NESTED}
        cut = {name: map_obs(lambda a: a[steps, envs], array) for name, array in timed.items()}
        trace = None if self.trace is None else self.trace.cut(steps, envs)
        return Rollout(**cut, trace=trace, sequel=None if self.sequel is None else self.sequel.cut(steps, envs))

    def copy_from(self, other: Rollout) -> None:
        """Overwrite every array by another rollout's of the same shape."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(Rollout) if f.name not in _NESTED]
        if self.trace is not None and other.trace is not None:
            pairs += [(getattr(self.trace, f.name), getattr(other.trace, f.name)) for f in fields(Trace)]
        if self.sequel is not None and other.sequel is not None:
            pairs += [(getattr(self.sequel, f.name), getattr(other.sequel, f.name)) for f in fields(Sequel)]
        for mine, theirs in pairs:
            for key, array in mine.items() if isinstance(mine, dict) else [("", mine)]:
                array[...] = theirs[key] if isinstance(theirs, dict) else theirs


_NESTED = ("trace", "sequel")


def with_prefix(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def map_obs(function: Any, obs: Any) -> Any:
    """Apply ``function`` to an observation array, or to each array of a dict observation."""
    if isinstance(obs, dict):
        return {key: function(value) for key, value in obs.items()}
    return function(obs)


def flatten_time(obs: Observation) -> Observation:
    """[T, B, ...] -> [T*B, ...] without a copy."""
    flat: Observation = map_obs(lambda a: np.reshape(a, (-1, *a.shape[2:])), obs)
    return flat
