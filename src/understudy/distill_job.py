"""Before a distillation starts: load the teachers, choose environment and settings, refuse what cannot work."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.checks import check_settings
from understudy.config import build, merge, plain
from understudy.data import EnvSpec
from understudy.env_names import EnvLike, all_named
from understudy.envs.make import spaces_of
from understudy.envs.multitask import task_names, whole_tasks
from understudy.errors import UserError
from understudy.io.run_folder import check_free, chosen_folder
from understudy.loading import load
from understudy.policies.batching import fits
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.spaces import same_choices
from understudy.preset_files import Presets, merged_presets
from understudy.scenes import check_labels, folder_name, for_scene_distillation
from understudy.settings import DistillSettings
from understudy.teachers.combine import combine
from understudy.teachers.load import called


def resolve(settings: DistillSettings | Mapping[str, Any] | None, preset: Presets | None) -> DistillSettings:
    """Return the settings: defaults < preset < what the caller says.

    Raises:
        UserError: An unknown preset, key or value, or settings that contradict each other.
    """
    if isinstance(settings, DistillSettings):
        resolved = settings
    else:
        resolved = build(DistillSettings, merge(merged_presets(preset), settings or {}))
    check_settings(resolved)
    return resolved


def default_preset(teacher: PolicyLike) -> str:
    """Return the preset of the teacher's kind of action."""
    return "distill-continuous" if teacher.family.continuous else "distill-discrete"


def load_for(source: Any, env: str | EnvSpec | None = None) -> PolicyLike:
    """Load a policy for an environment, with the spaces of that environment where the file does not say its own.

    Raises:
        UserError: No such policy, or an environment whose spaces do not fit it.
    """
    policy = load(source, env=env)
    if env is not None and (policy is source or policy.about.env is None):
        policy = copy.copy(policy)  # the caller's own object keeps its environment
        policy.about = replace(policy.about, env=env if isinstance(env, EnvSpec) else EnvSpec(env))
    if policy.about.env is not None:
        check_fit(policy, policy.about.env)
    return policy


def check_fit(policy: PolicyLike, spec: EnvSpec) -> None:
    """Refuse an environment whose spaces are not the policy's.

    Raises:
        UserError: With both spaces.
    """
    observation, action = spaces_of(spec)
    mine = policy.action_space
    if not same_choices(action, mine):
        raise UserError(f"{policy.about.source or 'the policy'} acts in {mine}, but {spec.id} takes {action}")
    expected, got = policy.observation_space, observation
    pairs = [(expected, got)]
    if hasattr(expected, "spaces"):
        keys = [e.key for e in policy.spec.encoders] if isinstance(policy, Policy) else list(expected.spaces)
        lacking = [key for key in keys if key not in getattr(got, "spaces", {})]
        if lacking:
            raise UserError(f"{policy.about.source or 'the policy'} sees {lacking[0]!r}, which {spec.id} does not show")
        pairs = [(expected[key], got[key]) for key in keys]  # type: ignore[index]
    for mine_obs, env_obs in pairs:
        if not fits(tuple(env_obs.shape or ()), tuple(mine_obs.shape or ())):
            raise UserError(
                f"{policy.about.source or 'the policy'} sees observations of shape {mine_obs.shape}, but {spec.id} "
                f"gives {env_obs.shape}: choose the environment it was trained in (understudy inspect TEACHER)"
            )


@dataclass(frozen=True)
class DistillJob:
    """A distillation that is ready to start: everything is loaded, checked and resolved."""

    teacher: PolicyLike
    env: EnvSpec
    settings: DistillSettings
    folder: Path
    resume: bool
    described: dict[str, Any]
    """What ``config.yaml`` will say."""


def prepare(
    teachers: Sequence[Any],
    env: EnvLike | Sequence[EnvLike] | None,
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    preset: Presets | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    ensemble: str | None = None,
) -> DistillJob:
    """Load the teachers, choose environment, preset and folder, and refuse what cannot work, before anything starts.

    Raises:
        UserError: Anything the user can mend.
    """
    asked = all_named(env)
    if len(teachers) == 1:
        teacher = load_for(teachers[0], asked[0] if asked else None)
    else:
        loaded = [load_for(t, e) for t, e in zip(teachers, pair_environments(teachers, asked), strict=True)]
        teacher = combine(loaded, ensemble)
    spec = teacher.about.env
    if spec is None:
        raise UserError(f"the teacher {teacher.about.source} does not say its environment: pass --env ID")
    check_labels(teacher, spec.id)
    resolved = for_tasks(resolve(settings, preset or default_preset(teacher)), spec)
    resolved, spec = for_scene_distillation(resolved, spec)
    folder = chosen_folder(run, folder_name(spec.id))
    if not resume:
        check_free(folder)
    described = {
        "teachers": [called(teacher) for teacher in teachers],
        "env": [e.to_json() if isinstance(e, EnvSpec) else e for e in asked] if asked else None,
        "ensemble": ensemble,
        "environment": spec.to_json(),
        "settings": plain(resolved),
    }
    return DistillJob(teacher, spec, resolved, folder, resume, described)


def for_tasks(settings: DistillSettings, spec: EnvSpec) -> DistillSettings:
    """Return the settings with so many environments that every task has equally many, and every worker some of each.

    Raises:
        UserError: The dataset cannot hold that much.
    """
    tasks = len(task_names(spec))
    if tasks == 1:
        return settings
    workers = settings.execution.num_workers if settings.execution.type == "sync" else 1
    count = max(whole_tasks(spec, settings.data.num_envs), tasks * workers)
    fitted = replace(settings, data=replace(settings.data, num_envs=count))
    fitted.check()
    return fitted


def pair_environments(teachers: Sequence[Any], env: Sequence[str | EnvSpec]) -> list[str | EnvSpec | None]:
    """Return one environment per teacher: as given, or one for all, or each teacher's own.

    Raises:
        UserError: Their numbers differ.
    """
    if not env or len(env) == 1:
        return [env[0] if env else None] * len(teachers)
    if len(env) != len(teachers):
        raise UserError(
            f"{len(teachers)} teachers and {len(env)} environments: give one --env for all, or one for each"
        )
    return list(env)
