"""The student's network, fitted to its teacher and to the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.policy import About, Policy, PolicyLike
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec, default_encoders, mask_of, stored, vector_keys
from understudy.settings import StudentSettings

STD_FLOOR = 1e-2
"""Smallest standard deviation that whitening divides by: a feature that hardly moved in the first rollout may move
later, and must not enter a hundred times too large."""


def student_spec(
    settings: StudentSettings,
    observations: gym.Space[Any],
    actions: gym.Space[Any],
    teacher: PolicyLike,
) -> PolicySpec:
    """Describe the student's network.

    Raises:
        UserError: A key the environment does not have, a teacher without statistics to take, a family that cannot act.
    """
    encoders = default_encoders(observations, settings.keys, settings.cnn_features)
    box = isinstance(actions, gym.spaces.Box)
    family = settings.family
    if family == "auto":
        parts = not isinstance(actions, gym.spaces.Discrete)
        family = "deterministic" if box else "multi_categorical" if parts else "categorical"
    task_actions = tasks_of(teacher)
    heads = bool(task_actions) and not settings.one_hot_task
    if heads:
        encoders = tuple(e for e in encoders if e.key != "task")
    return PolicySpec(
        observation_space=space_to_json(observations),
        action_space=space_to_json(actions),
        family=family,
        encoders=encoders,
        normalized=_normalized_keys(settings, encoders, teacher),
        normalizer_clip=10.0,
        hidden=settings.hidden,
        activation=settings.activation,
        std="constant" if family == "gaussian" else "state" if family == "squashed_gaussian" else "none",
        lstm=settings.lstm,
        cell=settings.cell,
        value_hidden=settings.hidden if settings.value else None,
        tasks=len(task_actions) if heads else 1,
        task_actions=task_actions,
        mask="" if box or task_actions else mask_of(observations, actions),
    )


def tasks_of(teacher: PolicyLike) -> tuple[int, ...]:
    """Return how many actions each of a teacher's tasks has; empty for one task."""
    source = teacher.spec if isinstance(teacher, Policy) else teacher
    return tuple(getattr(source, "task_actions", ()))


def teacher_statistics(teacher: PolicyLike) -> dict[str, tuple[Array, Array]]:
    """Return (mean, variance) by observation key, where the teacher normalises its observations."""
    if not isinstance(teacher, Policy):
        return {}
    return {
        key: (
            teacher.get_buffer(f"normalizer_mean:{stored(key)}").numpy(),
            teacher.get_buffer(f"normalizer_var:{stored(key)}").numpy(),
        )
        for key in teacher.spec.normalized
    }


def _normalized_keys(settings: StudentSettings, encoders: tuple[Encoder, ...], teacher: PolicyLike) -> tuple[str, ...]:
    one_hot = {"task"} if tasks_of(teacher) else set()  # constant within a task: whitening would erase it
    flat = tuple(key for key in vector_keys(encoders) if key not in one_hot)
    if settings.normalize == "none":
        return ()
    if settings.normalize == "teacher":
        known = teacher_statistics(teacher)
        missing = [key for key in flat if key not in known]
        if missing:
            raise UserError(
                "student.normalize is teacher, but the teacher does not normalise its observations: use learned"
            )
    return flat


def fit_normalizer(
    student: Policy, settings: StudentSettings, teacher: PolicyLike, columns: Mapping[str, Array]
) -> None:
    """Set the student's input statistics from its teacher's, or from the samples gathered so far.

    ``columns`` are the dataset's, [N, ...] each. With ``auto`` the teacher's statistics are taken where it has some.
    Each of several tasks has statistics of its own: a feature means something else in every task, and padding is 0 in
    all of a task's samples, so that it stays 0.
    """
    known = teacher_statistics(teacher) if settings.normalize in ("auto", "teacher") else {}
    for key in student.spec.normalized:
        if key in known and known[key][0].shape == student.get_buffer(f"normalizer_mean:{stored(key)}").shape:
            student.set_normalizer(key, *known[key])
            continue
        sample = columns[f"obs:{key}"].astype(np.float64)
        if student.spec.task_actions:
            task = columns["obs:task"].argmax(axis=1)
            samples = [sample[task == k] for k in range(len(student.spec.task_actions))]
            mean, var = (np.stack([getattr(s, name)(axis=0) for s in samples]) for name in ("mean", "var"))
        else:
            mean, var = sample.mean(axis=0), sample.var(axis=0)
        student.set_normalizer(key, mean, np.maximum(var, STD_FLOOR**2))


def new_student(spec: PolicySpec, seed: int, about: About) -> Policy:
    """Build a student with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Policy(spec, about)
        for name, parameter in student.named_parameters():
            if name in ("head.weight", "value_head.weight") and spec.family != "categorical":
                torch.nn.init.orthogonal_(parameter, 0.1)
    return student


__all__ = ["fit_normalizer", "new_student", "student_spec", "tasks_of"]
