"""Is an exported file the same policy? Its answers against the student's, in the same states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from understudy.errors import UserError
from understudy.io.export.states import Answers, States, ask
from understudy.policies.distributions import split
from understudy.policies.family import ActionMap
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.spec import ABSENT

TOLERANCE = 1e-4
"""Largest difference of a float32 export that is still rounding, relative to parameters above 1."""
_TIE = 1e-5
"""Two greatest logits closer than this, relative to the greatest: the action is a matter of rounding."""


@dataclass(frozen=True)
class Difference:
    """How far an export is from its student, over N states.

    Attributes:
        states: N.
        action: Largest difference of an action component; of discrete actions the share that differs.
        mean_action: Mean difference of action components, likewise.
        params: Largest difference of a distribution parameter, in unit actions where continuous.
        relative: Likewise, divided by the largest parameter where that is above 1.
        discrete: Whether actions are discrete.
    """

    states: int
    action: float
    mean_action: float
    params: float
    relative: float
    discrete: bool

    def text(self) -> str:
        """Describe it in one line."""
        if self.discrete:
            return (
                f"actions differ in {self.action:.2%} of {self.states} states, parameters by {self.params:.2g} at most"
            )
        return f"largest error of an action {self.action:.2g} (mean {self.mean_action:.2g}) in {self.states} states"


def compare(student: Policy, export: PolicyLike, states: States, answers: Answers | None = None) -> Difference:
    """Compare an export with its student.

    Raises:
        UserError: The answers have other shapes, or are not finite.
    """
    ours, theirs = answers or ask(student, states), ask(export, states)
    if ours.params.shape != theirs.params.shape or ours.action.shape != theirs.action.shape:
        raise UserError(
            f"the export answers {theirs.params.shape} and {theirs.action.shape}, the student "
            f"{ours.params.shape} and {ours.action.shape}"
        )
    return measure(student, ours, theirs)


def measure(student: Policy, ours: Answers, theirs: Answers) -> Difference:
    """Compare answers in the same states."""
    params = np.abs(ours.params.astype(np.float64) - theirs.params)
    action_map = ActionMap(student.action_space)
    if student.family.name == "squashed_gaussian":  # an export publishes deviations as they are used: bounded
        first, second = (split(student.family, torch.as_tensor(one.params)) for one in (ours, theirs))
        params = torch.cat([(a.double() - b).abs() for a, b in zip(first, second, strict=True)], dim=1).numpy()
    if student.family.name == "deterministic":  # an export publishes the action, which is clipped
        clipped = np.clip(ours.params, action_map.unit_low, -action_map.unit_low)
        params = np.abs(clipped.astype(np.float64) - theirs.params)
    largest = largest_of(ours.params)
    if student.family.continuous:
        gap = np.abs(ours.action.astype(np.float64) - theirs.action)
        action, mean = float(gap.max()), float(gap.mean())
    else:
        differs = (ours.action != theirs.action).reshape(len(ours.action), -1)
        clear = ~_ties(student, ours.params) if differs.any() else np.ones(len(differs), bool)
        action = mean = float((differs.any(axis=1) & clear).mean())
    return Difference(
        len(ours.action),
        action,
        mean,
        float(params.max()),
        float(params.max()) / largest,
        not student.family.continuous,
    )


def largest_of(params: np.ndarray) -> float:
    """Return the largest magnitude of parameters, at least 1; choices that a state does not have do not count."""
    return max(1.0, float(np.abs(params[params > ABSENT / 2]).max(initial=0.0)))


def _ties(student: Policy, params: np.ndarray) -> np.ndarray:
    """[N] bool: the two greatest logits of some part are equal but for rounding."""
    tied = np.zeros(len(params), bool)
    for part in np.split(params, np.cumsum(student.family.sizes)[:-1], axis=1):
        top = np.sort(part, axis=1)[:, -2:]
        if top.shape[1] == 2:
            tied |= top[:, 1] - top[:, 0] < _TIE * np.maximum(1.0, np.abs(top[:, 1]))
    return tied


def is_equal(found: Difference) -> bool:
    """Whether a float32 export is its student but for rounding."""
    return found.relative <= TOLERANCE and not (found.discrete and found.action > 0)


def demand_equal(found: Difference, what: str) -> None:
    """Refuse a float32 export that is not its student.

    Raises:
        UserError: With the largest difference.
    """
    if not is_equal(found):
        raise UserError(f"{what} is not written: it does not act as the student does ({found.text()})")
