"""Where an environment's players come from: a new process, the editor, or a hub that shares them among runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from understudy.envs.unity.actions import ActionSpec
from understudy.envs.unity.companions import Accompanied, Companion, Companions, PlayerLike, load_companion
from understudy.envs.unity.hub import ADDRESS, Lent
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.player import Player
from understudy.envs.unity.probe import take_kept


class Starter:
    """Starts the players of one environment, with companions beside them.

    Attributes:
        shared: Whether a hub gives them, which has companions of its own.
    """

    def __init__(self, options: UnityOptions, alive: Callable[[], None]) -> None:
        self.shared = ADDRESS in os.environ
        self._options, self._alive = options, alive
        self._companions: dict[str, Companion] | None = None

    def start(self, number: int, seed: int) -> tuple[PlayerLike, Mapping[str, ActionSpec] | None]:
        """Start a player; returns what is known of its behaviours if it has been greeted already, else None.

        Raises:
            UserError: It cannot be started, or a companion cannot be loaded.
        """
        if self.shared:
            return Lent(self._options.behavior, number, seed, self._alive), None
        kept = take_kept(self._options)
        if kept is not None:
            return self._accompany(*kept), kept[1]
        return self._accompany(Player(self._options, seed, self._alive), {}), None

    def _accompany(self, player: Player, specs: Mapping[str, ActionSpec]) -> PlayerLike:
        wanted = self._options.companions
        if not wanted:
            return player
        if self._companions is None:
            self._companions = {name: load_companion(str(path)) for name, path in wanted.items()}
        companions = Companions(self._companions, self._options.bins)
        companions.know(specs)
        return Accompanied(player, companions)
