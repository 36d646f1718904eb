"""Families of action distributions: what the P numbers of a policy's output mean.

| family             | action space              | parameters                              | deterministic action  |
|--------------------|---------------------------|-----------------------------------------|-----------------------|
| categorical        | Discrete(n)               | n logits                                | argmax                |
| multi_categorical  | MultiDiscrete/MultiBinary | logits of every part, one after another | argmax of each part   |
| q_values           | Discrete(n)               | n action values                         | argmax                |
| gaussian           | Box                       | A means, A log standard deviations      | mean, clipped         |
| squashed_gaussian  | Box                       | A means and A log stds before the tanh  | tanh(mean)            |
| deterministic      | Box                       | A actions                               | the action, clipped   |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.errors import UserError
from understudy.policies.spaces import starts

DISCRETE = ("categorical", "multi_categorical", "q_values")
CONTINUOUS = ("gaussian", "squashed_gaussian", "deterministic")
FAMILIES = DISCRETE + CONTINUOUS


@dataclass(frozen=True)
class Family:
    """A named family and its sizes: ``(n,)``, the parts of a multi-discrete action, or ``(A,)``."""

    name: str
    sizes: tuple[int, ...]

    @property
    def param_size(self) -> int:
        """P, the number of parameters."""
        return sum(self.sizes) * (2 if self.name in ("gaussian", "squashed_gaussian") else 1)

    @property
    def continuous(self) -> bool:
        """Whether actions are real numbers."""
        return self.name in CONTINUOUS

    @property
    def stochastic(self) -> bool:
        """Whether the family has a density: neither a deterministic action nor action values have one."""
        return self.name not in ("deterministic", "q_values")


def action_sizes(space: gym.Space[Any]) -> tuple[int, ...]:
    """Return the sizes that a family over ``space`` has.

    Raises:
        UserError: The action space is of a kind that has no family.
    """
    if isinstance(space, gym.spaces.Box):
        return (int(np.prod(space.shape)),)
    if isinstance(space, gym.spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(int(n) for n in np.asarray(space.nvec).ravel())
    if isinstance(space, gym.spaces.MultiBinary):
        return (2,) * int(np.prod(space.shape))
    raise UserError(f"an action space of type {type(space).__name__} is not supported")


def family_for(name: str, space: gym.Space[Any]) -> Family:
    """Return the family ``name`` over an action space, refusing one that does not fit.

    Raises:
        UserError: Unknown name, or a continuous family over discrete actions and the reverse.
    """
    if name not in FAMILIES:
        raise UserError(f"distribution family {name!r} is unknown; there are {', '.join(FAMILIES)}")
    family = Family(name, action_sizes(space))
    if family.continuous != isinstance(space, gym.spaces.Box):
        raise UserError(f"a {name} policy cannot act in {space}")
    if name in ("categorical", "q_values") and len(family.sizes) != 1:
        raise UserError(f"a {name} policy needs one discrete action, not {space}")
    return family


class ActionMap:
    """Unit actions (-1 to 1 at the bounds) to environment actions and back; the identity where a bound is infinite.

    Actions of whole numbers are rounded to the nearest one. Where both bounds are equal every unit action means their
    value, whose own unit action is 0. Discrete actions pass through, but for the ``start`` of a space that has one,
    which is added.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.shape = tuple(space.shape or ())
        self.dtype = np.dtype(space.dtype) if space.dtype is not None else np.dtype(np.float32)
        self.whole = self.dtype.kind in "iu"
        start = np.array(starts(space), np.int64)
        self.start = start[0] if isinstance(space, gym.spaces.Discrete) else start
        """[] or [parts], what is added to indices; a Box has none."""
        self._moved = bool(start.any())
        if isinstance(space, gym.spaces.Box):
            low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
            finite = np.isfinite(low) & np.isfinite(high)
            self.constant = low == high
            # Rounded to float32, a bound may lie outside: 0.1 does.
            self.low = np.where(low < space.low.ravel(), np.nextafter(low, np.float32(np.inf)), low)
            self.high = np.where(high > space.high.ravel(), np.nextafter(high, np.float32(-np.inf)), high)
            with np.errstate(invalid="ignore"):  # of infinite bounds, which the conditions leave out
                self.center = np.where(finite, (low + high) / 2, 0).astype(np.float32)
                self.half = np.where(finite & ~self.constant, (high - low) / 2, 1).astype(np.float32)
            self.unit_low = np.where(finite, -1, -np.inf).astype(np.float32)

    def to_env(self, action: np.ndarray, unit: bool = True) -> np.ndarray:
        """[N, A] or [N] or [N, parts] -> [N, *space.shape], clipped to the bounds, in the space's dtype."""
        if isinstance(self.space, gym.spaces.Box):
            scaled = self.center + self.half * action if unit else action
            action = self._within(np.clip(scaled, self.low, self.high))
        elif self._moved:
            action = action + self.start
        return action.reshape(-1, *self.shape).astype(self.dtype, copy=False)

    def _within(self, action: np.ndarray) -> np.ndarray:
        """Bring clipped float32 actions [N, A] into the space's dtype, and into its bounds there."""
        if self.dtype == np.float32:
            return action
        exact: np.ndarray = (np.rint(action) if self.whole else action).astype(self.dtype)
        return np.clip(exact, self.space.low.ravel(), self.space.high.ravel())  # type: ignore[attr-defined]

    def to_unit(self, action: np.ndarray) -> np.ndarray:
        """[N, *space.shape] -> [N, A] unit actions, or [N] / [N, parts] indices."""
        flat = action.reshape(len(action), -1)
        if isinstance(self.space, gym.spaces.Box):
            unit: np.ndarray = ((flat - self.center) / self.half).astype(np.float32)
            return unit
        flat = flat[:, 0] if isinstance(self.space, gym.spaces.Discrete) else flat
        return flat - self.start if self._moved else flat
