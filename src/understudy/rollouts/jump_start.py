"""The teacher plays the first steps of every episode, the student the rest (Uchendu 2022), as one actor."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.data import Array
from understudy.rollouts.behaviour import Actor


class JumpStart:
    """Acts as a policy does, for evaluation episodes of both together; rollouts know ``Mixture.jump``."""

    def __init__(self, teacher: Actor, student: Actor, steps: int) -> None:
        """Keep both; the teacher plays ``steps`` steps, by its mode."""
        self._teacher, self._student, self._steps = teacher, student, steps

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on a batch [B, ...]; the state is that of both and the steps [B] that episodes have."""
        theirs, mine, age = (None, None, None) if state is None else state
        # Both see every step: one with memory must know what happened while the other acted.
        guided, theirs = self._teacher.predict(observation, theirs, episode_start, True)
        action, mine = self._student.predict(observation, mine, episode_start, deterministic)
        if age is None:
            age = np.zeros(len(action), np.int64)
        elif episode_start is not None:
            age = np.where(episode_start, 0, age)
        pick = (age < self._steps).reshape(-1, *(1,) * (action.ndim - 1))
        return np.where(pick, guided, action), (theirs, mine, age + 1)
