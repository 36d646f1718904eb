"""How far a student of several tasks has come: one number, whatever the scales of their returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """What is known of one task.

    Attributes:
        teacher: G_T, mean return of the task's teacher.
        random: G_R, of the random policy.
    """

    teacher: float
    random: float


def capped_score(returns: Sequence[float], levels: Sequence[Level]) -> float:
    """Mean over tasks of min(1, (G_S - G_R) / (G_T - G_R)).

    1 where the student is at least its teacher in every task, 0 at the random policy's level. Schmitt 2018 (section
    4.1) caps scores normalised by human play. Differs in: by the teachers' scores instead; a task whose teacher is no
    better than chance is left out, for there is nothing to measure by.

    Args:
        returns: G_S of each task.
        levels: Of each task.

    Returns:
        The score; NaN where no task can be measured.
    """
    shares = [
        min(1.0, (own - level.random) / (level.teacher - level.random))
        for own, level in zip(returns, levels, strict=True)
        if level.teacher > level.random
    ]
    return float(np.mean(shares)) if shares else float("nan")
