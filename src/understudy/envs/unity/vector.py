"""Unity scenes as a vector environment: one row for every agent, each with its own episodes and its own clock.

Agents of a scene need not ask for decisions together. A ``step`` therefore says which rows moved (``stepped``) and
which wait for an action (``asks``). A player that fails costs its own running episodes: it is replaced, and the actions
of its agents that were never answered are ``cut``.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from understudy.data import Array, EnvSpec, Observation
from understudy.envs.base import Step
from understudy.envs.unity.companions import PlayerLike
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.player import PlayerError
from understudy.envs.unity.probe import look, settled
from understudy.envs.unity.roster import Behavior, Roster
from understudy.envs.unity.scene import SILENT, Rows, Scene
from understudy.envs.unity.starting import Starter
from understudy.errors import OutsideError, UserError, tell

_NOBODY = "without an agent that asked for a decision"
_COUNT = 10
"""Steps in which agents without a slot are counted before they are told of: not all need ask together."""
_STARTS = 3
"""Players that may fail in a row before one has ever run; a first look at the scene has worked."""


class UnityVectorEnv:
    """B agents in B / ``agents`` players, which run side by side.

    There is no reset but the first, and those that the caller asks for. Every row is stepped whatever ``active`` says:
    an agent that waits must be given something to do.

    Attributes:
        own_clocks: True: rows move when their agents do.
        restarts: Players that failed and were replaced.
        lost_episodes: Running episodes that went with them, and those of agents that vanished without an end.
    """

    own_clocks: Literal[True] = True

    def __init__(self, spec: EnvSpec, num_envs: int, alive: Callable[[], None] | None = None) -> None:
        """Describe the players; they are started by the first ``reset``.

        Args:
            spec: The scene.
            num_envs: B.
            alive: Called while players are waited for, again and again.

        Raises:
            UserError: The description is wrong, or B is no multiple of the agents of a player.
        """
        self.spec, self.num_envs = settled(spec), num_envs
        self._options = options = UnityOptions.read(self.spec)
        agents = options.agents
        if num_envs % agents:
            nearest = max(round(num_envs / agents), 1) * agents
            raise UserError(f"{spec.id} has {agents} agents in each player: take {nearest} rows, not {num_envs}")
        count = num_envs // agents
        if options.editor and count > 1:
            raise UserError(f"{spec.id}: the editor runs one scene: take --num-envs 1, not {count}")
        self._starter = Starter(options, alive or (lambda: None))
        self._players: list[PlayerLike | None] = [None] * count
        self._seeds, self._attempts = [0] * count, [0] * count
        self._rows: Rows | None = None
        self._scenes = [
            Scene(
                self._give_rows,
                options.behavior,
                bool(options.masks),
                range(i * agents, (i + 1) * agents),
                options.bins,
            )
            for i in range(count)
        ]
        self.restarts = self._lost = 0
        self._short = 0
        # At exit, too: whatever happens, no player outlives this.
        self._ends = weakref.finalize(self, _close, self._players)

    def _give_rows(self, behavior: Behavior) -> Rows:
        if self._rows is None:
            self._rows = Rows(behavior, self.num_envs)
        return self._rows

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Of one agent."""
        return self._behavior.observation_space

    @property
    def action_space(self) -> gym.Space[Any]:
        """Of one agent."""
        return self._behavior.action_space

    @property
    def _behavior(self) -> Behavior:
        return look(self.spec).behavior if self._rows is None else self._rows.behavior

    @property
    def asks(self) -> Array:
        """[B] bool; see ``OwnClocksEnv``."""
        return self._known.asks

    @property
    def stepped(self) -> Array:
        """[B] bool; see ``OwnClocksEnv``."""
        return self._known.stepped

    @property
    def cut(self) -> Array:
        """[B] bool; see ``OwnClocksEnv``."""
        return self._known.cut

    @property
    def _known(self) -> Rows:
        assert self._rows is not None, "reset first"
        return self._rows

    @property
    def lost_episodes(self) -> int:
        """Episodes that ended with their player, or whose agents vanished."""
        return self._lost + sum(scene.lost_episodes for scene in self._scenes)

    @property
    def pids(self) -> list[int | None]:
        """Of the players."""
        return [None if player is None else player.pid for player in self._players]

    def take_stats(self) -> dict[str, float]:
        """Return the means of what the scenes reported of themselves since the last call."""
        found: dict[str, list[float]] = {}
        for scene in self._scenes:
            for name, values in scene.roster.stats.items():
                found.setdefault(name, []).extend(values)
            scene.roster.stats.clear()
        return {name: float(np.mean(values)) for name, values in found.items()}

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Begin new episodes everywhere; a player's seed is that of its first row.

        The seed counts when a player starts: at the first reset, and with ``reseed`` at every one.

        Raises:
            UserError: A player cannot be started.
        """
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        fresh = [i for i, player in enumerate(self._players) if player is None or self._options.reseed]
        for i in fresh:
            self._end(i, leave=True)
            self._seeds[i], self._attempts[i] = int(seeds[i * self._options.agents]), 0
        for i in [i for i in fresh if self._start(i)]:  # all begin to start before the first is waited for
            self._greet(i)
        if self._rows is not None:
            self._rows.flags[...] = False
            self._rows.open[...] = False
        for i in range(len(self._players)):
            self._begin_episodes(i)
        self._wait_all()
        return self._known.obs

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Give the rows that wait their actions [B, ...]; return when in every player somebody waits again.

        Raises:
            OutsideError: Players failed more often than ``restarts`` allows.
        """
        rows = self._known
        orders = [scene.order(actions) for scene in self._scenes]
        rows.flags[...] = False
        for player, order in zip(self._players, orders, strict=True):
            assert player is not None
            player.send(order)
        self._wait_all()
        self._warn_surplus()
        final = rows.final if (rows.terminated | rows.truncated).any() else None
        return Step(rows.obs, rows.reward, rows.terminated, rows.truncated, final)

    def _wait_all(self) -> None:
        """Take in what all players answer, until somebody waits for an action: in each, or in any if they are shared.

        Other runs wait for this one in all shared players, so none may be held up by another: all move together.
        """
        for i in range(len(self._players)):
            self._wait(i)
        quiet = 0
        while self._starter.shared and not (self._rows is not None and self._rows.asks.any()):
            quiet += 1
            for i, (player, scene) in enumerate(zip(self._players, self._scenes, strict=True)):
                assert player is not None
                if quiet % SILENT == 0:  # not seconds: other runs may learn for long between two exchanges
                    self._replace(i, PlayerError(f"went on for {SILENT} exchanges {_NOBODY}"))
                    self._begin_episodes(i)
                else:
                    player.send(scene.roster.orders({}))
            for i in range(len(self._players)):
                self._wait(i)

    def _wait(self, i: int) -> None:
        """Take in what a player answers, and replace it where that fails."""
        while True:
            try:
                self._take_in(i)
                return
            except PlayerError as error:
                self._replace(i, error)
                self._begin_episodes(i)

    def _take_in(self, i: int) -> None:
        player, scene, limit = self._players[i], self._scenes[i], self._options.timeout_wait
        assert player is not None
        begin = time.perf_counter()
        while not scene.take_in(player.receive()) and not self._starter.shared:
            if time.perf_counter() - begin > limit:
                raise PlayerError(f"went on for {limit:g} s {_NOBODY}")
            player.send(scene.roster.orders({}))

    def _begin_episodes(self, i: int) -> None:
        player = self._players[i]
        assert player is not None
        self._scenes[i].clear()
        player.send(Roster.reset_order())

    def _start(self, i: int) -> bool:
        """Start a player; returns whether it must be greeted."""
        # A player that replaces another must not live the same episodes again.
        self._players[i], known = self._starter.start(i, self._seeds[i] + 500_009 * self._attempts[i])
        self._scenes[i].roster.specs |= known or {}
        return known is None

    def _greet(self, i: int) -> None:
        player = self._players[i]
        assert player is not None
        try:
            player.begin()
        except PlayerError as error:
            self._replace(i, error)

    def _replace(self, i: int, error: PlayerError) -> None:
        """Begin again with a fresh player; its agents' running episodes are lost.

        Raises:
            OutsideError: There are no restarts left, or so many failed before any ran that another would fail as well.
        """
        while True:
            lost = self._drop(i)
            line, limit = f"{self.spec.id}: player {i} {error}", self._options.restarts
            if 0 <= limit <= self.restarts:
                raise OutsideError(f"{line}{f' (all {limit} restarts are used up)' if limit else ''}")
            if self._rows is None and self._attempts[i] + 1 == _STARTS:
                raise OutsideError(f"{line} ({_STARTS} players in a row, before any of them ran)")
            self.restarts += 1
            count = f"{self.restarts} of {limit}" if limit >= 0 else str(self.restarts)
            tell(f"understudy: {line}; {lost} unfinished episodes lost, restart {count}\n")
            self._attempts[i] += 1
            player = self._start(i) and self._players[i]
            try:
                if player:
                    player.begin()
                return
            except PlayerError as again:
                error = again

    def _drop(self, i: int) -> int:
        """End a player; returns how many episodes went with it. Of this step only the ends that it told count."""
        rows, scene, agents = self._rows, self._scenes[i], self._options.agents
        lost = len(scene.living)
        self._lost += lost
        if rows is not None:
            part = slice(i * agents, (i + 1) * agents)
            halfway = rows.stepped[part] & ~(rows.terminated | rows.truncated)[part]
            rows.cut[part] |= rows.open[part] | halfway
            rows.stepped[part] &= ~halfway
            rows.asks[part] = rows.open[part] = False
        scene.clear()
        self._end(i, leave=False)
        return lost

    def _warn_surplus(self) -> None:
        most = max(scene.surplus for scene in self._scenes)
        self._short += bool(most)
        if self._short == _COUNT:
            agents = self._options.agents
            tell(
                f"understudy: {self.spec.id}: {most} agents have no slot and rest; give the scene --env-agents "
                f"{agents + most}\n"
            )

    def _end(self, i: int, leave: bool) -> None:
        player, self._players[i] = self._players[i], None
        if player is not None:
            player.close(leave)

    def render(self) -> Array | None:
        """Return None: the player has a window of its own, without ``no_graphics``."""
        return None

    def close(self) -> None:
        """End the players; may be called twice."""
        self._ends()
        self._players[:] = [None] * len(self._players)


def _close(players: list[PlayerLike | None]) -> None:
    for player in players:
        if player is not None:
            player.close()
