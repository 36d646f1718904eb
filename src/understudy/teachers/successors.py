"""Which environment of today fits a policy that was trained in one of yesterday; pure data and two functions.

Measured over 20 episodes each with agents of the rl-baselines3-zoo: TQC Walker2d-v3 returns 4476 in v5 and 3831 in v4,
TRPO Walker2d-v3 returns 3500 in v5 and 4917 in v4, so v4 stands first (its physics are v3's). Ant-v3 saw 84 contact
forces that were always zero: Ant-v4 leaves them out (use_contact_forces=True brings non-zero ones, and ruins returns).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Successor:
    """An environment of today: id, arguments, wrappers that bring its observations to the old shape, and a remark."""

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[Mapping[str, Any], ...] = ()
    note: str = ""


_V4 = "the physics of v2 and v3"
_V5 = "physics and rewards differ slightly from v2 and v3"
_PAD_ANT: tuple[Mapping[str, Any], ...] = ({"type": "pad_observation", "size": 111},)

_TABLE: dict[str, tuple[Successor, ...]] = {
    "Ant-v2": (Successor("Ant-v4", {}, _PAD_ANT, "contact forces were always zero: 84 zeros are appended"),),
    "Humanoid-v2": (Successor("Humanoid-v4", note="v5 has 348 observations instead of 376"),),
    "HumanoidStandup-v2": (Successor("HumanoidStandup-v4", note="v5 has 348 observations instead of 376"),),
    "Pendulum-v0": (Successor("Pendulum-v1"),),
    "CartPole-v0": (Successor("CartPole-v0"), Successor("CartPole-v1", note="500 steps instead of 200")),
    "BipedalWalker-v2": (Successor("BipedalWalker-v3"),),
    "BipedalWalkerHardcore-v2": (Successor("BipedalWalkerHardcore-v3"),),
    "LunarLander-v2": (Successor("LunarLander-v3"),),
    "LunarLanderContinuous-v2": (
        Successor("LunarLanderContinuous-v3"),
        Successor("LunarLander-v3", {"continuous": True}, note="the same environment"),
    ),
}
_TABLE |= {name.replace("v2", "v3"): _TABLE[name] for name in ("Ant-v2", "Humanoid-v2")}
for _name in ("HalfCheetah", "Hopper", "Walker2d", "Swimmer"):
    for _version in ("v2", "v3"):
        _TABLE[f"{_name}-{_version}"] = (Successor(f"{_name}-v4", note=_V4), Successor(f"{_name}-v5", note=_V5))
for _name in ("InvertedPendulum", "InvertedDoublePendulum", "Reacher", "Pusher"):
    _TABLE[f"{_name}-v2"] = (Successor(f"{_name}-v4", note=_V4),)

_ATARI = re.compile(r"^(?P<game>[A-Z][A-Za-z0-9]*)NoFrameskip-v[04]$")
_PANDA = re.compile(r"^Panda(?P<task>[A-Z]\w*)-v[12]$")


def find_successors(env_id: str) -> list[Successor]:
    """Return what fits today, best first; an id that needs no successor comes back as it is."""
    if env_id in _TABLE:
        return list(_TABLE[env_id])
    if match := _ATARI.match(env_id):
        # NoFrameskip-v4 had no sticky actions and repeated none: the wrapper repeats.
        kwargs = {"frameskip": 1, "repeat_action_probability": 0.0}
        return [Successor(f"ALE/{match['game']}-v5", kwargs, note="made to step as NoFrameskip-v4 did")]
    if match := _PANDA.match(env_id):
        return [Successor(f"Panda{match['task']}-v3", note="of panda-gym 3")]
    return [Successor(env_id)]


def successors(env_id: str) -> list[str]:
    """Return the ids that fit today, best first."""
    return [successor.id for successor in find_successors(env_id)]
