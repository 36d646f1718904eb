"""Who is in a scene: the behaviours that it has shown, and the agents that wait for an action, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from understudy.envs.unity import channels
from understudy.envs.unity.actions import ActionSpec, spec_of
from understudy.envs.unity.messages import RESET, STEP, messages
from understudy.envs.unity.player import PlayerError
from understudy.envs.unity.sensors import Sensor, SensorError, sensors_of, space_of

AgentKey = tuple[str, int]
"""An agent: its behaviour's name and its id."""


class Seen(NamedTuple):
    """What one exchange showed."""

    ended: list[tuple[AgentKey, Any]]
    """Agents whose episode ended, and their last ``AgentInfoProto``."""
    asking: list[tuple[AgentKey, Any]]
    """Agents that wait for an action."""


class Behavior(NamedTuple):
    """What the agents of a behaviour see and do."""

    name: str
    sensors: tuple[Sensor, ...]
    actions: ActionSpec
    masked: bool

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Of one agent."""
        return space_of(self.sensors, sum(self.actions.choices) if self.masked else 0)

    @property
    def action_space(self) -> gym.Space[Any]:
        """Of one agent."""
        return self.actions.space(self.name)


def matches(name: str, wanted: str) -> bool:
    """Say whether a behaviour's full name, such as ``Soccer?team=0``, is the wanted one: that name or all its teams."""
    return name == wanted or name.split("?")[0] == wanted


class Roster:
    """Follows one player's messages.

    Attributes:
        specs: The actions of every behaviour that was shown so far.
        stats: What the scene reported of itself since they were last taken.
    """

    def __init__(self, bins: int) -> None:
        self.specs: dict[str, ActionSpec] = {}
        self.stats: dict[str, list[float]] = {}
        self._bins = bins
        self._order: dict[str, list[int]] = {}

    def read(self, output: Any) -> Seen:
        """Take in a ``UnityOutputProto``.

        Raises:
            PlayerError: An agent belongs to a behaviour that was not described, or a side channel is malformed.
            UserError: The scene was made with a package that is too old.
        """
        for parameters in output.rl_initialization_output.brain_parameters:
            self.specs[parameters.brain_name] = spec_of(parameters, self._bins)
        seen, self._order = Seen([], []), {}
        for name, infos in output.rl_output.agentInfos.items():
            if infos.value and name not in self.specs:
                raise PlayerError(f"did not describe the behaviour {name!r}")
            for info in infos.value:
                (seen.ended if info.done else seen.asking).append(((name, info.id), info))
                if not info.done:
                    self._order.setdefault(name, []).append(info.id)
        self._read_stats(output.rl_output.side_channel)
        return seen

    def _read_stats(self, data: bytes) -> None:
        try:
            for channel, payload in channels.unpack(data):
                if channel == channels.STATS:
                    name, value = channels.stats(payload)
                    self.stats.setdefault(name, []).append(value)
        except ValueError as error:
            raise PlayerError(f"sent a malformed side channel ({error})") from None

    def orders(self, actions: Mapping[AgentKey, Any]) -> Any:
        """Return the order of a step: an action for everybody who waits, zeros for those that ``actions`` leaves out.

        The player tells them apart by their place in its last message alone.
        """
        order = messages().Message().unity_input.rl_input
        order.command = STEP
        for name, ids in self._order.items():
            told, rest = order.agent_actions[name].value, None
            for number in ids:
                action = actions.get((name, number))
                if action is None:
                    rest = action = rest or self.specs[name].rest()
                told.add().CopyFrom(action)
        return order

    @staticmethod
    def reset_order() -> Any:
        """Return the order that begins all episodes anew."""
        order = messages().Message().unity_input.rl_input
        order.command = RESET
        return order

    def behavior(self, key: AgentKey, info: Any, masked: bool) -> Behavior:
        """Describe the behaviour of an agent, as it shows itself.

        Raises:
            PlayerError: It sees nothing, or what it sees cannot be read.
        """
        try:
            sensors = sensors_of(info.observations)
        except SensorError as error:
            raise PlayerError(f"has an agent whose observations cannot be read: {error}") from None
        if not sensors:
            raise PlayerError(f"has an agent of the behaviour {key[0]} that sees nothing")
        actions = self.specs[key[0]]
        return Behavior(key[0], sensors, actions, masked and bool(actions.branches))


def reward_of(info: Any) -> float:
    """Return what an agent earned: its own reward and its group's.

    Raises:
        PlayerError: It is not finite.
    """
    reward = info.reward + info.group_reward
    if not np.isfinite(reward):
        raise PlayerError(f"gave the agent {info.id} the reward {reward}")
    return float(reward)


def each(seen: list[tuple[AgentKey, Any]], wanted: str) -> Iterator[tuple[AgentKey, Any]]:
    """Yield the agents of the wanted behaviour."""
    return ((key, info) for key, info in seen if matches(key[0], wanted))
