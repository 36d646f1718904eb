"""How many environment steps a teacher saved: pure functions over learning curves.

A curve is (env steps, score) of one run's evaluations; between them it is taken to be a straight line, and at step 0 it
is the random policy's score. Scores are measured from the random policy's up: 80 % of the teacher's score is
G_R + 0.8 (G_T - G_R).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.evaluation.statistics import Interval

SHARES = (0.5, 0.8, 0.95, 1.0)
Curve = Sequence[tuple[int, float]]


def steps_to(curve: Curve, score: float, start: float) -> float:
    """Return the env steps after which a curve first reaches a score; infinity where it never does.

    Args:
        curve: (env steps, score), with rising steps above 0.
        score: Aimed at.
        start: Score at step 0.
    """
    points = [(0.0, start), *curve]
    if start >= score:
        return 0.0
    for (k0, y0), (k1, y1) in zip(points[:-1], points[1:], strict=True):
        if y1 >= score:
            return k0 + (k1 - k0) * (score - y0) / (y1 - y0)
    return math.inf


@dataclass(frozen=True)
class Saving:
    """Env steps to one share of the teacher's score.

    Attributes:
        share: Of the teacher's score.
        score: What that is.
        student: [seeds] env steps with teachers; infinity where a run never came there.
        scratch: [seeds] without.
        speedup: Mean scratch steps over mean student steps; NaN where a student never came there.
        interval: Its 95 % bootstrap interval over seeds; NaN with fewer than two seeds.
        at_least: A scratch run did not come there and counts with its last evaluation: the speed-up is a lower bound.
        counted: The speed-up with the teachers' own env steps added to the student's; None where they are not known.
        counted_interval: Its interval.
    """

    share: float
    score: float
    student: tuple[float, ...]
    scratch: tuple[float, ...]
    speedup: float
    interval: Interval
    at_least: bool
    counted: float | None = None
    counted_interval: Interval | None = None


def saving(
    share: float,
    student: Sequence[Curve],
    scratch: Sequence[Curve],
    teacher: float,
    random: float,
    budget: int,
    teacher_steps: float | None = None,
) -> Saving:
    """Compare curves of several seeds at one share of the teacher's score.

    Args:
        share: Of the teacher's score.
        student: One curve per seed.
        scratch: Likewise, without teachers.
        teacher: The teacher's score.
        random: The random policy's.
        budget: Env steps of a run.
        teacher_steps: Env steps that the teachers cost.
    """
    score = random + share * (teacher - random)
    taught, alone = (tuple(steps_to(curve, score, random) for curve in curves) for curves in (student, scratch))
    ends = [min(curve[-1][0] if curve else 0, budget) for curve in scratch]
    capped = np.minimum(alone, ends)
    known = all(map(math.isfinite, taught)) and min(taught) > 0
    nan = Interval(math.nan, math.nan)
    speedup, interval = (_ratio(capped, np.array(taught))) if known else (math.nan, nan)
    counted, counted_interval = None, None
    if teacher_steps is not None:
        counted, counted_interval = _ratio(capped, np.array(taught) + teacher_steps) if known else (math.nan, nan)
    at_least = not all(map(math.isfinite, alone))
    return Saving(share, score, taught, alone, speedup, interval, at_least, counted, counted_interval)


def _ratio(above: Array, below: Array, resamples: int = 2000) -> tuple[float, Interval]:
    """mean(above) / mean(below) with its percentile bootstrap interval; both are resampled by themselves."""
    point = float(above.mean() / below.mean())
    if min(len(above), len(below)) < 2:
        return point, Interval(math.nan, math.nan)
    rng = np.random.default_rng(0)
    means = [a[rng.integers(0, len(a), (resamples, len(a)))].mean(axis=1) for a in (above, below)]
    low, high = np.quantile(means[0] / means[1], (0.025, 0.975))
    return point, Interval(float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Runs with teachers against runs without, on the same seeds.

    Attributes:
        env: Id of the environment.
        budget: Env steps of every run.
        teacher: The (best) teacher's score.
        random: The random policy's.
        student: One curve per seed.
        scratch: Likewise.
        student_final: Score of each seed after training, on fresh episodes.
        scratch_final: Likewise.
        weights: (env steps, lambda) of the first seed, for each teacher.
        savings: For each of ``SHARES``.
        teacher_steps: Env steps that the teachers cost; None where that was not told.
        early: Runs of both kinds that ``stop.score`` or ``stop.seconds`` ended before their budget.
    """

    env: str
    budget: int
    teacher: float
    random: float
    student: tuple[Curve, ...]
    scratch: tuple[Curve, ...]
    student_final: tuple[float, ...]
    scratch_final: tuple[float, ...]
    weights: dict[str, Curve]
    savings: tuple[Saving, ...]
    teacher_steps: float | None = None
    early: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain data; numbers that are none (never reached) become null."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain


def finite(value: Any) -> Any:
    """Return nested data with None for numbers that are none, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_span(teacher: float, random: float) -> None:
    """Refuse a teacher that is no better than chance: there is nothing to be fast at.

    Raises:
        UserError: With both scores.
    """
    if not teacher > random:
        raise UserError(
            f"the teacher scores {teacher:.4g}, the random policy {random:.4g}: shares of the teacher's score mean "
            "nothing here; kickstart without --against-scratch"
        )
