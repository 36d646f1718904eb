"""Who acts while data is gathered: the student, the teacher, or a mixture of both, perhaps with noise.

The random numbers of a row come from that environment's own generator, so a rollout does not depend on how the
environments are shared out over workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation
from understudy.errors import UserError
from understudy.policies.family import ActionMap


class Actor(Protocol):
    """Anything with the ``predict`` of a policy."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on a batch."""


@dataclass(frozen=True)
class Mixture:
    """The behaviour of one rollout.

    Attributes:
        beta: Probability that the teacher acts at a step (Ross 2011, DAgger); 1 the teacher, 0 the student.
        noise: Standard deviation of Gaussian noise added to the action, in unit actions; for discrete actions the
            probability of a uniformly random one.
        noise_share: Share of the steps on which noise is added.
    """

    beta: float = 1.0
    noise: float = 0.0
    noise_share: float = 1.0


@dataclass
class Draws:
    """The random numbers of one rollout, [T, B] each (noise [T, B, A] or random actions [T, B, ...])."""

    teacher_acts: Array
    noisy: Array
    noise: Array


class Behaviour:
    """Acts in B environments by a mixture; keeps the recurrent state of student and teacher."""

    def __init__(self, action_space: gym.Space[Any], seeds: Sequence[int]) -> None:
        self._space, self._map = action_space, ActionMap(action_space)
        self._rngs = [np.random.default_rng((seed, 1)) for seed in seeds]
        self._states: dict[str, Any] = {}
        self._names: dict[str, Actor] = {}
        self._mixture = Mixture()
        self._draws: Draws | None = None

    def rng_state(self) -> list[dict[str, Any]]:
        """Return the generators' states, for exact resume."""
        return [dict(rng.bit_generator.state) for rng in self._rngs]

    def set_rng_state(self, states: list[dict[str, Any]]) -> None:
        """Set what ``rng_state`` returned."""
        for rng, state in zip(self._rngs, states, strict=True):
            rng.bit_generator.state = state

    def begin(self, mixture: Mixture, student: Actor | None, teacher: Actor | None, steps: int) -> None:
        """Draw the random numbers of the next ``steps`` steps.

        Raises:
            UserError: The mixture needs a policy that is not there.
        """
        if mixture.beta > 0 and teacher is None:
            raise UserError("behaviour: beta > 0 needs a teacher that can act")
        if mixture.beta < 1 and student is None:
            raise UserError("behaviour: beta < 1 needs a student")
        actors = {"teacher": teacher if mixture.beta > 0 else None, "student": student if mixture.beta < 1 else None}
        self._names = {name: actor for name, actor in actors.items() if actor is not None}
        self._states = {name: self._states.get(name) for name in self._names}
        self._mixture = mixture
        rows = [self._draw(rng, steps, mixture) for rng in self._rngs]
        self._draws = Draws(*(np.stack(column, axis=1) for column in zip(*rows, strict=True)))

    def _draw(self, rng: np.random.Generator, steps: int, mixture: Mixture) -> tuple[Array, Array, Array]:
        teacher_acts = rng.random(steps) < mixture.beta
        noisy = rng.random(steps) < mixture.noise_share
        if isinstance(self._space, gym.spaces.Box):
            scale = (mixture.noise * self._map.half).reshape(self._space.shape)
            noise = rng.standard_normal((steps, *self._space.shape), dtype=np.float32) * scale
            return teacher_acts, noisy, noise
        noisy &= rng.random(steps) < mixture.noise
        highs = getattr(self._space, "nvec", None)
        highs = highs if highs is not None else getattr(self._space, "n", 2)
        if isinstance(self._space, gym.spaces.MultiBinary):
            highs = np.full(self._space.shape, 2)
        noise = rng.integers(0, highs, (steps, *(self._space.shape or ()))) + self._map.start
        return teacher_acts, noisy, noise

    def act(self, step: int, obs: Observation, episode_start: Array) -> tuple[Array, Array]:
        """Return actions [B, ...] in environment units, and [B] bool whether the teacher acted."""
        assert self._draws is not None
        actions: dict[str, Array] = {}
        for name, actor in self._names.items():
            # Every policy sees every step: one with memory must remember what happened while another acted.
            actions[name], self._states[name] = actor.predict(obs, self._states[name], episode_start, True)
        teacher_acts = self._draws.teacher_acts[step]
        if len(actions) == 2:
            pick = teacher_acts.reshape(-1, *(1,) * (actions["student"].ndim - 1))
            action = np.where(pick, actions["teacher"], actions["student"])
        else:
            (action,) = actions.values()
        if self._mixture.noise:
            action = self._disturb(action, step)
        return action, teacher_acts

    def _disturb(self, action: Array, step: int) -> Array:
        assert self._draws is not None
        noisy = self._draws.noisy[step].reshape(-1, *(1,) * (action.ndim - 1))
        if isinstance(self._space, gym.spaces.Box):
            disturbed = np.clip(action + self._draws.noise[step], self._space.low, self._space.high)
        else:
            disturbed = self._draws.noise[step]
        return np.where(noisy, disturbed, action).astype(action.dtype, copy=False)
