"""What can only be known by starting a scene: its behaviours, spaces, and how many agents live in it together."""

from __future__ import annotations

import atexit
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.envs.unity.actions import ActionSpec
from understudy.envs.unity.companions import load_companion
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.player import Player, PlayerError
from understudy.envs.unity.roster import AgentKey, Behavior, Roster, Seen, each, matches
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
    if _name(spec) not in _looks:
        asked = [options.behavior] if options.behavior else []
        found = _visit(spec, options, asked, several=False)
        _looks[_name(spec)] = next(iter(found.values()))
    return _looks[_name(spec)]


def look_around(spec: EnvSpec, asked: Sequence[str] = ()) -> dict[str, Look]:
    """Start a scene and look at these behaviours, or at all that show themselves; returns what was seen by name.

    Raises:
        UserError: As ``look``.
    """
    return _visit(spec, UnityOptions.read(spec), list(asked), several=True)


def remember(spec: EnvSpec, seen: Look) -> None:
    """Take over what another process saw of a description."""
    _looks[_name(spec)] = seen


def _name(spec: EnvSpec) -> str:
    return json.dumps(spec.to_json(), sort_keys=True, default=str)


def _visit(spec: EnvSpec, options: UnityOptions, asked: list[str], several: bool) -> dict[str, Look]:
    for name, path in options.companions.items():
        if name in asked:
            raise UserError(f"{spec.id}: {name} is the behaviour that learns or is judged: it needs no companion")
        load_companion(str(path))
    player = Player(options, 0, lambda: None, first=True)
    roster, keeps = Roster(options.bins), False
    try:
        player.begin()
        found = look_at(player, options, roster, asked, several)
        keeps = options.editor
    except PlayerError as error:
        raise UserError(f"{spec.id}: the player {error}") from None
    finally:
        if keeps:
            _kept.append((player, roster.specs))
        else:
            player.close()
    return found


class _Found:
    """What was seen of one behaviour so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.first: tuple[AgentKey, Any] | None = None
        self.agents, self.masked = 0, False
        self._alive: set[AgentKey] = set()

    def take(self, seen: Seen) -> None:
        """Take in one exchange."""
        for key, _ in seen.ended:
            self._alive.discard(key)
        for key, info in each(seen.asking, self.name):
            self._alive.add(key)
            self.first = self.first or (key, info)
            self.masked = self.masked or bool(info.action_mask)
        self.agents = max(self.agents, len(self._alive))

    def tell(self, options: UnityOptions, roster: Roster) -> Look:
        """Describe it.

        Raises:
            UserError: Its teams have different actions, or nobody can act in it.
        """
        assert self.first is not None
        behavior = roster.behavior(*self.first, self.masked if options.masks is None else options.masks)
        for name, actions in roster.specs.items():
            if matches(name, self.name) and actions != behavior.actions:
                raise UserError(
                    f"{options.path}: the teams of {self.name} have different actions: name one, such as {name}"
                )
        behavior.action_space  # noqa: B018 (refuses what cannot be acted in)
        return Look(behavior, options.agents or self.agents)


def look_at(
    player: Player, options: UnityOptions, roster: Roster, asked: Sequence[str], several: bool
) -> dict[str, Look]:
    """Look around in a scene that has just begun; its agents rest meanwhile.

    Args:
        player: Greeted, and without an order yet.
        options: Of the scene.
        roster: Is told what the player shows.
        asked: Behaviours; those that show themselves where there are none.
        several: Whether more than one may show itself where none is asked for.

    Raises:
        PlayerError: The player died, hangs, or cannot be understood.
        UserError: There is no such behaviour (those that there are are named), or several and none is asked for.
    """
    found, order = {name: _Found(name) for name in asked}, Roster.reset_order()
    counted = 0
    for _ in range(_PATIENCE):
        player.send(order)
        seen = roster.read(player.receive())
        order = roster.orders({})
        if not asked and roster.specs and (seen.asking or len(roster.specs) > 1) and (several or not found):
            alone = [n for n in roster.specs if not any(matches(n, wanted) for wanted in options.companions)]
            names = alone if several or not alone else [_only(options.path, alone)]
            found |= {base: _Found(base) for name in names if (base := name.split("?")[0]) not in found}
        for one in found.values():
            one.take(seen)
        accompanied = all(any(matches(n, wanted) for n in roster.specs) for wanted in options.companions)
        counted += bool(found) and accompanied and all(one.first is not None for one in found.values())
        if counted > _COUNT:
            break
    for wanted in options.companions:
        if not any(matches(name, wanted) for name in roster.specs):
            raise UserError(_nobody(options, wanted, list(roster.specs)))
    wanted_names = list(found) or [options.behavior]
    for wanted in wanted_names:
        if wanted not in found or found[wanted].first is None:
            raise UserError(_nobody(options, wanted, list(roster.specs)))
    return {name: one.tell(options, roster) for name, one in found.items()}


def _only(path: str, names: list[str]) -> str:
    """Return the behaviour of a scene with one."""
    bases = sorted({name.split("?")[0] for name in names})
    if len(bases) > 1:
        raise UserError(
            f"{path} has the behaviours {', '.join(sorted(names))}: choose one, as in unity:{path}?behavior={bases[0]}"
        )
    return bases[0]


def _nobody(options: UnityOptions, wanted: str, names: list[str]) -> str:
    if not names:
        return f"{options.path}: no agent asked for a decision in {_PATIENCE} exchanges: does the scene have any?"
    if not any(matches(name, wanted) for name in names):
        bases = {name.split("?")[0] for name in names}
        return (
            f"{options.path} has no behaviour {wanted!r}{suggest(wanted, bases)} (there are {', '.join(sorted(names))})"
        )
    return f"{options.path}: no agent of {wanted} asked for a decision in {_PATIENCE} exchanges"


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
    remember(known, found)
    return known


def agents_of(spec: EnvSpec) -> int:
    """Return how many agents live in a player of the scene together.

    Raises:
        UserError: As ``look``.
    """
    return UnityOptions.read(spec).agents or look(spec).agents
