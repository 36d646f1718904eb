"""One player's agents on the rows of a vector environment: each row is a slot that one agent at a time lives in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from understudy.data import Array, Observation
from understudy.envs.checks import new_observation
from understudy.envs.unity.player import PlayerError
from understudy.envs.unity.roster import AgentKey, Behavior, Roster, Seen, each, reward_of
from understudy.envs.unity.sensors import MASK, SensorError

SILENT = 1000
"""Exchanges without a word after which an agent without an end has vanished, and its slot is free."""


class Rows:
    """What the rows of all scenes show; the arrays of a ``Step``, overwritten by every step."""

    def __init__(self, behavior: Behavior, count: int) -> None:
        self.behavior = behavior
        self.obs, self.final = (new_observation(behavior.observation_space, count) for _ in range(2))
        self.reward = np.zeros(count, np.float32)
        self.flags = np.zeros((5, count), bool)
        self.terminated, self.truncated, self.stepped, self.asks, self.cut = self.flags
        self.open = np.zeros(count, bool)
        """Rows whose agent was given an action and has not answered."""
        self.masks: list[Array | None] = [None] * count

    def see(self, into: Observation, row: int, key: AgentKey, info: Any) -> None:
        """Write what an agent sees.

        Raises:
            PlayerError: It is not what its sensors showed before, or not finite.
        """
        behavior = self.behavior
        if len(info.observations) != len(behavior.sensors):
            raise PlayerError(
                f"shows {len(info.observations)} observations of the agent {key[1]} instead of {len(behavior.sensors)}"
            )
        try:
            for sensor, seen in zip(behavior.sensors, info.observations, strict=True):
                (into[sensor.key] if isinstance(into, dict) else into)[row] = sensor.read(seen)
        except SensorError as error:
            raise PlayerError(f"sent what cannot be used, of the agent {key[1]} of {key[0]}: {error}") from None
        if len(info.action_mask) not in (0, sum(behavior.actions.branches)):
            raise PlayerError(f"sent an action mask of {len(info.action_mask)} entries of the agent {key[1]}")
        mask = behavior.actions.mask(info.action_mask) if behavior.actions.branches else None
        if into is self.obs:
            self.masks[row] = mask
        if behavior.masked and isinstance(into, dict):
            into[MASK][row] = mask


class Scene:
    """The agents of one player, on the rows ``first`` to ``first + agents - 1``.

    Attributes:
        roster: What the player has shown.
        lost_episodes: Of agents that vanished without an end.
        surplus: The most agents that lived without a slot together.
    """

    def __init__(self, rows: Callable[[Behavior], Rows], wanted: str, masked: bool, part: range, bins: int) -> None:
        """Begin with empty slots.

        Args:
            rows: Gives the rows; called when the first agent shows what it sees.
            wanted: The behaviour.
            masked: Whether observations hold a mask.
            part: The scene's rows.
            bins: See ``ActionSpec``.
        """
        self.roster = Roster(bins)
        self.lost_episodes = self.surplus = 0
        self._give_rows, self._wanted, self._masked, self._part = rows, wanted, masked, part
        self._rows: Rows | None = None
        self.clear()

    def clear(self) -> None:
        """Empty all slots: the episodes of a reset are new ones."""
        self._row_of: dict[AgentKey, int] = {}
        self._held: dict[int, AgentKey] = {}
        """Who was in a slot last."""
        self._free = list(self._part)
        self._heard = dict.fromkeys(self._part, 0)
        self._resting: set[AgentKey] = set()
        """Who asked when no slot was free; until the end of its episode it gets none, as a part is no episode."""
        self._lost: set[AgentKey] = set()
        """Who vanished without an end; should it come back, the same holds."""
        self._exchanges = 0

    @property
    def living(self) -> list[int]:
        """The rows whose episode is going on."""
        return sorted(self._row_of.values())

    def order(self, actions: Array) -> Any:
        """Return the order that gives every waiting agent the action of its row of [B, ...]."""
        rows = self._rows
        if rows is None:  # of several scenes others have begun
            return self.roster.orders({})
        spec, told = rows.behavior.actions, {}
        for key, row in self._row_of.items():
            if rows.asks[row]:
                told[key] = spec.encode(actions[row], rows.masks[row])
                rows.open[row] = True
        return self.roster.orders(told)

    def take_in(self, output: Any) -> bool:
        """Write what the player answers into the rows; returns whether an agent with a slot waits for an action.

        Raises:
            PlayerError: Something in it cannot be used.
        """
        self._exchanges += 1
        seen = self.roster.read(output)
        rows = self._known_rows(seen)
        if rows is None:
            return False
        for key, info in each(seen.ended, self._wanted):
            self._resting.discard(key)
            self._lost.discard(key)
            row = self._row_of.get(key)
            if row is None:  # it ended before it ever acted, or had no slot
                continue
            rows.see(rows.final, row, key, info)  # first: an end that cannot be read is none
            self._finish(rows, row, info)
            (rows.truncated if info.max_step_reached else rows.terminated)[row] = True
            del self._row_of[key]
            self._free.append(row)
        waiting = False
        for key, info in each(seen.asking, self._wanted):
            row = self._row_of.get(key)
            if row is None:
                row = self._settle(key)
                if row is None:
                    continue
            else:
                self._finish(rows, row, info)
            rows.see(rows.obs, row, key, info)
            rows.asks[row] = waiting = True
            self._heard[row] = self._exchanges
        self.surplus = max(self.surplus, len(self._resting))
        self._give_up_silent(rows)
        return waiting

    def _finish(self, rows: Rows, row: int, info: Any) -> None:
        rows.reward[row] = reward_of(info)
        rows.stepped[row] = rows.open[row]
        rows.open[row] = False

    def _known_rows(self, seen: Seen) -> Rows | None:
        if self._rows is None:
            first = next(each(seen.asking, self._wanted), None)
            if first is not None:
                self._rows = self._give_rows(self.roster.behavior(*first, self._masked))
        return self._rows

    def _settle(self, key: AgentKey) -> int | None:
        """Give an agent that begins an episode a slot: the one it had, else the first free."""
        if key in self._lost or key in self._resting:
            return None
        if not self._free:
            self._resting.add(key)
            return None
        had = [row for row in self._free if self._held.get(row) == key]
        row = had[0] if had else min(self._free)
        self._free.remove(row)
        self._row_of[key], self._held[row] = row, key
        return row

    def _give_up_silent(self, rows: Rows) -> None:
        """Free the slots of agents that vanished: whoever counts on their episodes must not wait for ever."""
        for key, row in list(self._row_of.items()):
            if self._exchanges - self._heard[row] >= SILENT:
                del self._row_of[key]
                rows.cut[row], rows.open[row] = rows.open[row], False
                self.lost_episodes += 1
                self._free.append(row)
                self._lost.add(key)
