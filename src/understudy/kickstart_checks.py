"""Whether teachers, tasks, keys and behaviour of a kickstarted run go together; asked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.envs.multitask import task_specs
from understudy.errors import UserError
from understudy.objectives.feedback import Curriculum, parse_jump
from understudy.objectives.schedules import parse
from understudy.policies.policy import PolicyLike
from understudy.policies.spaces import members
from understudy.settings import KickstartSettings
from understudy.teachers.load import called


def check_key(key: str, spec: EnvSpec, teachers: int) -> None:
    """Refuse a key that does not name one teacher for each of its values."""
    shown = members(spaces_of(spec)[0])
    if key not in shown or "" in shown:
        known = ", ".join(shown) if "" not in shown else "no keys"
        raise UserError(f"teaching.key {key!r} is not what {spec.id} shows; it shows {known}")
    space = shown[key]
    count = 0
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        count = int(space.n)
    elif isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        count = space.shape[0]
    if not count:
        raise UserError(f"teaching.key {key!r} is {space}: it must be an integer from 0, or a one-hot vector")
    if count != teachers:
        lacking = f"the value {teachers} has none" if count > teachers else "some would have nothing to teach"
        raise UserError(f"teaching.key {key!r} has {count} values and there are {teachers} teachers: {lacking}")


def one_each(wanted: EnvSpec, teachers: Sequence[PolicyLike]) -> list[PolicyLike]:
    """Return the teachers in the order of the tasks that the settings name.

    Raises:
        UserError: A task has no teacher, or several, or a teacher no task.
    """

    def claim(spec: EnvSpec | None) -> str:
        return "" if spec is None else json.dumps([spec.id, dict(spec.kwargs)], sort_keys=True, default=str)

    found: list[PolicyLike] = []
    for task in task_specs(wanted):
        own = [teacher for teacher in teachers if claim(teacher.about.env) == claim(task)]
        if not own:
            raise UserError(f"the task {task.id} has no teacher: pass one more --teacher, or take it out of env.kwargs")
        if len(own) > 1:
            raise UserError(f"{called(own[0])} and {called(own[1])} both claim the task {task.id}: give one for each")
        found += own
    for teacher in teachers:
        if not any(teacher is other for other in found):
            raise UserError(f"the teacher {called(teacher)} has no task among those of env.kwargs: leave it out")
    return found


def check_behaviour(settings: KickstartSettings, imitates: bool) -> None:
    """Refuse a behaviour that is none; where the student only ``imitates``, it need not act."""
    behaviour, run = settings.teaching.behaviour, settings.stop.env_steps
    beta = parse(behaviour.beta, "teaching.behaviour.beta", run)
    jump = parse_jump(behaviour.jump, "teaching.behaviour.jump", run)
    if not all(0 <= beta.value(k) <= 1 for k in (0, run // 2, run)):
        raise UserError(f"teaching.behaviour.beta {behaviour.beta} is a probability: it must stay between 0 and 1")
    if any(jump.value(k) < 0 for k in (0, run // 2, run)):
        raise UserError(f"teaching.behaviour.jump {behaviour.jump} counts steps: it must not be negative")
    if isinstance(jump, Curriculum) and not settings.evaluation.every:
        raise UserError("teaching.behaviour.jump curriculum follows evaluations, but evaluation.every is 0")
    if beta.constant and beta.value(0) == 1 and not imitates:
        raise UserError(
            "teaching.behaviour.beta 1: the student never acts and learns nothing from rewards; let beta fall, as in "
            "linear(1, 0, 50%), or set teaching.rl_weight 0"
        )


def notes_on_behaviour(settings: KickstartSettings) -> list[str]:
    """Return what the user should know of a teacher that never lets go."""
    behaviour, run = settings.teaching.behaviour, settings.stop.env_steps
    beta = parse(behaviour.beta, "teaching.behaviour.beta", run)
    jump = parse_jump(behaviour.jump, "teaching.behaviour.jump", run)
    return [
        f"teaching.behaviour.{name} {text} never ends: the student never plays a whole episode while it learns"
        for name, text, schedule in (("beta", behaviour.beta, beta), ("jump", behaviour.jump, jump))
        if not isinstance(schedule, Curriculum) and schedule.value(run) > 0
    ]
