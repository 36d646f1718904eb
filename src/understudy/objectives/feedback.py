"""Weights that follow what is measured, and weights made of others; see ``schedules`` for those on the clock alone.

| text form                          | value                                                                          |
|------------------------------------|--------------------------------------------------------------------------------|
| ``gated(c)``                       | c max(0, 1 - (G_S - G_R) / (G_T - G_R))                                        |
| ``target_kl(d, initial)``          | ``initial`` times 1 + clip(D / d - 1, -0.2, 0.2) n / horizon after n env steps |
| ``target_kl(d, initial, horizon)`` | the same; the horizon is 10,000 env steps by default                           |

``curriculum(first, stages, tolerance)`` is for steps that a teacher plays, see ``Curriculum``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from understudy.errors import UserError
from understudy.objectives.schedules import Constant, Cosine, Linear, Piecewise, Weight, absolute, parse


class Gated:
    """c max(0, 1 - (G_S - G_R) / (G_T - G_R)): the better the student, the less it counts.

    G_S is the student's score in its last evaluation, G_T the teacher's, G_R the random policy's. Agarwal 2022
    (QDagger): lambda = 1[t < t0] max(0, 1 - G_S / G_T). Differs in: scores are measured from the random
    policy's up, so that they may be negative; G_S are evaluation episodes instead of the last training episodes; there
    is no t0. Before the first evaluation the student counts as random; a teacher no better than random never counts.
    """

    constant = False

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.teacher = self.random = self.student = math.nan
        """Scores, once they are known."""

    def value(self, env_steps: int) -> float:
        """Return the value for the scores known now."""
        span = self.teacher - self.random
        if span <= 0:
            return 0.0  # a teacher no better than chance has nothing to teach
        if math.isnan(self.student) or math.isnan(span):
            return self.scale
        return self.scale * min(max(0.0, 1 - (self.student - self.random) / span), 1.0)


class TargetKL:
    """A controller that holds the student at a distance d from its teacher (Ziegler 2019).

    e = clip(D / d - 1, -0.2, 0.2),  lambda <- lambda (1 + e n / horizon) after a rollout of n env steps whose updates
    saw the mean distance D. Differs in: the gain, 0.1 per batch there, is on the clock of env steps.
    """

    constant = False

    def __init__(self, target: float, initial: float, horizon: float = 10_000.0) -> None:
        if not (target > 0 and initial > 0 and horizon > 0):
            raise UserError("schedule target_kl: distance, initial weight and horizon must be above 0")
        self.target, self.horizon, self.number = target, horizon, initial

    def value(self, env_steps: int) -> float:
        """Return the value now."""
        return self.number

    def observe(self, distance: float, env_steps: int) -> None:
        """Take in the mean distance over the updates on a rollout of ``env_steps`` env steps."""
        error = min(max(distance / self.target - 1, -0.2), 0.2)
        # A rollout longer than the horizon still leaves a positive weight.
        self.number *= max(1 + error * env_steps / self.horizon, 0.1)


class Curriculum:
    """How many first steps of each episode the teacher plays: fewer, once both together do well (Uchendu 2022, alg. 1).

    h <- h - h_0 / stages after an evaluation with  G_h >= G_R + (1 - tolerance) (G_T - G_R),

    where G_h is the mean return of episodes in which the teacher plays the first h steps and the student the rest, G_T
    the teacher's and G_R the random policy's. Differs in: the bar is the teacher's own score, not the best so far less
    a tolerance; one evaluation decides, not a running mean.
    """

    constant = False

    def __init__(self, first: float, stages: float = 10.0, tolerance: float = 0.05) -> None:
        if not (first >= 1 and stages >= 1 and 0 <= tolerance < 1):
            raise UserError("schedule curriculum: needs steps and stages of at least 1, and a tolerance from 0 to 1")
        self.number, self.fall, self.tolerance = first, first / stages, tolerance
        self.teacher = self.random = math.nan
        """Scores, once they are known."""

    def value(self, env_steps: int) -> float:
        """Return the steps that the teacher plays now."""
        return self.number

    def note(self, score: float) -> None:
        """Take in the score of both together."""
        if score >= self.random + (1 - self.tolerance) * (self.teacher - self.random):
            self.number = self.number - self.fall if self.number > 1.5 * self.fall else 0.0


@dataclass(frozen=True)
class Scaled:
    """``factor`` times ``weight``, whose clock begins at ``begin``; 0 before."""

    weight: Weight
    factor: float = 1.0
    begin: int = 0

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        return 0.0 if env_steps < self.begin else self.factor * self.weight.value(env_steps - self.begin)

    @property
    def constant(self) -> bool:
        """Whether the value never changes, once it has begun."""
        return self.weight.constant


@dataclass(frozen=True)
class Product:
    """The product of two weights, 0 before ``begin``; both have the run's clock."""

    first: Weight
    second: Weight
    begin: int = 0

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        return 0.0 if env_steps < self.begin else self.first.value(env_steps) * self.second.value(env_steps)

    @property
    def constant(self) -> bool:
        """Whether the value never changes, once it has begun."""
        return self.first.constant and self.second.constant


