"""Which behaviours of a scene learn, and how each does; refused is what cannot work, before anything starts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.config import merge
from understudy.data import EnvSpec
from understudy.envs.unity.options import UnityOptions, is_unity
from understudy.envs.unity.probe import Look, look_around, remember
from understudy.envs.unity.roster import matches
from understudy.errors import UserError
from understudy.io.run_folder import chosen_folder
from understudy.policies.files import write_atomic
from understudy.policies.stored import BEHAVIOURS
from understudy.scenes import folder_name
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.side_by_side.judge import among
from understudy.training import resolve_training


@dataclass(frozen=True)
class Part:
    """One behaviour's run."""

    name: str
    settings: TrainSettings | ReplayedSettings
    """Complete: environments count agents."""
    folder: Path
    look: Look
    """What the scene showed of it."""
    seeds: tuple[int, ...]
    """Of the episodes that judge it at the end."""

    @property
    def spec(self) -> EnvSpec:
        """The scene, seen by this behaviour's agents."""
        return self.settings.env.spec()


@dataclass(frozen=True)
class Plan:
    """Runs that are ready to start."""

    parts: tuple[Part, ...]
    folder: Path
    players: int
    resume: bool


def plan(
    settings: Mapping[str, Any],
    preset: str | None,
    behaviors: Mapping[str, str],
    run: str | os.PathLike[str] | None = None,
) -> Plan | None:
    """Say what each behaviour's run is; None where the scene, or what is asked of it, has only one.

    Args:
        settings: What all have in common, over their presets.
        preset: For behaviours without one of their own.
        behaviors: Name to a preset (or YAML file) of its own, or to ``''``; empty for all that the scene shows.
        run: The folder that holds a folder for each.

    Raises:
        UserError: The scene cannot be started, has no such behaviour, or the settings cannot be those of several.
    """
    common = resolve_training(settings, preset)
    spec = common.env.spec()
    if not is_unity(spec.id):
        if behaviors:
            raise UserError(f"--behavior is for Unity scenes (--env unity:PATH), not for {spec.id}")
        return None
    options = UnityOptions.read(spec)
    if options.behavior and behaviors:
        raise UserError(f"{spec.id} names the behaviour {options.behavior} already: choose there or with --behavior")
    if options.behavior or options.settled or (options.editor and not behaviors):
        return None
    for name in behaviors:
        for other in behaviors:
            if name != other and matches(name, other):
                raise UserError(f"--behavior {name} is a part of --behavior {other}: name one of them")
    seen = look_around(spec, tuple(behaviors))
    if len(seen) == 1 and not behaviors:
        remember(spec, *seen.values())
        return None
    if options.editor:
        raise UserError(f"{spec.id} runs one behaviour at a time here: choose with --behavior {next(iter(seen))}")
    folder = chosen_folder(run, folder_name(spec.id))
    if (folder / BEHAVIOURS).exists():
        raise UserError(f"{folder} holds runs already: --resume {folder} goes on with them, --run FOLDER starts others")
    parts = []
    for name, look in seen.items():
        try:
            own = resolve_training(settings, behaviors.get(name) or preset)
            parts.append(_part(name, look, own, folder / folder_of(name)))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    players = {part.settings.rollout.num_envs // part.look.agents for part in parts}
    if len(players) > 1:
        raise UserError(f"{spec.id}: behaviours share their players, so --num-envs must be the same for all of them")
    return Plan(tuple(parts), folder, players.pop(), False)


def resumed(folder: Path, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> Plan:
    """Return the runs of a folder, to go on with.

    Args:
        folder: Of all of them.
        saved: ``behaviours`` of its ``config.yaml``.
        settings: What is to change in all.

    Raises:
        UserError: The scene is not what it was, or the settings cannot be those of several.
    """
    parts = []
    for name, told in saved.items():
        common = resolve_training(merge(told["settings"], settings), None)
        _check(common)
        look = look_around(among(common.env.spec(), name, {}), [name])[name]
        remember(common.env.spec(), look)
        parts.append(Part(name, common, folder / folder_of(name), look, tuple(told["seeds"])))
    players = {part.settings.rollout.num_envs // part.settings.env.kwargs["agents"] for part in parts}
    return Plan(tuple(parts), folder, players.pop(), True)


def _part(name: str, look: Look, settings: TrainSettings | ReplayedSettings, folder: Path) -> Part:
    """Return a behaviour's run, with one environment for each of its agents.

    Raises:
        UserError: The settings cannot be those of one run of several.
    """
    _check(settings)
    env, rollout, evaluation = settings.env, settings.rollout, settings.evaluation
    told = {"behavior": name, "agents": look.agents, "masks": look.behavior.masked, "settled": True}
    agents: Any = replace(rollout, num_envs=rollout.num_envs * look.agents)
    # Judged are all together, at the end: beside training nobody knows the policies of the others.
    alone: Any = replace(evaluation, every=0, final=0)
    found = replace(settings, env=replace(env, kwargs={**env.kwargs, **told}), rollout=agents, evaluation=alone)
    found.check()
    remember(found.env.spec(), look)
    return Part(name, found, folder, look, tuple(settings.final_seeds))


def _check(settings: TrainSettings | ReplayedSettings) -> None:
    several = "several behaviours in one run"
    if settings.execution.type != "single":
        raise UserError(
            f"{several} go with --execution single, not {settings.execution.type}: each has a process of its own; take "
            "more players with --num-envs, or one behaviour with --behavior NAME"
        )
    if settings.checkpoint_every:
        raise UserError(f"{several} have no common moment for checkpoint_every: leave it 0 (a checkpoint every 30 s)")
    if settings.stop.score is not None:
        raise UserError(f"{several} are judged together at the end, so stop.score cannot end one of them: leave it out")
    if isinstance(settings, TrainSettings) and settings.policy.init == "data":
        raise UserError(f"{several} share players, so none plays alone first for policy.init data: take orthogonal")
    if isinstance(settings, ReplayedSettings) and settings.replay.initial == "actors":
        raise UserError("agents have their own clocks: take --replay.initial greatest")


def folder_of(behavior: str) -> str:
    """Return what the folder of a behaviour's run is called."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", behavior).lstrip(".") or "_"


def write_index(folder: Path, parts: Mapping[str, Path]) -> None:
    """Write which behaviour's run is in which folder.

    Raises:
        UserError: The disk is full.
    """
    index = {name: part.name for name, part in parts.items()}
    write_atomic(folder / BEHAVIOURS, json.dumps(index, indent=2).encode())
