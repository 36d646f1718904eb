"""What teachers that consist of several teachers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.policy import PolicyLike
from understudy.teachers.acting import EnsembleActor, TasksActor


class Members:
    """Several teachers that act through one actor, the same in workers and here."""

    _actor: EnsembleActor | TasksActor
    """Who plays; set by the subclass."""

    def __init__(self, members: Sequence[PolicyLike]) -> None:
        self.members = tuple(members)

    @property
    def parameters_count(self) -> int:
        """How many numbers it takes to act: those of all members."""
        return sum(member.parameters_count for member in self.members)

    def initial_state(self, batch: int) -> Any:
        """Return the state of every member for all rows, None for those without; None where no member has a memory."""
        states = tuple(member.initial_state(batch) for member in self.members)
        return None if all(state is None for state in states) else states

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act; see ``Policy.predict`` and ``acting``."""
        return self._actor.predict(observation, state, episode_start, deterministic)


def refuse_memory(members: Sequence[PolicyLike]) -> None:
    """Refuse recurrent teachers.

    Raises:
        UserError: Naming the first one.
    """
    for member in members:
        if member.initial_state(1) is not None:
            raise UserError(
                f"the teacher {member.about.source or member.about.algorithm} has a memory (LSTM), and only teachers "
                "without one can be averaged: distil it alone first, into a student without --student.lstm"
            )
