"""Agents as rl-baselines3-zoo lays them out: a zip, beside it a folder with its configuration and normaliser.

``FOLDER/ENV.zip`` and ``FOLDER/ENV/{args.yml, config.yml, vecnormalize.pkl}``; on the Hugging Face hub the zip, the two
YAML files and ``vec_normalize.pkl`` lie in one folder. Checkpoints of Stable-Baselines3 itself have a normaliser each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.policy import Policy
from understudy.teachers.sb3 import load_sb3
from understudy.teachers.successors import Successor, find_successors
from understudy.teachers.vecnormalize import Normalizer, read_normalizer
from understudy.teachers.zoo_yaml import parse_value, read_yaml

_STATISTICS = ("vecnormalize.pkl", "vec_normalize.pkl")
FILES = ("config.yml", "args.yml", "env_kwargs.yml", *_STATISTICS)
"""What is read beside a zip."""
_WRAPPERS = {"TimeFeatureWrapper": "time_feature", "AtariWrapper": "atari"}
_ARGUMENTS = {
    "time_feature": {"max_steps"},
    "atari": {
        "noop_max",
        "frame_skip",
        "screen_size",
        "terminal_on_life_loss",
        "clip_reward",
        "action_repeat_probability",
    },
}
_WRAPPER_MODULES = (
    "sb3_contrib.common.wrappers",
    "rl_zoo3.wrappers",
    "utils.wrappers",
    "stable_baselines3.common.atari_wrappers",
)
_CHECKPOINT = re.compile(r"^(best_model|final_model|rl_model_\d+_steps)\.zip$")
_STEPS = re.compile(r"^(.+)_(\d+)_steps$")
_NO_EFFECT = ("stable_baselines3.common.monitor.Monitor", "gym.wrappers.RecordEpisodeStatistics")


@dataclass(frozen=True)
class Agent:
    """Where the parts of an agent lie."""

    zip: Path
    config: Path | None
    """The folder of ``config.yml``, ``args.yml`` and the statistics; None where there is none."""


def find_agent(path: Path) -> Agent | None:
    """Return the parts of the agent at a zip or a folder; None if the folder holds no zip.

    Raises:
        UserError: The folder holds several zips and none stands out.
    """
    if path.is_file():
        return Agent(path, _config_folder(path))
    zips = sorted(path.glob("*.zip"))
    if not zips and _is_config(path):
        return find_agent(path.parent)
    if not zips:
        return None
    named = [file for file in zips if _is_config(file.with_suffix(""))]
    best = [file for file in zips if file.name == "best_model.zip"]
    chosen = named or best or zips
    if len(chosen) > 1:
        raise UserError(f"{path} holds several agents ({', '.join(file.name for file in chosen)}): name one of them")
    return Agent(chosen[0], _config_folder(chosen[0]))


def _is_config(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).is_file() for name in ("config.yml", "args.yml", *_STATISTICS))


def _config_folder(file: Path) -> Path | None:
    """Return the folder named like the zip, else the only one beside a checkpoint of the zoo, else the zip's own."""
    own = file.with_suffix("")
    if _is_config(own):
        return own
    if _CHECKPOINT.match(file.name):
        beside = [folder for folder in sorted(file.parent.iterdir()) if _is_config(folder)]
        if len(beside) == 1:
            return beside[0]
    return file.parent if _is_config(file.parent) else None


def load_agent(agent: Agent, strict: bool = True) -> Policy:
    """Load a zoo agent with its normaliser, and describe the environment that it fits today.

    Args:
        agent: Where its parts lie.
        strict: Whether an environment wrapper that is not known is an error; otherwise it becomes a remark.

    Raises:
        UserError: A part is missing, damaged, or asks for something that is not known.
    """
    own = _checkpoint_statistics(agent)
    if agent.config is None:
        return load_sb3(agent.zip, None if own is None else read_normalizer(own), complete=own is not None)
    config, args = read_yaml(agent.config / "config.yml"), read_yaml(agent.config / "args.yml")
    normalizer = _normalizer(agent.config, config) if own is None else read_normalizer(own)
    old = _old_env(agent, config, args)
    spec, notes = None, []
    if old is not None:
        successor = find_successors(old)[0]
        try:
            wrappers = _wrappers(config, agent.config / "config.yml")
        except UserError as error:
            if strict:
                raise
            wrappers, notes = (), [str(error)]
        kwargs = {**successor.kwargs, **_env_kwargs(agent.config, config, args)}
        spec = EnvSpec(successor.id, kwargs, (*successor.wrappers, *wrappers))
        notes += _env_notes(old, successor, args)
    policy = load_sb3(agent.zip, normalizer, spec, complete=own is not None)
    policy.about.notes += notes
    return policy


