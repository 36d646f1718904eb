"""What can only be known by starting a scene: its behaviours, spaces, and how many agents live in it together."""

from __future__ import annotations

import atexit
import json
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.envs.unity.actions import ActionSpec
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.player import Player, PlayerError
from understudy.envs.unity.roster import AgentKey, Behavior, Roster, each, matches
from understudy.errors import UserError, suggest

_PATIENCE = 200
"""Exchanges in which the wanted behaviour must show itself."""
_COUNT = 10
"""Exchanges, once it has, in which agents are counted."""


class Look(NamedTuple):
    """What a scene showed."""

    behavior: Behavior
    agents: int

    @property
    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Of observations and actions."""
        return self.behavior.observation_space, self.behavior.action_space


_looks: dict[str, Look] = {}
_kept: list[tuple[Player, dict[str, ActionSpec]]] = []
"""The editor's, which cannot be started again: who steps it takes this one, with what it said of its behaviours."""


def take_kept(options: UnityOptions) -> tuple[Player, dict[str, ActionSpec]] | None:
    """Return the player of the editor that was looked at, once, if there is one, and the actions in it."""
    return _kept.pop() if options.editor and _kept else None


@atexit.register
def _close_kept() -> None:
    while _kept:
        _kept.pop()[0].close()


def look(spec: EnvSpec) -> Look:
    """Start a scene, look, and end it; once for every description in this process.

    Raises:
        UserError: It cannot be started, speaks another version, or has not the behaviour that is asked for.
    """
    options = UnityOptions.read(spec)
    name = json.dumps(spec.to_json(), sort_keys=True, default=str)
    if name not in _looks:
        player = Player(options, 0, lambda: None, first=True)
        roster, keeps = Roster(options.bins), False
        try:
            player.begin()
            _looks[name] = look_at(player, options, roster)
            keeps = options.editor
        except PlayerError as error:
            raise UserError(f"{spec.id}: the player {error}") from None
        finally:
            if keeps:
                _kept.append((player, roster.specs))
            else:
                player.close()
    return _looks[name]


def look_at(player: Player, options: UnityOptions, roster: Roster) -> Look:
    """Look around in a scene that has just begun; its agents rest meanwhile.

    Raises:
        PlayerError: The player died, hangs, or cannot be understood.
        UserError: There is no such behaviour (those that there are are named), or several and none is asked for.
    """
    wanted, order = options.behavior, Roster.reset_order()
    first: tuple[AgentKey, Any] | None = None
    alive: set[AgentKey] = set()
    agents, masked, counted = 0, False, 0
    for _ in range(_PATIENCE):
        player.send(order)
        seen = roster.read(player.receive())
        order = roster.orders({})
        if not wanted and roster.specs and (seen.asking or len(roster.specs) > 1):
            wanted = _only(options.path, list(roster.specs))
        for key, _ in seen.ended:
            alive.discard(key)
        for key, info in each(seen.asking, wanted):
            alive.add(key)
            first = first or (key, info)
            masked = masked or bool(info.action_mask)
        agents = max(agents, len(alive))
        counted += first is not None
        if counted > _COUNT:
            break
    if first is None:
        raise UserError(_nobody(options, list(roster.specs)))
    behavior = roster.behavior(*first, masked if options.masks is None else options.masks)
    for name, actions in roster.specs.items():
        if matches(name, wanted) and actions != behavior.actions:
            raise UserError(f"{options.path}: the teams of {wanted} have different actions: name one, such as {name}")
    behavior.action_space  # noqa: B018 (refuses what cannot be acted in)
    return Look(behavior, options.agents or agents)


def _only(path: str, names: list[str]) -> str:
    """Return the behaviour of a scene with one."""
    bases = sorted({name.split("?")[0] for name in names})
    if len(bases) > 1:
        raise UserError(
            f"{path} has the behaviours {', '.join(sorted(names))}: choose one, as in unity:{path}?behavior={bases[0]}"
        )
    return bases[0]


def _nobody(options: UnityOptions, names: list[str]) -> str:
    if not names:
        return f"{options.path}: no agent asked for a decision in {_PATIENCE} exchanges: does the scene have any?"
    if not any(matches(name, options.behavior) for name in names):
        bases = {name.split("?")[0] for name in names}
        return (
            f"{options.path} has no behaviour {options.behavior!r}{suggest(options.behavior, bases)} "
            f"(there are {', '.join(sorted(names))})"
        )
    return f"{options.path}: no agent of {options.behavior} asked for a decision in {_PATIENCE} exchanges"


def settled(spec: EnvSpec) -> EnvSpec:
    """Return the description with what only a look can tell: behaviour, number of agents, whether there are masks.

    Raises:
        UserError: As ``look``.
    """
    options = UnityOptions.read(spec)
    if options.settled:
        return spec
    found = look(spec)
    name = options.behavior or found.behavior.name.split("?")[0]
    told = {"behavior": name, "agents": found.agents, "masks": found.behavior.masked, "settled": True}
    known = replace(spec, kwargs={**spec.kwargs, **told})
    _looks[json.dumps(known.to_json(), sort_keys=True, default=str)] = found
    return known


def agents_of(spec: EnvSpec) -> int:
    """Return how many agents live in a player of the scene together.

    Raises:
        UserError: As ``look``.
    """
    return UnityOptions.read(spec).agents or look(spec).agents
