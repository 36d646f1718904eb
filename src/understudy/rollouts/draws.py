"""The random numbers of one rollout.

Those of a row come from that environment's own generator, so a rollout does not depend on how the environments are
shared out over workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.policies.family import ActionMap, Family

if TYPE_CHECKING:
    from understudy.rollouts.behaviour import Mixture


@dataclass
class Draws:
    """The random numbers of one rollout, [T, B] each (noise [T, B, A] or random actions [T, B, ...])."""

    teacher_acts: Array
    noisy: Array
    noise: Array
    sample: Array
    """[T, B, K] standard normal (continuous) or Gumbel noise for the student's sample; K = 0 where it does not."""
    teacher_sample: Array
    """The same for the teacher's."""


def draw(
    mixture: Mixture,
    action_map: ActionMap,
    rngs: Sequence[np.random.Generator],
    steps: int,
    families: Sequence[Family | None],
) -> Draws:
    """Draw what a mixture needs for ``steps`` steps.

    Args:
        mixture: The behaviour.
        action_map: Of the environments.
        rngs: One generator per environment.
        steps: T.
        families: Of student and teacher, where they sample.
    """
    scales = mixture.noise if isinstance(mixture.noise, tuple) else (mixture.noise,) * len(rngs)
    rows = [
        (*_of_one(rng, steps, mixture, scale, action_map), *(_sample_noise(rng, steps, family) for family in families))
        for rng, scale in zip(rngs, scales, strict=True)
    ]
    return Draws(*(np.stack(column, axis=1) for column in zip(*rows, strict=True)))


def _of_one(
    rng: np.random.Generator, steps: int, mixture: Mixture, scale: float, action_map: ActionMap
) -> tuple[Array, Array, Array]:
    """Return the first three of ``Draws`` for one environment, whose noise has this scale."""
    space = action_map.space
    teacher_acts = rng.random(steps) < mixture.beta
    noisy = rng.random(steps) < mixture.noise_share
    if isinstance(space, gym.spaces.Box):
        if mixture.uniform and action_map.whole:
            return teacher_acts, noisy, _whole_numbers(rng, steps, space)
        if mixture.uniform:
            unit = rng.uniform(-1, 1, (steps, *space.shape)).astype(np.float32)
            return teacher_acts, noisy, action_map.to_env(unit.reshape(steps, -1))
        half = (scale * action_map.half).reshape(space.shape)
        noise = rng.standard_normal((steps, *space.shape), dtype=np.float32) * half
        return teacher_acts, noisy, noise
    noisy &= rng.random(steps) < (1.0 if mixture.uniform else scale)
    highs = getattr(space, "nvec", None)
    highs = highs if highs is not None else getattr(space, "n", 2)
    if isinstance(space, gym.spaces.MultiBinary):
        highs = np.full(space.shape, 2)
    noise = rng.integers(0, highs, (steps, *(space.shape or ()))) + action_map.start.reshape(space.shape or ())
    return teacher_acts, noisy, noise


def _whole_numbers(rng: np.random.Generator, steps: int, space: gym.spaces.Box) -> Array:
    """Return [T, *shape] whole numbers within the bounds, each equally likely."""
    low: Any = space.low
    high: Any = space.high
    drawn: Array = rng.integers(low, high, (steps, *space.shape), low.dtype, endpoint=True)
    return drawn


def _sample_noise(rng: np.random.Generator, steps: int, family: Family | None) -> Array:
    """Return [T, K] float32: standard normal for continuous families, Gumbel for discrete ones."""
    if family is None:
        return np.zeros((steps, 0), np.float32)
    if family.continuous:
        return rng.standard_normal((steps, family.sizes[0]), dtype=np.float32)
    return rng.gumbel(size=(steps, family.param_size)).astype(np.float32)
