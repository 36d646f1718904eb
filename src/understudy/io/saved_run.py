"""What the folder of a run says of it, for a run that goes on: what is not named again stays as it was."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.config import build, merge, plain
from understudy.data import EnvSpec
from understudy.env_names import EnvLike, env_settings
from understudy.errors import UserError
from understudy.preset_files import Presets, merged_presets, read_yaml
from understudy.settings import EnvSettings
from understudy.teachers.foreign import refuse_pulled


def read_run(run: str | os.PathLike[str] | None, command: str, several: bool = False) -> dict[str, Any]:
    """Return what ``config.yaml`` says in the folder of a run that is to go on.

    Args:
        run: The folder.
        command: That makes such runs: ``distill``, ``train`` or ``kickstart``.
        several: Whether the runs of several behaviours, side by side, will do as well.

    Raises:
        UserError: There is no run, or it is of another command.
    """
    if run is None:
        raise UserError("resume goes on with the run in a folder: say which with run")
    path = Path(run) / "config.yaml"
    if not path.exists():
        raise UserError(f"no run to resume at {run}: there is no {path}")
    saved = read_yaml(path)
    refuse_pulled(saved, path)
    known = saved.keys() & {"settings", "by_behaviour", "behaviours"}
    if not known or not isinstance(saved.get("settings", {}), Mapping):
        raise UserError(f"{path} does not describe a run that can be resumed")
    distilled = saved.keys() & {"teachers", "by_behaviour"}
    made = "distill" if distilled else "kickstart" if "teaching" in saved.get("settings", {}) else "train"
    again = shlex.join(["understudy", made, "--resume", os.fspath(run)])
    if made != command:
        raise UserError(f"{run} is a run of understudy {made}: {again} goes on with it")
    if "settings" not in saved and not several:
        raise UserError(f"{run} holds the runs of several behaviours: {again} goes on with all of them")
    return saved


def over_saved(
    run: str | os.PathLike[str] | None,
    saved: Mapping[str, Any],
    settings: Mapping[str, Any],
    presets: Presets | None = None,
) -> dict[str, Any]:
    """Return the settings of a run, with presets and then settings that are named again on top.

    Raises:
        UserError: They name another method than the run's own, or there is no such preset.
    """
    over = merge(merged_presets(presets), settings)
    own = saved["settings"].get("method", "actor_critic")
    other = over.get("method", own)
    if other != own:
        raise UserError(
            f"{run} is a run of the method {own}, which cannot become {other}: leave --method out, or start another "
            "run with --run"
        )
    return merge(saved["settings"], over)


def saved_envs(saved: Mapping[str, Any]) -> list[str | EnvSpec] | None:
    """Return what a distillation was told of its environments; None where they are the teachers' own."""
    return saved["env"] and [env if isinstance(env, str) else EnvSpec.from_json(env) for env in saved["env"]]


def keep_env(run: str | os.PathLike[str] | None, saved: Mapping[str, Any], env: EnvLike | None) -> None:
    """Refuse to go on in another environment; an id, or a description that says no more, may leave the rest as it was.

    Raises:
        UserError: With what differs.
    """
    if env is None:
        return
    own = build(EnvSettings, saved["settings"].get("env", {})).spec()
    asked = build(EnvSettings, env_settings(env)["env"])
    same_env(run, own, replace(asked.over(own), id=asked.id).spec())


def same_env(run: str | os.PathLike[str] | None, own: EnvSpec, given: EnvSpec) -> None:
    """Refuse an environment that is not the run's own.

    Raises:
        UserError: With what differs.
    """
    was, now = plain(own.to_json()), plain(given.to_json())
    for name in was:
        if was[name] != now[name]:
            raise UserError(
                f"{run} goes on in its own environment ({name} {was[name]}, not {now[name]}): leave env out, or start "
                "another run with --run"
            )
