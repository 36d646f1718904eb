"""Policies that act for the agents of other behaviours than the one that is learnt or judged, by their modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from understudy.data import Array, EnvSpec
from understudy.envs.unity.actions import ActionSpec
from understudy.envs.unity.roster import AgentKey, Behavior, Roster, Seen, matches
from understudy.envs.unity.scene import Rows
from understudy.errors import UserError
from understudy.policies.arrays import ArrayPolicy, supports
from understudy.policies.family import action_sizes
from understudy.policies.spaces import members
from understudy.policies.stored import policy_file, read_policy


class Companion(Protocol):
    """Anything that acts as a policy."""

    observation_space: Any
    action_space: Any

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on a batch."""


class PlayerLike(Protocol):
    """A player, or what stands for one."""

    @property
    def pid(self) -> int | None:
        """Of its process; None where that is not ours."""

    def begin(self) -> None:
        """See ``Player``."""

    def send(self, rl_input: Any) -> None:
        """See ``Player``."""

    def receive(self) -> Any:
        """See ``Player``."""

    def close(self, leave: bool = True) -> None:
        """See ``Player``."""


def load_companion(path: str) -> Companion:
    """Load a policy for a process that steps environments: in plain NumPy where its network allows.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    file = policy_file(path)
    if file is not None:
        stored = read_policy(file)
        if supports(stored.spec):
            companion: Companion = ArrayPolicy(stored.spec, stored.arrays)
            return companion
    from understudy.teachers.load import load

    loaded: Companion = load(path, env=EnvSpec("unity:companion"))  # one that the file names is of no use here
    return loaded


class Companions:
    """The policies, and what the agents they act for see."""

    def __init__(self, policies: Mapping[str, Companion], bins: int) -> None:
        """Take policies by behaviour: ``Name`` for all its teams, ``Name?team=0`` for one.

        Args:
            policies: By behaviour.
            bins: See ``ActionSpec``.
        """
        self._policies, self._roster = dict(policies), Roster(bins)
        self._rows: dict[str, Rows] = {}
        self._memory: dict[AgentKey, tuple[Array, ...]] = {}
        self._seen = Seen([], [])

    def add(self, behavior: str, policy: Companion) -> None:
        """Let a policy act for one more behaviour, beginning with the agents that wait now."""
        self._policies[behavior] = policy

    def know(self, specs: Mapping[str, ActionSpec]) -> None:
        """Take in what a player said of its behaviours before."""
        self._roster.specs |= specs

    def rest(self) -> Any:
        """Return the order in which all agents that wait rest."""
        return self._roster.orders({})

    def clear(self) -> None:
        """Forget what agents remember: all episodes begin anew."""
        self._memory.clear()

    def read(self, output: Any) -> None:
        """Take in a ``UnityOutputProto``.

        Raises:
            PlayerError: What it says cannot be understood.
        """
        self._seen = self._roster.read(output)
        for key, _ in self._seen.ended:
            self._memory.pop(key, None)

    def fill(self, order: Any) -> None:
        """Put the actions of the agents that wait into a ``UnityRLInputProto``, in the place of those that rest.

        Raises:
            PlayerError: What an agent sees cannot be used.
            UserError: A policy does not fit its behaviour.
        """
        for name in dict.fromkeys(key[0] for key, _ in self._seen.asking):
            policy = self._of(name)
            if policy is None:
                continue
            told = order.agent_actions[name].value
            del told[:]
            for message in self._act(name, policy, [each for each in self._seen.asking if each[0][0] == name]):
                told.add().CopyFrom(message)

    def _of(self, name: str) -> Companion | None:
        exact = self._policies.get(name)
        return exact or next((p for wanted, p in self._policies.items() if matches(name, wanted)), None)

    def _act(self, name: str, policy: Companion, asking: list[tuple[AgentKey, Any]]) -> list[Any]:
        rows = self._rows.get(name)
        if rows is None or len(rows.masks) != len(asking):
            if rows is None:
                behavior = self._described(name, policy, *asking[0])
            else:
                behavior = rows.behavior
            rows = self._rows[name] = Rows(behavior, len(asking))
        for row, (key, info) in enumerate(asking):
            rows.see(rows.obs, row, key, info)
        keys = [key for key, _ in asking]
        fresh = np.array([key not in self._memory for key in keys])
        chosen, state = policy.predict(rows.obs, self._recall(keys), fresh, deterministic=True)
        if state is not None:
            for row, key in enumerate(keys):
                self._memory[key] = tuple(part[:, row].copy() for part in state)
        encode = rows.behavior.actions.encode
        return [encode(action, mask) for action, mask in zip(chosen, rows.masks, strict=True)]

    def _recall(self, keys: list[AgentKey]) -> tuple[Array, ...] | None:
        """Return what agents remember, [layers, N, width] each, zeros for new ones; None if nobody remembers."""
        known = next((self._memory[key] for key in keys if key in self._memory), None)
        if known is None:
            return None
        parts = [self._memory.get(key) or tuple(np.zeros_like(part) for part in known) for key in keys]
        return tuple(np.stack(each, axis=1) for each in zip(*parts, strict=True))

    def _described(self, name: str, policy: Companion, key: AgentKey, info: Any) -> Behavior:
        wanted = members(policy.observation_space)
        behavior = self._roster.behavior(key, info, masked="action_mask" in wanted)
        mine, theirs = policy.action_space, behavior.action_space
        fits = type(mine) is type(theirs) and mine.shape == theirs.shape
        if not fits or action_sizes(mine) != action_sizes(theirs):
            raise UserError(f"the companion of {name} acts in {mine}, but its agents take {theirs}")
        shown = members(behavior.observation_space)
        for sensor, space in wanted.items():
            if sensor not in shown:
                raise UserError(f"the companion of {name} sees {sensor!r}; its agents show {', '.join(shown)}")
            if sorted(space.shape or ()) != sorted(shown[sensor].shape or ()):
                raise UserError(
                    f"the companion of {name} sees observations of shape {space.shape}, but its agents show "
                    f"{shown[sensor].shape}"
                )
        return behavior


class Accompanied:
    """A player in which companions act for some of the agents; to others it is the same player."""

    def __init__(self, player: PlayerLike, companions: Companions) -> None:
        self._player, self._companions, self._begun = player, companions, False

    @property
    def pid(self) -> int | None:
        """Of the player."""
        return self._player.pid

    def begin(self) -> None:
        """See ``Player``."""
        self._player.begin()

    def send(self, rl_input: Any) -> None:
        """Give an order, with the companions' actions in it; a reset has none."""
        if rl_input.command:
            self._companions.clear()
        elif self._begun:
            self._companions.fill(rl_input)
        self._player.send(rl_input)

    def receive(self) -> Any:
        """Wait for what the player answers, and let the companions see it."""
        output = self._player.receive()
        self._companions.read(output)
        self._begun = True
        return output

    def close(self, leave: bool = True) -> None:
        """See ``Player``."""
        self._player.close(leave)
