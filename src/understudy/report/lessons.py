"""What kickstarted runs log of their teachers: weights and distances, by the names that the log has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from understudy.report.folder import RunFolder

_KL = {"forward_kl", "reverse_kl", "cross_entropy", "reverse_cross_entropy"}
"""Distances that are logged as a KL divergence; see ``objectives.teaching.FromTeacher``."""
_DISTANCE = ("kl/", "distance/")


def is_distance(name: str) -> bool:
    """Whether a metric is the distance to a teacher."""
    return name.startswith(_DISTANCE)


def whom(name: str) -> str:
    """Call the teacher of a distance: ``kl/teacher`` -> the teacher, ``kl/teacher_1`` -> teacher_1."""
    teacher = name.partition("/")[2]
    return "the teacher" if teacher == "teacher" else teacher


def lessons(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """Return (metric, title) of the weights, then of the distances, that runs have logged."""
    names = list(dict.fromkeys(name for run in runs for row in run.rows for name in row))
    weights = [name for name in names if name.startswith("teacher") and name.endswith("_weight")]
    return [(name, _weight(name)) for name in weights] + [(n, _distance(n, runs)) for n in names if is_distance(n)]


def _weight(name: str) -> str:
    if name == "teacher_weight":
        return "λ, weight of the teacher"
    letter = "λ" if re.fullmatch(r"teacher_\d+_weight", name) else "weight"
    return f"{letter} of {name.removesuffix('_weight')}"


def _distance(name: str, runs: Sequence[RunFolder]) -> str:
    kinds = {_kind(run, name.partition("/")[2]) for run in runs if run.last(name) is not None}
    if kinds and kinds <= _KL:
        return f"KL to {whom(name)}, nats"
    kind = kinds.pop() if len(kinds) == 1 else ""
    return f"Distance to {whom(name)}" + (f" ({kind})" if kind else "")


def _kind(run: RunFolder, teacher: str) -> str:
    """Return the name of a distance; empty where it is ``auto`` and the run is too old to say what that was."""
    resolved = run.config.get("distances", {}).get(teacher)
    named = run.settings["teaching"].get("distance", {}).get("name", "auto")
    return str(resolved or ("" if named == "auto" else named))
