"""The flags of Unity scenes, spelt as ``mlagents-learn`` spells them; they become arguments of the environment."""

from __future__ import annotations

import argparse
from typing import Any

import yaml

from understudy.data import EnvSpec
from understudy.envs.unity.options import is_unity
from understudy.errors import UserError

WITH_SCENES = ("train", "kickstart", "distill", "evaluate", "compare")
"""Commands that have these flags."""

# Flag, argument of the environment, type, help. Defaults stand in ``UnityOptions``.
_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("--behavior", "behavior", str, "behaviour whose agents act [the only one]"),
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


def add_scene_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a command."""
    group = parser.add_argument_group("Unity scenes", "With --env unity:PATH or unity:editor; see docs/unity.md.")
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
    except yaml.YAMLError as error:
        raise ValueError(text) from error  # argparse says which flag


def describe_scene(arguments: argparse.Namespace, dotted: dict[str, Any]) -> None:
    """Put the flags that were given into the environment: into ``env.kwargs`` of settings, else into ``arguments.env``.

    Raises:
        UserError: They are given beside another environment, or without one.
    """
    given = {name[6:]: value for name, value in vars(arguments).items() if name.startswith("scene:")}
    if not given:
        return
    flag = next(flag for flag in _spellings() if _spellings()[flag] in given)
    if arguments.command in ("train", "kickstart"):
        if "env.id" in dotted and not is_unity(dotted["env.id"]):
            raise UserError(f"{flag} is for Unity scenes (--env unity:PATH), not for {dotted['env.id']}")
        kwargs = dotted.get("env.kwargs", {})
        dotted["env.kwargs"] = {**(yaml.safe_load(kwargs) if isinstance(kwargs, str) else kwargs), **given}
        return
    asked = [arguments.env] if isinstance(arguments.env, str) else list(arguments.env or [])
    if not asked or not all(is_unity(env) for env in asked):
        raise UserError(f"{flag} is for Unity scenes: say which with --env unity:PATH")
    specs = [EnvSpec(env, given) for env in asked]
    arguments.env = specs[0] if isinstance(arguments.env, str) else specs


def _spellings() -> dict[str, str]:
    more = {"--no-graphics": "no_graphics", "--env-reseed": "reseed", "--env-parameters": "parameters"}
    return {flag: name for flag, name, _, _ in _FLAGS} | more | {"--env-args": "env_args"}
