"""Where student and teacher disagree most, among the states that the student itself gets into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, EnvSpec, map_obs
from understudy.errors import UserError
from understudy.evaluation.agreement import Agreement, StateRecorder, Visited, compare_params, has_memory, label_visited
from understudy.evaluation.contestants import resolve
from understudy.evaluation.evaluate import play_out
from understudy.objectives.distances import Distance
from understudy.policies import distributions
from understudy.policies.family import ActionMap, Family
from understudy.policies.policy import PolicyLike
from understudy.policies.spaces import is_image

_APART = 10
"""Kept states between two that are listed: neighbours in time are nearly the same state."""
MOST_STATES = 4096


@dataclass(frozen=True)
class State:
    """A state in which they disagree.

    Attributes:
        amount: How much, in the unit of the list.
        values: (name, value, z) of the vector observation; z is how many deviations it lies from the mean of all
            visited states.
        pictures: (key, [H, W] or [H, W, 3] uint8) of image observations.
        teacher: Its action, in environment units.
        student: Its action.
    """

    amount: float
    values: tuple[tuple[str, float, float], ...]
    pictures: tuple[tuple[str, Array], ...]
    teacher: tuple[float, ...]
    student: tuple[float, ...]


@dataclass(frozen=True)
class Disagreement:
    """The states with the largest difference, and how it is spread.

    Attributes:
        measure: What ``amount`` is, with its unit.
        states: The largest first.
        mean: Over all visited states.
        quantile: The amount that 95 % of the visited states stay below.
        agreement: Over all visited states.
    """

    measure: str
    states: tuple[State, ...]
    mean: float
    quantile: float
    agreement: Agreement


def differences(
    teacher: Family, theirs: Tensor, student: Family, ours: Tensor, low: Tensor | None
) -> tuple[str, Tensor]:
    """[N, P] parameters of both in the same states -> what is measured, in words, and how much of it [N].

    KL(teacher || student) where both are distributions of one family. Else, for continuous actions, the mean over the
    components of |a_T - a_S| / 2 in unit actions, clipped to the bounds ``low`` and -``low``: a share of the range. For
    discrete ones -log pi_S(a_T), the student's surprise at the teacher's action.

    Raises:
        UserError: Their actions are of different kinds or sizes.
    """
    if teacher.continuous != student.continuous or teacher.sizes != student.sizes:
        raise UserError(f"a {teacher.name} and a {student.name} policy of other sizes have no difference")
    if teacher.name == student.name and teacher.stochastic:
        return "KL(teacher ‖ student), nats", Distance("forward_kl")(teacher, theirs, student, ours)
    first, second = distributions.mode(teacher, theirs), distributions.mode(student, ours)
    if teacher.continuous:
        assert low is not None
        gap = (first.clamp(low, -low) - second.clamp(low, -low)).abs().mean(dim=1) / 2
        return "difference of the actions, % of their range", 100 * gap
    if not student.stochastic:
        return "share of action parts that differ, %", 100 * (first != second).float().reshape(len(first), -1).mean(1)
    return "−log of the student's probability of the teacher's action, nats", -distributions.log_prob(
        student, ours, first
    )


def find(teacher: PolicyLike, student: PolicyLike, env: EnvSpec, episodes: int, seed: int, count: int) -> Disagreement:
    """Let the student play, and list the states in which they disagree most.

    Args:
        teacher: Asked in all of them.
        student: Plays.
        env: Where.
        episodes: How many.
        seed: Of the first.
        count: Of states to list.

    Raises:
        UserError: They do not fit together, or cannot play.
    """
    recorder = StateRecorder(MOST_STATES, has_memory(student) or has_memory(teacher))
    play_out(resolve(student, env), episodes, seed, min(episodes, 8), on_step=recorder)
    visited = recorder.visited()
    theirs, ours = label_visited(teacher, visited), label_visited(student, visited)
    space = student.action_space
    low = torch.as_tensor(ActionMap(space).unit_low) if student.family.continuous else None
    measure, amounts = differences(teacher.family, theirs, student.family, ours, low)
    alike = compare_params(teacher.family, theirs, student.family, ours, space)
    chosen = _spread(amounts, visited.valid, count)
    states = _describe(visited, chosen, amounts, (teacher, theirs), (student, ours))
    return Disagreement(measure, states, float(amounts.mean()), float(amounts.quantile(0.95)), alike)


def _spread(amounts: Tensor, valid: Array, count: int) -> list[int]:
    """Return the largest of the N valid states, none of them near another in the same episode."""
    places = np.argwhere(valid)
    chosen: list[int] = []
    for i in torch.argsort(amounts, descending=True, stable=True).tolist():
        row, column = places[i]
        if amounts[i] <= 0 or len(chosen) == count:
            break
        near = (abs(places[j][0] - row) < _APART and places[j][1] == column for j in chosen)
        if not any(near):
            chosen.append(i)
    return chosen


def _describe(
    visited: Visited,
    chosen: list[int],
    amounts: Tensor,
    teacher: tuple[PolicyLike, Tensor],
    student: tuple[PolicyLike, Tensor],
) -> tuple[State, ...]:
    flat = map_obs(lambda a: a[visited.valid], visited.obs)
    parts = flat if isinstance(flat, dict) else {"": flat}
    spaces = getattr(student[0].observation_space, "spaces", {"": student[0].observation_space})
    pictures = {key: array for key, array in parts.items() if key in spaces and is_image(spaces[key])}
    vectors = {key: array.reshape(len(array), -1) for key, array in parts.items() if key not in pictures}
    moments = {key: (array.mean(axis=0), array.std(axis=0)) for key, array in vectors.items()}
    found = []
    for i in chosen:
        values = []
        for key, array in vectors.items():
            mean, std = moments[key]
            z = (array[i] - mean) / np.maximum(std, 1e-9)
            names = [f"{key or 'obs'}[{k}]" for k in range(array.shape[1])]
            values += list(zip(names, array[i].astype(float).tolist(), z.astype(float).tolist(), strict=True))
        drawn = tuple((key, as_picture(array[i])) for key, array in pictures.items())
        actions = [_action(policy, params[i]) for policy, params in (teacher, student)]
        found.append(State(float(amounts[i]), tuple(values), drawn, actions[0], actions[1]))
    return tuple(found)


def _action(policy: PolicyLike, params: Tensor) -> tuple[float, ...]:
    """[P] unit parameters -> the action that the policy takes, in environment units."""
    mode = distributions.mode(policy.family, params[None]).cpu().numpy()
    if not policy.family.continuous:
        return tuple(float(v) for v in np.atleast_1d(mode[0]))
    action = ActionMap(policy.action_space).to_env(mode, unit=True)
    return tuple(float(v) for v in np.atleast_1d(action[0]).ravel())


def as_picture(image: Array) -> Array:
    """[C, H, W] or [H, W, C] -> [H, W] or [H, W, 3] uint8: the newest picture of a stack; dark ones are brightened."""
    if image.shape[0] < image.shape[2] and image.shape[0] <= 16:
        image = image.transpose(1, 2, 0)
    channels = image.shape[2]
    newest = image[..., -3:] if channels % 3 == 0 else image[..., -1]
    brightest = int(newest.max(initial=0))
    factor = 255 // brightest if 0 < brightest < 64 else 1  # grids of things hold small numbers
    picture: Array = (newest.astype(np.int64) * factor).astype(np.uint8)
    return picture
