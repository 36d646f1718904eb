"""The flags of Unity scenes, spelt as ``mlagents-learn`` spells them; they become arguments of the environment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import yaml

from understudy.config import read_mapping
from understudy.data import EnvSpec
from understudy.envs.unity.options import is_unity
from understudy.errors import UserError

WITH_SCENES = ("train", "kickstart", "distill", "evaluate", "compare", "play")
"""Commands that have these flags."""

# Flag, argument of the environment, type, help. Defaults stand in ``UnityOptions``.
_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("--base-port", "base_port", int, "players listen to the first free ports from here on [the kernel chooses]"),
    ("--time-scale", "time_scale", float, "of the engine [20]"),
    ("--width", "width", int, "of the window [84]"),
    ("--height", "height", int, "of the window [84]"),
    ("--quality-level", "quality_level", int, "of the engine [5]"),
    ("--target-frame-rate", "target_frame_rate", int, "of the engine [-1]"),
    ("--capture-frame-rate", "capture_frame_rate", int, "of the engine [60]"),
    ("--num-areas", "num_areas", int, "copies of the training area, in scenes that make them [1]"),
    ("--timeout-wait", "timeout_wait", float, "seconds after which a silent player counts as hung [60]"),
    ("--max-lifetime-restarts", "restarts", int, "players of a process that may be replaced, -1: any number [10]"),
    ("--env-agents", "agents", int, "slots of a player [as many agents as the scene shows at first]"),
    ("--env-bins", "bins", int, "values of a continuous action beside discrete ones"),
    ("--env-logs", "log_folder", str, "folder of the players' logs"),
)


def add_scene_flags(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the flags to a command; ``several`` behaviours may learn at once."""
    group = parser.add_argument_group("Unity scenes", "With --env unity:PATH or unity:editor; see docs/unity.md.")
    text = "behaviour whose agents act [the only one]"
    if several:
        text = "behaviour that learns, perhaps with a preset of its own; may be given several times [all]"
    metavar = "NAME[=PRESET]" if several else "NAME"
    group.add_argument(
        "--behavior", dest="behavior", action="append", metavar=metavar, default=argparse.SUPPRESS, help=text
    )
    group.add_argument(
        "--companion", dest="companion", action="append", metavar="NAME=FILE", default=argparse.SUPPRESS,
        help="policy that acts for the agents of another behaviour; may be given several times [they rest]",
    )  # fmt: skip
    for flag, name, kind, text in _FLAGS:
        metavar = {int: "N", float: "X"}.get(kind, "TEXT")
        group.add_argument(flag, dest=f"scene:{name}", type=kind, metavar=metavar, default=argparse.SUPPRESS, help=text)
    switch: dict[str, Any] = {"action": "store_true", "default": argparse.SUPPRESS}
    group.add_argument("--no-graphics", dest="scene:no_graphics", help="start players without graphics", **switch)
    text = "every reset starts a new player with its seed"
    group.add_argument("--env-reseed", dest="scene:reseed", help=text, **switch)
    group.add_argument(
        "--env-parameters", dest="scene:parameters", type=_yaml, metavar="YAML", default=argparse.SUPPRESS,
        help="environment parameters: numbers, or samplers as in ML-Agents' YAML",
    )  # fmt: skip
    group.add_argument(
        "--env-args", dest="scene:env_args", nargs=argparse.REMAINDER, metavar="...", default=argparse.SUPPRESS,
        help="all that follows goes to the player",
    )  # fmt: skip


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a date that does not exist is a ValueError
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read as YAML") from None  # argparse says which flag


def describe_scene(arguments: argparse.Namespace, dotted: dict[str, Any]) -> None:
    """Put the flags that were given into the environment: into ``env.kwargs`` of settings, else into ``arguments.env``.

    Raises:
        UserError: They are given beside another environment, or without one.
    """
    given = {name[6:]: value for name, value in vars(arguments).items() if name.startswith("scene:")}
    given |= _named(arguments)
    several = getattr(arguments, "behaviors", {})
    if not given and not several:
        return
    flag = next((flag for flag in _spellings() if _spellings()[flag] in given), "--behavior")
    if arguments.command in ("train", "kickstart"):
        if "env.id" in dotted and not is_unity(dotted["env.id"]):
            raise UserError(f"{flag} is for Unity scenes (--env unity:PATH), not for {dotted['env.id']}")
        dotted["env.kwargs"] = read_mapping(dotted.get("env.kwargs", {}), "env.kwargs") | given
        return
    asked = [arguments.env] if isinstance(arguments.env, str) else list(arguments.env or [])
    if not asked or not all(is_unity(env) for env in asked):
        raise UserError(f"{flag} is for Unity scenes: say which with --env unity:PATH")
    specs = [EnvSpec(env, given) for env in asked]
    arguments.env = specs[0] if isinstance(arguments.env, str) else specs


def _named(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the behaviour and the companions that were given; several behaviours go to ``arguments.behaviors``."""
    given: dict[str, Any] = {}
    behaviors = _pairs(arguments, "behavior")
    if len(behaviors) == 1 and not any(behaviors.values()):
        (given["behavior"],) = behaviors
    elif behaviors and arguments.command != "train":
        given_ones = ", ".join(arguments.behavior)
        raise UserError(f"understudy {arguments.command} takes one --behavior NAME, not {given_ones}")
    else:
        arguments.behaviors = behaviors
    companions = _pairs(arguments, "companion")
    for name, path in companions.items():
        if not path:
            raise UserError(f"--companion {name}: say whose policy acts for it, as in --companion {name}=FILE")
    return given | ({"companions": companions} if companions else {})


def _pairs(arguments: argparse.Namespace, name: str) -> dict[str, str]:
    """Return what a flag that may be given several times says of each behaviour.

    Raises:
        UserError: It says two things of one.
    """
    pairs = [_pair(text) for text in getattr(arguments, name, [])]
    twice = [one for one, _ in pairs if len({told for each, told in pairs if each == one}) > 1]
    if twice:
        raise UserError(f"--{name} {twice[0]} is given twice, and differently: give it once")
    return dict(pairs)


def _pair(text: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``; a team, as in ``NAME?team=0``, is a part of the name."""
    head, mark, rest = text.partition("?team=")
    name, _, value = (rest if mark else head).partition("=")
    return (f"{head}{mark}{name}" if mark else name), value


def _spellings() -> dict[str, str]:
    more = {"--behavior": "behavior", "--companion": "companions", "--no-graphics": "no_graphics"}
    more |= {"--env-reseed": "reseed", "--env-parameters": "parameters"}
    return {flag: name for flag, name, _, _ in _FLAGS} | more | {"--env-args": "env_args"}


def words_of(spec: EnvSpec) -> list[str]:
    """Return the flags that say what a description says of its scene; those of masks do not exist."""
    words: list[str] = []
    told = {name: value for name, value in spec.kwargs.items() if value is not None}
    for flag, name in _spellings().items():
        if name not in told or name == "env_args" or (name == "behavior" and "?" in spec.id):
            continue
        value = told[name]
        if isinstance(value, bool):
            words += [flag] if value else []
        elif name == "companions":
            words += [word for behavior, path in value.items() for word in (flag, f"{behavior}={path}")]
        else:
            words += [flag, json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return [*words, "--env-args", *map(str, told["env_args"])] if told.get("env_args") else words