def parse_weight(text: str, where: str, run: int) -> Weight:
    """Read a weight of a run of ``run`` env steps; every call returns one of its own.

    Raises:
        UserError: It is none.
    """
    said = absolute(str(text), run)
    match = re.fullmatch(r"\s*(gated|target_kl)\s*\(([^()]*)\)\s*", said)
    if match is None:
        return parse(said, where)
    try:
        numbers = [float(part) for part in match[2].split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{where}: {text!r} holds what is no number") from None
    if match[1] == "gated":
        if len(numbers) != 1 or not (numbers[0] > 0 and math.isfinite(numbers[0])):
            raise UserError(f"{where}: write gated(c) with one number c above 0, not {text!r}")
        return Gated(numbers[0])
    if len(numbers) not in (2, 3) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: write target_kl(distance, initial) or target_kl(distance, initial, horizon)")
    return TargetKL(*numbers)


def parse_jump(text: str, where: str, run: int) -> Weight:
    """Read a schedule of first steps, ``curriculum(first, stages, tolerance)`` among them.

    Raises:
        UserError: It is none.
    """
    match = re.fullmatch(r"\s*curriculum\s*\(([^()]*)\)\s*", str(text))
    if match is None:
        return parse(text, where, run)
    try:
        numbers = [float(part) for part in match[1].split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{where}: {text!r} holds what is no number") from None
    if not 1 <= len(numbers) <= 3 or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: write curriculum(steps, stages, tolerance), such as curriculum(100, 10, 0.05)")
    return Curriculum(*numbers)


def ends(weight: Weight) -> float:
    """Return the env steps from which on a weight is 0 for good; infinity where that is never, or not known."""
    if isinstance(weight, Constant):
        return 0.0 if weight.number == 0 else math.inf
    if isinstance(weight, (Linear, Cosine)):
        return weight.steps if weight.end == 0 else math.inf
    if isinstance(weight, Piecewise):
        if weight.points[-1][1] != 0:
            return math.inf
        # From the first of the points of value 0 at the end on.
        last = max((i for i, (_, value) in enumerate(weight.points) if value), default=-1)
        return weight.points[last + 1][0] if last >= 0 else 0.0
    if isinstance(weight, Curriculum):
        return 0.0 if weight.number == 0 else math.inf
    if isinstance(weight, Scaled):
        return 0.0 if weight.factor == 0 else weight.begin + ends(weight.weight)
    if isinstance(weight, Product):
        return min(ends(weight.first), ends(weight.second))
    return math.inf


def find(weight: Weight) -> Weight:
    """Return what a scaled weight, or the first of a product, is made of."""
    if isinstance(weight, Product):
        return find(weight.first)
    return find(weight.weight) if isinstance(weight, Scaled) else weight


def state(weight: Weight) -> dict[str, float]:
    """Return what a weight has measured, for an exact resume."""
    inner = find(weight)
    return {"number": inner.number} if isinstance(inner, (TargetKL, Curriculum)) else {}


def restore(weight: Weight, saved: Mapping[str, float]) -> None:
    """Go on from ``state``; a weight of another kind than the saved one begins as it is."""
    inner = find(weight)
    if isinstance(inner, (TargetKL, Curriculum)):
        inner.number = saved.get("number", inner.number)
