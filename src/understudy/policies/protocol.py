"""What every policy can do, native or foreign, and what is known about where it comes from."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import gymnasium as gym

from understudy.data import Array, EnvSpec, Observation, Target
from understudy.errors import UserError
from understudy.policies.family import Family

if TYPE_CHECKING:  # a policy's description travels to workers, which have no PyTorch
    from torch import Tensor

State = tuple[Array, Array] | None
"""Recurrent state for people and environments: (h, c), each [layers, B, width]; None without memory."""
TensorState: TypeAlias = "tuple[Tensor, Tensor] | None"


@dataclass
class About:
    """What a policy is and where it comes from, for people and for ``understudy inspect``."""

    algorithm: str = "understudy"
    source: str = ""
    env: EnvSpec | None = None
    notes: list[str] = field(default_factory=list)


@runtime_checkable
class PolicyLike(Protocol):
    """What every teacher and student can do; ``understudy.load`` returns one."""

    about: About
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    @property
    def family(self) -> Family:
        """The distribution family of ``label``."""

    @property
    def parameters_count(self) -> int:
        """How many numbers it takes to act."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act as Stable-Baselines3 models do."""

    def label(self, obs: Observation, state: TensorState = None, episode_start: Any = None) -> tuple[Target, Any]:
        """Return distribution parameters for [N, ...] observations, and the next recurrent state."""

    def initial_state(self, batch: int) -> TensorState:
        """Return the state at the start of episodes; None without memory."""


def check_arguments(predict: Any, name: str, *given: Any, **named: Any) -> None:
    """Refuse a ``predict`` that cannot be called as policies are.

    Raises:
        UserError: It takes other arguments.
    """
    try:
        signature = inspect.signature(predict)
    except (TypeError, ValueError):  # of C, it cannot be known
        return
    try:
        signature.bind(*given, **named)
    except TypeError:
        raise UserError(
            f"predict of {name} takes {signature}, but policies are asked as those of Stable-Baselines3 are: "
            "(observation, state=None, episode_start=None, deterministic=False); a function of observations alone "
            "can be given itself"
        ) from None
