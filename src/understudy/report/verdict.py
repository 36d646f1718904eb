"""What came out, in words, and only as much as the numbers bear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from understudy.evaluation.compare import Comparison, Row
from understudy.evaluation.evaluate import counted
from understudy.evaluation.tables import interval, number, p_value
from understudy.report.folder import Group, RunFolder

GOOD, OPEN, SHORT = "good", "open", "short"
"""Shown, not decided, shown not to be."""
_SEEDS = 3
"""Fewer do not show anything: the bootstrap's interval of two is their range."""
_ENDS = {
    "parity": "the test of the run itself passed",
    "env_steps": "all env steps were done",
    "seconds": "the time was over",
    "score": "the score that was asked for was reached",
}


@dataclass(frozen=True)
class Verdict:
    """A headline, and the numbers behind it.

    Attributes:
        tone: ``good``, ``open`` or ``short``.
        headline: A few words.
        text: Sentences.
    """

    tone: str
    headline: str
    text: str


def verdict_of(
    groups: Sequence[Group], comparison: Mapping[str, Any] | None, table: Comparison | None, teachers: int = 1
) -> Verdict:
    """Say what came out of runs; the first group is the one that it is about.

    Args:
        groups: Of runs.
        comparison: With scratch, if there is one.
        table: Everyone on the same episodes: teachers, the best of them first, then students.
        teachers: How many there are in the table.
    """
    run = groups[0].runs[0]
    if comparison is not None:
        return _saved(comparison)
    if run.kind == "train":
        return _trained(groups[0])
    rows = [] if table is None else table.rows[teachers:]
    students = [row for row in rows if row.name.partition(",")[0] != "scratch"]
    if table is None or not students:
        return _of_one(_without_table(run), groups[0], groups[0].name_of(run))
    if len(students) > 1:
        return _several(students, table, "the teacher’s" if teachers == 1 else f"{table.reference.name}’s")
    return _of_one(_against_teacher(run, students[0], table, teachers), groups[0], students[0].name)


def _of_one(found: Verdict, group: Group, name: str) -> Verdict:
    """Say which run a verdict is about, where there are several that differ in their seeds."""
    seed = name.partition(", seed ")[2]
    return replace(found, headline=f"{found.headline} (seed {seed} of {len(group.runs)} runs)") if seed else found