def _checkpoint_statistics(agent: Agent) -> Path | None:
    """Return what ``CheckpointCallback(save_vecnormalize=True)`` wrote with the zip; a folder of the zip's own wins."""
    found = _STEPS.match(agent.zip.stem)
    if found is None or agent.config == agent.zip.with_suffix(""):
        return None
    file = agent.zip.with_name(f"{found[1]}_vecnormalize_{found[2]}_steps.pkl")
    return file if file.is_file() else None


def _normalizer(folder: Path, config: dict[str, Any]) -> Normalizer | None:
    """Read the statistics where the configuration asks for them, or where there are some and no configuration."""
    file = next((folder / name for name in _STATISTICS if (folder / name).is_file()), None)
    where = f"{folder / 'config.yml'}, normalize"
    asked = parse_value(config.get("normalize", file is not None and not config), where)
    if isinstance(asked, dict):
        asked = asked.get("norm_obs", True)
    if not asked:
        return None
    if file is None:
        raise UserError(
            f"{folder / _STATISTICS[0]} is missing: config.yml says that this agent saw normalised observations, "
            "and without the statistics it acts wrongly"
        )
    return read_normalizer(file)


def _old_env(agent: Agent, config: dict[str, Any], args: dict[str, Any]) -> str | None:
    name = args.get("env") or config.get("env")
    if isinstance(name, str) and name:
        return name
    if "env" in args:
        return None  # an export of ours that does not know it
    named_so = agent.config is not None and agent.config.name == agent.zip.stem
    return agent.zip.stem if named_so else None


def _env_kwargs(folder: Path, config: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """Return the environment's keyword arguments from either file; those of the command line win."""
    found: dict[str, Any] = {}
    for name, source in (("config.yml", config), ("env_kwargs.yml", None), ("args.yml", args)):
        kwargs = read_yaml(folder / name) if source is None else source.get("env_kwargs")
        kwargs = parse_value(kwargs, f"{folder / name}, env_kwargs")
        if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)):
            raise UserError(f"{folder / name}: env_kwargs {kwargs!r} is not a mapping of names")
        found |= kwargs or {}
    return found


def _wrappers(config: dict[str, Any], where: Path) -> tuple[dict[str, Any], ...]:
    """Translate ``env_wrapper`` and ``frame_stack``, from the inside out.

    Raises:
        UserError: A wrapper is not known; leaving it out would change what the policy sees.
    """
    if config.get("vec_env_wrapper"):
        raise UserError(f"{where}: the wrapper {config['vec_env_wrapper']!r} (vec_env_wrapper) is not known")
    asked = config.get("env_wrapper")
    items = asked if isinstance(asked, list) else [asked] if asked else []
    wrappers = [wrapper for item in items if (wrapper := _wrapper(item, where))]
    frames = config.get("frame_stack")
    if frames is not None:
        if not isinstance(frames, int) or frames < 1:
            raise UserError(f"{where}: frame_stack {frames!r} is not a number of frames")
        wrappers.append({"type": "frame_stack", "n": frames})
    return tuple(wrappers)


def _wrapper(item: Any, where: Path) -> dict[str, Any] | None:
    """Translate one wrapper: ``module.Class``, or ``{module.Class: {argument: value}}``."""
    name: Any = item
    arguments: Any = {}
    if isinstance(item, dict) and len(item) == 1:
        name, arguments = next(iter(item.items()))
    module, _, short = str(name).rpartition(".")
    if str(name) in _NO_EFFECT:
        return None
    if module not in _WRAPPER_MODULES or short not in _WRAPPERS or not isinstance(arguments or {}, dict):
        raise UserError(
            f"{where}: the environment wrapper {str(name)[:100]!r} is not known ({', '.join(_WRAPPERS)} are); without "
            "it the policy sees something else: pass --env with an environment that gives the right observations"
        )
    # SB3's TimeFeatureWrapper takes the environment's own time limit before its argument, so does ours.
    arguments = {key: value for key, value in (arguments or {}).items() if (key, value) != ("test_mode", False)}
    unknown = sorted(set(arguments) - _ARGUMENTS[_WRAPPERS[short]])
    if unknown:
        raise UserError(f"{where}: arguments {', '.join(unknown)} of {short} are not known")
    return {"type": _WRAPPERS[short], **arguments}


def _env_notes(old: str, successor: Successor, args: dict[str, Any]) -> list[str]:
    notes = []
    if successor.id != old:
        remark = f" ({successor.note})" if successor.note else ""
        notes.append(f"trained in {old}, runs in {successor.id} today{remark}")
    if args.get("gym_packages"):
        notes.append(f"its environment is registered by {args['gym_packages']}")
    return notes
