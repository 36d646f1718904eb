"""Any gymnasium environments, stepped one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, EnvSpec, Observation
from understudy.envs.base import Step
from understudy.envs.build import build
from understudy.envs.checks import (
    CONTRACT_ERRORS,
    Finite,
    check_contract,
    check_observation,
    check_space,
    new_observation,
)
from understudy.envs.closing import close_all
from understudy.envs.quiet import quiet

_SLOW = 0.02
"""Seconds between two steps of all environments from which on each tells that it is alive: it costs nothing there."""


class GymnasiumVectorEnv:
    """B environments in preallocated [B, ...] arrays that every step overwrites.

    Differs from gymnasium's SyncVectorEnv in what it leaves out: no copies, no info dictionaries, no checker around
    each environment, the reset in the same step. With 8 environments it steps as fast as one plain ``gym.make`` does
    (0.94 times for HalfCheetah-v5, 1.01 for CartPole-v1), where SyncVectorEnv reaches 0.80 and 0.78 of that.
    """

    def __init__(
        self, spec: EnvSpec, num_envs: int, render: bool = False, alive: Callable[[], None] | None = None
    ) -> None:
        """Build the environments; ``alive`` is called before each is built, reset or (where steps are slow) stepped.

        Raises:
            UserError: The description is wrong, or its observations are of a kind that policies cannot see.
        """
        self.spec, self.num_envs = spec, num_envs
        self._rendered = render
        self._alive = alive = alive or _nobody_listens
        self._envs: list[gym.Env[Any, Any]] = []
        try:
            for i in range(num_envs):
                alive()
                self._envs.append(build(spec, render=render and i == 0))
        except BaseException:
            self.close()
            raise
        self.observation_space, self.action_space = self._envs[0].observation_space, self._envs[0].action_space
        check_space(spec.id, self.observation_space)
        self._steps, self._resets = [env.step for env in self._envs], [env.reset for env in self._envs]
        self._checked = False
        """Whether first observations were compared with their space."""
        self._rows, self._last = range(num_envs), 0.0
        self._obs, self._final = (new_observation(self.observation_space, num_envs) for _ in range(2))
        self._reward = np.zeros(num_envs, np.float32)
        self._ends = np.zeros((2, num_envs), bool)
        self._terminated, self._truncated = self._ends
        self._action_dtype: Any = self.action_space.dtype
        self._finite = Finite(spec.id, self._obs, self._reward)
        self._finite_final = Finite(spec.id, self._final, self._reward)

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Start new episodes everywhere, environment i with ``seeds[i]``.

        Raises:
            UserError: An environment does not keep Gymnasium's interface, or an observation is not of its space.
        """
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        with quiet(self.spec.id):
            for i, seed in enumerate(seeds):
                self._alive()
                try:
                    seen = self._resets[i](seed=int(seed))[0]
                except CONTRACT_ERRORS as error:
                    check_contract(self.spec.id, "reset", error)
                    raise
                if not self._checked:
                    check_observation(self.spec.id, self.observation_space, seen)
                _write(self._obs, i, seen)
        self._checked = True
        self._finite.step = 0
        self._finite.check()
        return self._obs

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step the active rows with [B, ...] actions; see ``VectorEnv``.

        Raises:
            UserError: An observation or reward is not finite, or an environment does not keep Gymnasium's interface.
        """
        rows: Any = self._rows if active is None else np.flatnonzero(active).tolist()
        # A copy: environments may keep the action they were given, and callers reuse their buffers.
        acts: Any = np.asarray(actions).astype(self._action_dtype)
        obs, reward, terminated, truncated = self._obs, self._reward, self._terminated, self._truncated
        plain, steps = not isinstance(obs, dict), self._steps
        self._ends.fill(False)
        ended: list[int] = []
        now = perf_counter()
        slow, self._last = now - self._last > _SLOW, now
        try:
            for i in rows:
                if slow:
                    self._alive()
                seen, reward[i], ends, late, _ = steps[i](acts[i])
                if ends or late:
                    # Both at once is a termination: the task is over, whatever the clock says.
                    (terminated if ends else truncated)[i] = True
                    ended.append(i)
                    _write(self._final, i, seen)
                elif plain:
                    obs[i] = seen
                else:
                    _write(obs, i, seen)
        except CONTRACT_ERRORS as error:
            check_contract(self.spec.id, "step", error)
            raise
        finite = self._finite
        finite.step += 1
        if ended:
            self._finite_final.step = finite.step
            self._finite_final.check(ended)
            for i in ended:
                self._alive()
                _write(obs, i, self._resets[i]()[0])
        finite.check()
        return Step(obs, reward, terminated, truncated, self._final if ended else None)

    def render(self) -> Array | None:
        """Return a picture of environment 0, [H, W, 3] uint8, if it was made with ``render``."""
        if not self._rendered:
            return None
        picture: Any = self._envs[0].render()
        return np.asarray(picture)

    def close(self) -> None:
        """Close the environments; may be called twice."""
        close_all(self._envs, self.spec.id)


def _nobody_listens() -> None:
    """Stand in for whoever watches."""


def _write(into: Observation, row: int, obs: Any) -> None:
    if isinstance(into, dict):
        for key, array in into.items():
            array[row] = obs[key]
    else:
        into[row] = obs
