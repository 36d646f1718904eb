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
        id: Environment id, optionally with the module that registers it, ``"module:Name-v0"``.
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
        """Build the description that ``to_json`` wrote."""
        return EnvSpec(data["id"], dict(data["kwargs"]), tuple(data["wrappers"]), data["backend"])


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
    """

    obs: Observation
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    episode_start: Array
    teacher_acted: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(T, B)."""
        return self.reward.shape[0], self.reward.shape[1]

    def first(self, steps: int) -> Rollout:
        """Return the first ``steps`` steps, as views."""
        return Rollout(**{f.name: map_obs(lambda a: a[:steps], getattr(self, f.name)) for f in fields(Rollout)})


def map_obs(function: Any, obs: Any) -> Any:
    """Apply ``function`` to an observation array, or to each array of a dict observation."""
    if isinstance(obs, dict):
        return {key: function(value) for key, value in obs.items()}
    return function(obs)


def flatten_time(obs: Observation) -> Observation:
    """[T, B, ...] -> [T*B, ...] without a copy."""
    flat: Observation = map_obs(lambda a: np.reshape(a, (-1, *a.shape[2:])), obs)
    return flat