def _share(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def _ended(run: RunFolder) -> str:
    if run.summary is None:
        return "The run has not ended."
    steps = int(run.summary.get("env_steps", 0))
    reason = _ENDS.get(str(run.summary.get("stopped", "")), "it was stopped")
    return f"The run ended after {steps:,} env steps because {reason}."


def _against_teacher(run: RunFolder, row: Row, table: Comparison, teachers: int) -> Verdict:
    best = table.reference.name
    whom, whose = ("its teacher", "its teacher’s") if teachers == 1 else (f"{best}, its best teacher", f"{best}’s")
    if row.parity is None:
        return Verdict(OPEN, "No test was possible", " ".join([*table.notes, _ended(run)]))
    above = row.evaluation.mean_interval.low > table.reference.evaluation.mean_interval.high
    text = [_measured(row, table, whose), _tested(row, table)]
    unseen = row.parity.unseen_rate
    each = " of each task" if table.random.tasks else ""
    text.append(
        f"{row.parity.episodes} episodes{each} cannot show what happens in less than {100 * unseen:.1f} % of them."
    )
    text.append(_ended(run))
    if not row.parity.passed:
        headline = f"Not shown to be on par with {whom}"
        return Verdict(SHORT if (row.ratio or 0) < row.parity.ratio else OPEN, headline, " ".join(text))
    return Verdict(GOOD, f"{'Better than' if above else 'On par with'} {whom}", " ".join(text))


def _measured(row: Row, table: Comparison, whose: str = "its teacher’s") -> str:
    teacher = table.reference.evaluation
    worst, link = (" in its worst task", "; over all tasks, ") if table.random.tasks else ("", ": ")
    return (
        f"On {counted(row.evaluation.episodes, 'fresh episode')} the student earns {_share(row.ratio)} of {whose} "
        f"return{worst}, measured from the random policy up{link}{number(row.evaluation.mean)} "
        f"{interval(row.evaluation.mean_interval)} against {number(teacher.mean)} {interval(teacher.mean_interval)}, "
        f"random {number(table.random.mean)}."
    )


def _tested(row: Row, table: Comparison) -> str:
    assert row.parity is not None
    verb = "passes" if row.parity.passed else "does not pass"
    bound = row.parity.ratio_lower_bound
    sure = (
        f" With {100 * (1 - table.alpha):g} % confidence the share is at least {_share(bound)}." if bound > -1e6 else ""
    )
    return (
        f"The paired one-sided test that it reaches at least {100 * row.parity.ratio:g} % {verb} at level "
        f"{table.alpha:g} (p {p_value(row.parity.p_value)}).{sure}"
    )


def _several(students: Sequence[Row], table: Comparison, whose: str) -> Verdict:
    """Say which of several students are on par."""
    passed = [row for row in students if row.parity is not None and row.parity.passed]
    told = [
        f"{row.name} {_share(row.ratio)}" + (f" (p {p_value(row.parity.p_value)})" if row.parity else "")
        for row in students
    ]
    text = (
        f"Shares of {whose} return on {counted(students[0].evaluation.episodes, 'fresh episode')}, measured from the "
        f"random policy up: {'; '.join(told)}. Each was tested by itself to reach at least "
        f"{100 * table.wanted_ratio:g} %, at level {table.alpha:g}."
    )
    headline = f"{len(passed) or 'None'} of {len(students)} students shown to be on par"
    return Verdict(GOOD if passed else OPEN, headline, text)


def _without_table(run: RunFolder) -> Verdict:
    """Speak of the evaluations while learning: those that decided when to stop."""
    if run.kind == "kickstart" and run.summary is not None and run.summary.get("score") is not None:
        low, high = run.summary["interval"]
        text = f"The return is {number(run.summary['score'])} [{number(low)}, {number(high)}] on fresh episodes."
        return Verdict(OPEN, "Not compared with its teacher", f"{text} {_ended(run)}")
    ratio = run.last("ratio")
    if ratio is None:
        return Verdict(OPEN, "No verdict yet", f"No evaluation was finished. {_ended(run)}")
    episodes = run.last("eval_episodes")
    text = (
        f"In its last evaluation while learning, {counted(episodes)}, the student earned {_share(ratio)} of its "
        f"teacher’s return, measured from the random policy up. {_ended(run)}"
    )
    if run.summary is not None and run.summary.get("stopped") == "parity":
        return Verdict(
            GOOD, "On par while learning", f"{text} Fresh episodes, on which nothing was decided, are missing."
        )
    return Verdict(OPEN, "No verdict yet", text)


def _trained(group: Group) -> Verdict:
    run = group.runs[0]
    scores = [r.summary["score"] for r in group.runs if r.summary is not None and _finite(r.summary.get("score"))]
    if not scores:
        last = run.last("eval_return")
        said = (
            "No evaluation was finished." if last is None else f"The last evaluation gave a return of {number(last)}."
        )
        return Verdict(OPEN, "No final score yet", f"{said} {_ended(run)}")
    if len(scores) > 1:
        mean = float(np.mean(scores))
        span = f"from {number(min(scores))} to {number(max(scores))}"
        text = f"Mean over {len(scores)} runs, {span}; each on fresh episodes."
        return Verdict(GOOD, f"Return {number(mean)}", f"{text} {_ended(run)}")
    assert run.summary is not None
    low, high = run.summary["interval"]
    count = run.settings["evaluation"]["final"]
    text = f"Mean of {counted(count, 'fresh episode')}, 95 % interval [{number(low)}, {number(high)}]. {_ended(run)}"
    return Verdict(GOOD, f"Return {number(scores[0])}", text)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _saved(found: Mapping[str, Any]) -> Verdict:
    """Speak of env steps to 95 % of the teacher's score."""
    row = next((s for s in found["savings"] if abs(s["share"] - 0.95) < 1e-9), found["savings"][-1])
    seeds = len(found["student"])
    final = (
        f"At the end, kickstarted runs score {number(float(np.mean(found['student_final'])))}, runs from scratch "
        f"{number(float(np.mean(found['scratch_final'])))}; the teacher {number(found['teacher'])}, the random policy "
        f"{number(found['random'])}. {seeds} seed{'s' if seeds > 1 else ''} of each."
    )
    goal = f"{100 * row['share']:.0f} % of the teacher’s score"
    if row["speedup"] is None:
        return Verdict(SHORT, "No saving can be told", f"Not every kickstarted run came to {goal}. {final}")
    low, high = row["interval"]
    least = "at least " if row["at_least"] else ""
    text = f"From scratch it takes {least}{row['speedup']:.2f} times the env steps to reach {goal}"
    if low is None or high is None:
        return Verdict(
            OPEN, f"{least}{row['speedup']:.2f}× faster".capitalize(), f"{text}; one seed has no interval. {final}"
        )
    text += f" (95 % bootstrap interval over seeds [{low:.2f}, {high:.2f}])."
    if seeds < _SEEDS:
        text += " So few seeds make intervals that are too narrow."
    if low > 1:
        headline = f"{least}{row['speedup']:.2f}× faster with its teacher".capitalize()
        if _ends_lower(found):
            return Verdict(OPEN, f"{headline}, but it ends lower than from scratch", f"{text} {final}")
        return Verdict(GOOD if seeds >= _SEEDS else OPEN, headline, f"{text} {final}")
    if row["at_least"]:
        text += " That is a bound only: a run from scratch ended before it came there."
    elif high < 1:
        return Verdict(SHORT, "Slower with its teacher", f"{text} {final}")
    else:
        text += " The interval holds 1: no difference."
    return Verdict(OPEN, "No clear saving", f"{text} {final}")


def _ends_lower(found: Mapping[str, Any]) -> bool:
    """Whether kickstarted runs end lower than those from scratch, by 5 % of the teacher's score or more."""
    gap = float(np.mean(found["scratch_final"])) - float(np.mean(found["student_final"]))
    least: float = 0.05 * (found["teacher"] - found["random"])
    return gap > least
