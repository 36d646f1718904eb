"""Several teachers become one: an ensemble where they know the same task, one per task where their tasks differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.policy import PolicyLike
from understudy.policies.spaces import members
from understudy.teachers.ensemble import Ensemble
from understudy.teachers.routing import TaskTeachers


def combine(teachers: Sequence[PolicyLike], ensemble: str | None = None) -> PolicyLike:
    """Return one teacher for all.

    Tasks are the same where id, arguments and wrappers of the environments are.

    Args:
        teachers: Each knows its environment.
        ensemble: ``distributions`` (the default) or ``losses`` for teachers of one task, see ``teachers.ensemble``.

    Raises:
        UserError: A teacher does not say its environment; an ensemble is asked for over different tasks; two teachers
            claim one task while others have another; or their spaces do not go together.
    """
    if len(teachers) == 1:
        return teachers[0]
    tasks = [_key(_env(teacher)) for teacher in teachers]
    kinds = {teacher.family.continuous for teacher in teachers}
    if len(kinds) > 1:
        listed = ", ".join(f"{_name(t)}: {t.action_space}" for t in teachers)
        raise UserError(f"teachers must all act with numbers or all with choices, not {listed}")
    if len(set(tasks)) == 1:
        for other in teachers[1:]:
            _check_alike(teachers[0], other)
        return Ensemble(teachers, ensemble or "distributions")
    listed = ", ".join(f"{_name(t)} in {_env(t).id}" for t in teachers)
    if ensemble is not None:
        raise UserError(f"--ensemble is for teachers of one task, but theirs differ ({listed}): leave it out")
    for i, task in enumerate(tasks):
        if task in tasks[:i]:
            first = teachers[tasks.index(task)]
            raise UserError(
                f"{_name(first)} and {_name(teachers[i])} both claim the task {_env(first).id} while others have "
                f"another ({listed}): give one teacher per task, or teachers of one task only"
            )
    return TaskTeachers(teachers)


def _env(teacher: PolicyLike) -> EnvSpec:
    if teacher.about.env is None:
        raise UserError(f"{_name(teacher)} does not say its environment: give --env ID, or one for each teacher")
    return teacher.about.env


def _key(spec: EnvSpec) -> str:
    data = spec.to_json()
    return json.dumps([data["id"], data["kwargs"], data["wrappers"]], sort_keys=True, default=str)


def _name(teacher: PolicyLike) -> str:
    return f"the teacher {teacher.about.source or teacher.about.algorithm}"


def _check_alike(first: PolicyLike, other: PolicyLike) -> None:
    """Refuse teachers of one task whose spaces differ."""
    seen, also = ({k: s.shape for k, s in members(t.observation_space).items()} for t in (first, other))
    pair = f"{_name(first)} and {_name(other)} make no ensemble"
    if seen != also:
        raise UserError(f"{pair}: one sees {first.observation_space}, the other {other.observation_space}")
    if not _same_actions(first.action_space, other.action_space):
        raise UserError(f"{pair}: one acts in {first.action_space}, the other in {other.action_space}")


def _same_actions(first: gym.Space[Any], other: gym.Space[Any]) -> bool:
    if type(first) is not type(other) or first.shape != other.shape:
        return False
    if isinstance(first, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return bool(np.allclose(first.low, other.low) and np.allclose(first.high, other.high))
    return bool(first == other)
