"""The student's network, fitted to its teacher and to the settings."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
import torch

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.policy import About, Policy, PolicyLike
from understudy.policies.spaces import members, space_to_json
from understudy.policies.spec import Encoder, PolicySpec, default_encoders
from understudy.settings import StudentSettings

STD_FLOOR = 1e-2
"""Smallest standard deviation that whitening divides by: a feature that hardly moved in the first rollout may move
later, and must not enter a hundred times too large."""


def student_spec(
    settings: StudentSettings, observations: gym.Space, actions: gym.Space, teacher: PolicyLike  # type: ignore[type-arg]
) -> PolicySpec:
    """Describe the student's network.

    Raises:
        UserError: A key the environment does not have, a teacher without statistics to take, a family that cannot act.
    """
    encoders = default_encoders(observations, settings.keys or None, settings.cnn_features)
    box = isinstance(actions, gym.spaces.Box)
    family = settings.family
    if family == "auto":
        parts = not isinstance(actions, gym.spaces.Discrete)
        family = "deterministic" if box else "multi_categorical" if parts else "categorical"
    tasks = 1
    if isinstance(observations, gym.spaces.Dict) and "task" in observations.spaces and not settings.one_hot_task:
        tasks = int(np.prod(observations.spaces["task"].shape or (1,)))
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
        value_hidden=settings.hidden if settings.value else None,
        tasks=tasks,
    )


def teacher_statistics(teacher: PolicyLike) -> dict[str, tuple[Array, Array]]:
    """Return (mean, variance) by observation key, where the teacher normalises its observations."""
    if not isinstance(teacher, Policy):
        return {}
    return {
        key: (
            teacher.get_buffer(f"normalizer_mean:{key}").numpy(),
            teacher.get_buffer(f"normalizer_var:{key}").numpy(),
        )
        for key in teacher.spec.normalized
    }


def _normalized_keys(
    settings: StudentSettings, encoders: tuple[Encoder, ...], teacher: PolicyLike
) -> tuple[str, ...]:
    flat = tuple(e.key for e in encoders if e.type == "flatten" and e.scale == 1.0)
    if settings.normalize == "none":
        return ()
    if settings.normalize == "teacher":
        known = teacher_statistics(teacher)
        missing = [key for key in flat if key not in known]
        if missing:
            raise UserError("student.normalize is teacher, but the teacher does not normalise its observations: use learned")
    return flat


def fit_normalizer(
    student: Policy, settings: StudentSettings, teacher: PolicyLike, columns: Mapping[str, Array]
) -> None:
    """Set the student's input statistics from its teacher's, or from the samples gathered so far.

    ``columns`` are the dataset's, [N, ...] each. With ``auto`` the teacher's statistics are taken where it has some.
    """
    known = teacher_statistics(teacher) if settings.normalize in ("auto", "teacher") else {}
    for key in student.spec.normalized:
        sample = columns[f"obs:{key}"]
        if key in known and known[key][0].shape == sample.shape[1:]:
            student.set_normalizer(key, *known[key])
        else:
            sample = sample.astype(np.float64)
            student.set_normalizer(key, sample.mean(axis=0), np.maximum(sample.var(axis=0), STD_FLOOR**2))


def new_student(spec: PolicySpec, seed: int, about: About) -> Policy:
    """Build a student with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Policy(spec, about)
        for name, parameter in student.named_parameters():
            if name in ("head.weight", "value_head.weight") and spec.family != "categorical":
                torch.nn.init.orthogonal_(parameter, 0.1)
    return student


__all__ = ["fit_normalizer", "members", "new_student", "student_spec"]
