"""What agents do: the wire's action specification as a space, rows of it as messages, masks kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.envs.unity.messages import messages
from understudy.errors import UserError


class ActionSpec(NamedTuple):
    """The actions of a behaviour: so many continuous numbers in -1 to 1, and one choice out of each branch.

    With both, policies of one kind can act where continuous numbers are one of ``bins`` values each; their branches
    come first.
    """

    continuous: int
    branches: tuple[int, ...]
    bins: int = 0

    @property
    def hybrid(self) -> bool:
        """Whether there are both."""
        return bool(self.continuous and self.branches)

    @property
    def choices(self) -> tuple[int, ...]:
        """The size of every branch, those of binned numbers first; empty for continuous actions."""
        if not self.branches:
            return ()
        return (self.bins,) * self.continuous + self.branches

    def space(self, name: str) -> gym.Space[Any]:
        """Return the action space.

        Raises:
            UserError: There are no actions, or both kinds and no bins.
        """
        if not self.continuous and not self.branches:
            raise UserError(f"the behaviour {name} has no actions")
        if self.hybrid and not self.bins:
            raise UserError(
                f"the behaviour {name} has {self.continuous} continuous actions and the discrete branches "
                f"{list(self.branches)}; policies here act with one kind: let --env-bins 5 (kwargs bins: 5) cut each "
                "continuous action into so many values"
            )
        choices = self.choices
        if not choices:
            return gym.spaces.Box(-1, 1, (self.continuous,), np.float32)
        return gym.spaces.Discrete(choices[0]) if len(choices) == 1 else gym.spaces.MultiDiscrete(list(choices))

    def encode(self, action: Array, mask: Array | None) -> Any:
        """Return one agent's action as a message; a choice that is masked becomes an allowed one of its branch.

        Args:
            action: [A] numbers, [branches] choices, or one choice.
            mask: [sum of choices] 1 where allowed; None if all are.
        """
        message = messages().AgentAction()
        if not self.branches:
            message.continuous_actions.extend(np.clip(np.nan_to_num(action), -1, 1).tolist())
            return message
        picked = [int(choice) for choice in np.atleast_1d(action)]
        if mask is not None:
            picked = self._allowed(picked, mask)
        if self.continuous:
            values = np.array(picked[: self.continuous]) / (self.bins - 1) * 2 - 1
            message.continuous_actions.extend(values.tolist())
        message.discrete_actions.extend(picked[self.continuous :])
        return message

    def _allowed(self, picked: Sequence[int], mask: Array) -> list[int]:
        found, at = [], 0
        for choice, size in zip(picked, self.choices, strict=True):
            allowed = mask[at : at + size]
            if not allowed[choice] and allowed.any():
                # The nearest allowed one: policies that see the mask never come here.
                open_choices = np.flatnonzero(allowed)
                choice = int(open_choices[np.abs(open_choices - choice).argmin()])
            found.append(choice)
            at += size
        return found

    def mask(self, forbidden: Sequence[bool]) -> Array:
        """Return [sum of choices] float32, 1 where allowed, of the wire's list, which is true where forbidden."""
        found = np.ones(sum(self.choices), np.float32)
        if len(forbidden):
            found[self.continuous * self.bins :] -= np.array(forbidden, np.float32)
        return found

    def rest(self) -> Any:
        """Return the action of an agent that nobody acts for: zeros."""
        message = messages().AgentAction()
        message.continuous_actions.extend([0.0] * self.continuous)
        message.discrete_actions.extend([0] * len(self.branches))
        return message


def spec_of(parameters: Any, bins: int) -> ActionSpec:
    """Read the action specification of a behaviour.

    Raises:
        UserError: There is none: the scene was made with an ML-Agents package that is too old.
    """
    if not parameters.HasField("action_spec"):
        raise UserError(
            f"the behaviour {parameters.brain_name} does not describe its actions as ML-Agents does since release 12: "
            "build the scene with a newer package"
        )
    told = parameters.action_spec
    branches = tuple(told.discrete_branch_sizes)
    return ActionSpec(told.num_continuous_actions, branches, bins if told.num_continuous_actions and branches else 0)
