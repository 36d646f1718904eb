"""Settings of runs in Unity scenes: users count players, everything else counts the agents in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.data import EnvSpec
from understudy.envs.multitask import whole_tasks
from understudy.envs.unity.options import PREFIX, UnityOptions, is_unity
from understudy.envs.unity.probe import agents_of, settled
from understudy.errors import UserError
from understudy.policies.protocol import PolicyLike
from understudy.settings import DistillSettings, ReplayedSettings, TrainSettings


def for_scene(settings: TrainSettings | ReplayedSettings) -> TrainSettings | ReplayedSettings:
    """Return the settings with one environment for every agent of every player, and the scene's description complete.

    Raises:
        UserError: The scene cannot be started, or the settings do not go with it.
    """
    env = settings.env
    if not is_unity(env.id):
        return settings
    if isinstance(settings, ReplayedSettings) and settings.replay.initial == "actors":
        raise UserError(
            f"{env.id}: agents have their own clocks, so what actors thought does not tell priorities there: take "
            "--replay.initial greatest"
        )
    spec = env.spec()
    options = UnityOptions.read(spec)
    if options.settled:
        return settings
    if options.editor:
        _check_editor(settings)
    if settings.checkpoint_every and not options.reseed:
        raise UserError(
            f"{env.id}: checkpoint_every begins episodes anew from seeds, which a running player does not take: leave "
            "it 0 (a checkpoint every 30 s), or start players anew with --env-reseed"
        )
    spec = settled(spec)
    rollout: Any = replace(settings.rollout, num_envs=settings.rollout.num_envs * agents_of(spec))
    found = replace(settings, env=replace(env, kwargs=dict(spec.kwargs)), rollout=rollout)
    found.check()
    return found


def check_labels(teacher: PolicyLike, env_id: str) -> None:
    """Refuse a teacher of a scene whose memory would have to be asked about rollouts.

    Agents have their own clocks: rollouts lack steps that its memory would have to know, and hold copies of others'.

    Raises:
        UserError: It has a memory, and the environment is a scene.
    """
    if is_unity(env_id) and teacher.initial_state(1) is not None:
        raise UserError(
            f"the teacher {teacher.about.source or teacher.about.algorithm} has a memory, but agents of a Unity scene "
            "have their own clocks, and rollouts do not hold every step: take a teacher without a memory"
        )


def folder_name(env_id: str) -> str:
    """Return what to call a run's folder after its environment; of a Unity scene without the way to it."""
    if is_unity(env_id):
        env_id = f"unity-{Path(env_id.removeprefix(PREFIX).partition('?')[0]).stem}"
    return env_id.replace("/", "-").replace(":", "-")


def rows_in(env: str | EnvSpec | None, count: int) -> int:
    """Return the environments that ``--num-envs COUNT`` means: in a Unity scene the agents of so many players.

    Raises:
        UserError: The scene cannot be started.
    """
    spec = env if isinstance(env, EnvSpec) else EnvSpec(env or "")
    return count * agents_of(spec) if is_unity(spec.id) else count


def _check_editor(settings: TrainSettings | ReplayedSettings) -> None:
    evaluation = settings.evaluation
    if settings.execution.type != "single" or settings.rollout.num_envs != 1 or evaluation.every or evaluation.final:
        raise UserError(
            "unity:editor has one scene, and training uses it: take --execution single --num-envs 1 "
            "--evaluation.every 0 --evaluation.final 0, and evaluate afterwards"
        )


def for_scene_distillation(settings: DistillSettings, spec: EnvSpec) -> tuple[DistillSettings, EnvSpec]:
    """Return the settings with so many environments that players are whole, one per worker, and the spec complete.

    Here ``data.num_envs`` counts agents, as everywhere but in training: it is rounded up.

    Raises:
        UserError: The scene cannot be started, or the settings do not go with it.
    """
    if not is_unity(spec.id):
        return settings, spec
    if UnityOptions.read(spec).editor:
        raise UserError("unity:editor has one scene, but a distillation needs several players: build the scene")
    known = settled(spec)
    workers = settings.execution.num_workers if settings.execution.type == "sync" else 1
    count = max(whole_tasks(known, settings.data.num_envs), agents_of(known) * workers)
    fitted = replace(settings, data=replace(settings.data, num_envs=count))
    fitted.check()
    return fitted, known
