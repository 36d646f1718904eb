"""Learning curves of one run or of several seeds, with intervals: pure functions over what was logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from understudy.data import Array
from understudy.evaluation.statistics import bootstrap_interval
from understudy.report.folder import Group, RunFolder

MOST_POINTS = 160
"""Of a drawn line: more cannot be told apart in a picture."""


@dataclass(frozen=True)
class Point:
    """An evaluation while learning.

    Attributes:
        steps: Env steps.
        value: Mean return.
        low: Lower end of the 95 % interval of the mean; NaN where it is not known.
        high: Upper end.
    """

    steps: float
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Curve:
    """A curve of one run, or the mean of several.

    Attributes:
        label: What it is.
        points: With rising steps.
        singles: The curves of the single runs, where there are several.
        interval: What the interval is, in words; empty without one.
    """

    label: str
    points: tuple[Point, ...]
    singles: tuple[tuple[Point, ...], ...] = ()
    interval: str = ""


def mean_interval(mean: float, std: float, count: int) -> tuple[float, float]:
    """Return mean -+ t(0.975, n - 1) s / sqrt(n), from the population deviation ``std`` of n episodes.

    The episodes of evaluations while learning are not kept, so Student's interval stands in for the bootstrap's.
    """
    if count < 2 or not math.isfinite(std):
        return math.nan, math.nan
    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count - 1)
    return mean - half, mean + half


def evaluations(run: RunFolder) -> tuple[Point, ...]:
    """Return the evaluations that a run logged."""
    found = []
    for row in run.rows:
        if run.kind == "distill":
            steps, mean = row["env_steps"], row.get("student_return")
            std, count = row.get("student_std"), row.get("eval_episodes", 0)
        else:
            steps, mean, std = row.get("eval_env_steps"), row.get("eval_return"), row.get("eval_std")
            count = run.settings["evaluation"]["episodes"]
        if mean is not None and steps is not None:
            found.append(Point(steps, mean, *mean_interval(mean, math.nan if std is None else std, count)))
    return tuple(found)


def learning_curve(group: Group, start: float | None = None) -> Curve:
    """Return the curve of a group of runs.

    Args:
        group: One run, or several seeds.
        start: Return at step 0, the random policy's; None where it is not known.
    """
    singles = [points for run in group.runs if (points := evaluations(run))]
    if start is not None:
        singles = [(Point(0, start), *points) for points in singles]
    if len(singles) <= 1:
        points = singles[0] if singles else ()
        known = any(math.isfinite(point.low) for point in points)
        return Curve(group.label, points, (), "95 % interval of the mean over its episodes" if known else "")
    return Curve(
        group.label,
        over_runs(singles),
        tuple(singles),
        f"95 % bootstrap interval over {len(singles)} runs",
    )


def over_runs(curves: Sequence[Sequence[Point]]) -> tuple[Point, ...]:
    """Return mean and bootstrap interval over runs at every step at which one of them was evaluated.

    Between evaluations lines are straight; only steps count that all runs have reached, and have begun before.
    """
    low, high = max(c[0].steps for c in curves), min(c[-1].steps for c in curves)
    grid = sorted({p.steps for c in curves for p in c if low <= p.steps <= high})
    values = np.array([np.interp(grid, [p.steps for p in c], [p.value for p in c]) for c in curves])
    return tuple(
        Point(steps, float(column.mean()), *bootstrap_interval(column))
        for steps, column in zip(grid, values.T, strict=True)
    )


def metric(group: Group, name: str) -> Curve:
    """Return a logged metric of a group of runs, averaged in bins so that it can be drawn, and then over runs."""
    singles = []
    for run in group.runs:
        pairs = [(row["env_steps"], row[name]) for row in run.rows if isinstance(row.get(name), (int, float))]
        if pairs:
            singles.append(thinned(np.array(pairs, np.float64)))
    if len(singles) <= 1:
        return Curve(group.label, singles[0] if singles else ())
    low, high = max(c[0].steps for c in singles), min(c[-1].steps for c in singles)
    if low > high:
        return Curve(group.label, singles[0])
    grid = np.linspace(low, high, min(MOST_POINTS, max(map(len, singles))))
    values = np.array([np.interp(grid, [p.steps for p in c], [p.value for p in c]) for c in singles])
    return Curve(group.label, tuple(Point(float(k), float(v)) for k, v in zip(grid, values.mean(axis=0), strict=True)))


def thinned(pairs: Array, most: int = MOST_POINTS) -> tuple[Point, ...]:
    """[N, 2] (step, value) -> at most ``most`` points, each the mean of neighbours; the last one is kept."""
    if len(pairs) <= most:
        return tuple(Point(float(k), float(v)) for k, v in pairs)
    bins = np.array_split(pairs[:-1], most - 1)
    means = [part.mean(axis=0) for part in bins]
    return tuple(Point(float(k), float(v)) for k, v in [*means, pairs[-1]])
