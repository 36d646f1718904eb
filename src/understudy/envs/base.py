"""The one contract that every environment library is brought to (DESIGN.md, decision 2).

Resets are hidden: an environment that ends an episode starts the next one in the same step, and the last observation
of the ended episode is kept in ``final_obs``. Termination and truncation are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium as gym

from understudy.data import Array, EnvSpec, Observation


class Step(NamedTuple):
    """What B environments answer to B actions."""

    obs: Observation
    """[B, ...] the observation to act on next: after an ended episode, the first of the new one."""
    reward: Array
    """[B] float32."""
    terminated: Array
    """[B] bool: the task ended."""
    truncated: Array
    """[B] bool: time ran out (never true where ``terminated`` is)."""
    final_obs: Observation | None
    """[B, ...] last observations of ended episodes, defined only in rows that ended; None if none did."""


class VectorEnv(Protocol):
    """B environments stepped together. Arrays that are returned may be overwritten by the next call."""

    spec: EnvSpec
    num_envs: int
    observation_space: gym.Space[Any]
    """Of one environment."""
    action_space: gym.Space[Any]
    """Of one environment."""

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Start new episodes everywhere, environment i with ``seeds[i]``; later episodes follow from that seed."""

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step with [B, ...] actions in environment units.

        Rows where ``active`` is false need not be stepped, and what is returned for them has no meaning (evaluation
        stops environments whose episode is over).
        """

    def render(self) -> Array | None:
        """Return an RGB picture [H, W, 3] uint8 of environment 0; None if it was not made with ``render``."""

    def close(self) -> None:
        """Free everything; may be called twice."""


class OwnClocksEnv(VectorEnv, Protocol):
    """B environments that wait for actions at different times, as agents of a scene do; see ``rollouts.own_clocks``.

    The arrays are those of the last step, or of the reset, and are overwritten by the next.
    """

    own_clocks: Literal[True]
    restarts: int
    """Simulators that failed and were replaced."""

    @property
    def asks(self) -> Array:
        """[B] bool: rows that wait for an action; the other observations have no meaning."""

    @property
    def stepped(self) -> Array:
        """[B] bool: rows whose last action was answered; reward, ends and final observations count there only."""

    @property
    def cut(self) -> Array:
        """[B] bool: rows whose last action never will be, because the simulator failed.

        Their episode ended with what was seen before that action.
        """

    @property
    def lost_episodes(self) -> int:
        """Unfinished episodes that went with simulators."""

    def take_stats(self) -> dict[str, float]:
        """Return what the environments reported of themselves since the last call."""
