"""Policies that were made for other bounds than the environment has."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array


class Clipped:
    """A policy whose actions are brought within an environment's bounds; in all else the policy itself."""

    def __init__(self, policy: Any, space: gym.spaces.Box) -> None:
        self._policy, self._space = policy, space

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act as the policy does, within the bounds."""
        action, state = self._policy.predict(observation, state, episode_start, deterministic)
        return np.clip(action, self._space.low, self._space.high).astype(self._space.dtype, copy=False), state


def within(policy: Any, space: gym.Space[Any]) -> Any:
    """Return a policy that stays within the bounds of an action space: itself, if its own space says that it does."""
    own = getattr(policy, "action_space", space)
    if not (isinstance(own, gym.spaces.Box) and isinstance(space, gym.spaces.Box) and own.shape == space.shape):
        return policy
    beyond = bool((own.low < space.low).any() or (own.high > space.high).any())
    return Clipped(policy, space) if beyond else policy
