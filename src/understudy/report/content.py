"""What a report says, before it becomes HTML or Markdown: read from run folders, measured where it can be."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from understudy import __version__
from understudy.errors import UserError
from understudy.evaluation.agreement import Agreement
from understudy.evaluation.compare import Comparison, Row, tested_for
from understudy.evaluation.evaluate import Evaluation, counted
from understudy.evaluation.latency import Latency
from understudy.evaluation.parity import Parity
from understudy.evaluation.statistics import Interval
from understudy.evaluation.tables import number
from understudy.report.command import command_of, configuration
from understudy.report.disagreement import Disagreement
from understudy.report.folder import Group, RunFolder
from understudy.report.measure import Measured, shown
from understudy.report.runtimes import Size
from understudy.report.verdict import Verdict, verdict_of

_VERSIONS = ("torch", "numpy", "gymnasium", "onnxruntime")


@dataclass(frozen=True)
class Card:
    """A policy in a few lines."""

    role: str
    name: str
    rows: tuple[tuple[str, str], ...]


@dataclass
class Content:
    """All that a report says.

    Attributes:
        title: What was done, where.
        kind: ``distill``, ``train`` or ``kickstart``.
        verdict: In words.
        cards: Teachers, then the student.
        facts: (what, value) of the run itself.
        groups: The runs behind the curves.
        references: (name, return) of teacher and random policy, where they are known.
        table: Everyone on the same episodes.
        saved: ``comparison.json`` of a kickstarted run against scratch.
        sizes: Parameters, arithmetic and latency.
        disagreement: Where student and teacher differ most.
        film: To be embedded.
        command: That repeats the run.
        configuration: As YAML.
        versions: Of what ran when the report was made.
        missing: What could not be said, and how to get it.
        teachers: Their names in the table, whose first rows they are.
        picture: Of a population.
    """

    title: str
    kind: str
    env: str
    verdict: Verdict
    cards: list[Card]
    facts: list[tuple[str, str]]
    groups: list[Group]
    references: list[tuple[str, float]]
    table: Comparison | None
    saved: dict[str, Any] | None
    sizes: list[Size]
    disagreement: Disagreement | None
    film: Path | None
    command: str
    configuration: str
    versions: list[tuple[str, str]]
    missing: list[str] = field(default_factory=list)
    teachers: tuple[str, ...] = ("teacher",)
    picture: Path | None = None


_ENDLESS = {"ratio_lower_bound": -math.inf, "degrees": math.inf}
"""What null stands for in a parity test that was written."""


def comparison_from_json(data: Mapping[str, Any]) -> Comparison:
    """Build what ``Comparison.to_json`` wrote.

    Raises:
        UserError: It is damaged, or of another version.
    """
    try:
        rows = [_row(row) for row in data["rows"]]
        notes = [str(note) for note in data["notes"]]
        random = _evaluation(data["random"])
        return Comparison(data["env"], rows, random, data["wanted_ratio"], data["alpha"], notes)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"result.json cannot be read ({type(error).__name__}: {error}): damaged, or too old") from None


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    values = dict(data)
    for name in ("mean_interval", "iqm_interval"):
        values[name] = Interval(*values[name])
    for name in ("returns", "lengths", "seeds"):
        values[name] = np.array(values[name])
    values["tasks"] = tuple(_evaluation(task) for task in values["tasks"])
    return Evaluation(**values)


def _row(data: Mapping[str, Any]) -> Row:
    values = dict(data, evaluation=_evaluation(data["evaluation"]))
    if values["parity"] is not None:
        endless = {name: end for name, end in _ENDLESS.items() if values["parity"][name] is None}
        values["parity"] = {**values["parity"], **endless}
    for name, cls in (("parity", Parity), ("latency", Latency), ("agreement", Agreement)):
        if values[name] is not None:
            values[name] = cls(**values[name])
    return Row(**values)


def stored_table(groups: Sequence[Group], missing: list[str]) -> Comparison | None:
    """Return the tables that distillations left, joined: the teacher, and a student of every group.

    All tests ask for what the first run was asked for.
    """
    found: list[tuple[str, Comparison]] = []
    teachers: set[tuple[str, ...]] = set()
    for group in groups:
        for run in group.runs:
            if run.result is None:
                continue
            try:
                found.append((group.name_of(run), comparison_from_json(run.result)))
                teachers.add(tuple(run.teachers))
            except UserError as error:
                missing.append(f"{run.path.name}: {error}")
    if not found:
        return None
    first = found[0][1]
    rows = [first.rows[0]]
    for name, one in found:
        rows += [_renamed(row, name) for row in tested_for(one, first.wanted_ratio).rows[1:]]
    notes = list(dict.fromkeys(note for _, one in found for note in one.notes))
    others = [f"{name} ({one.wanted_ratio:g})" for name, one in found if one.wanted_ratio != first.wanted_ratio]
    if others:
        notes.append(f"All are tested for {first.wanted_ratio:g} here; other shares were asked of {', '.join(others)}.")
    if len(teachers) > 1:
        notes.append(
            "The runs have different teachers: each student was compared with its own, the first one is shown."
        )
    seeds = {tuple(one.reference.evaluation.seeds) for _, one in found}
    if len(seeds) > 1:
        notes.append("The runs played different episodes; each was tested against its teacher on its own.")
    return Comparison(first.env, rows, first.random, first.wanted_ratio, first.alpha, notes)


def _renamed(row: Row, name: str) -> Row:
    return Row(**{**vars(row), "name": name})


def compose(groups: list[Group], comparison: dict[str, Any] | None, measured: Measured, missing: list[str]) -> Content:
    """Put together what the folders hold and what was measured.

    Args:
        groups: Of runs.
        comparison: With scratch, if there is one.
        measured: Policies, and what they do today.
        missing: What is known to be missing; more is added.
    """
    run = groups[0].runs[0]
    table = measured.table or stored_table(groups, missing)
    _note_missing(groups, table, measured.no_table, missing)
    cards = [*measured.cards_of_teachers, *([measured.card_of_student] if measured.card_of_student else [])]
    verb = {"distill": "Distilled", "train": "Trained", "kickstart": "Kickstarted"}[run.kind]
    return Content(
        title=f"{verb} in {run.env_id}",
        kind=run.kind,
        env=run.env_id,
        verdict=verdict_of(groups, comparison, table, len(measured.teachers)),
        cards=[Card(*card) for card in cards],
        facts=_facts(groups, comparison is not None),
        groups=groups,
        references=_references(run, comparison, table),
        table=table,
        saved=comparison,
        sizes=measured.sizes,
        disagreement=measured.disagreement,
        film=measured.film,
        command=command_of(run, comparison),
        configuration=configuration(run),
        versions=_versions(),
        missing=list(dict.fromkeys(missing)),
        teachers=measured.teachers,
        picture=run.picture,
    )


def _note_missing(groups: Sequence[Group], table: Comparison | None, no_table: str, missing: list[str]) -> None:
    for run in (run for group in groups for run in group.runs):
        name = run.path
        if run.summary is None:
            missing.append(f"{name}: the run has not ended; understudy {run.kind} --resume {name} goes on with it")
        if not run.rows:
            missing.append(f"{name}: nothing was logged yet, so there are no curves")
        elif not any("student_return" in row or "eval_return" in row for row in run.rows):
            missing.append(f"{name}: no evaluation was finished while learning, so there is no learning curve")
        if run.student is None:
            missing.append(f"{name}: no policy was saved yet")
    if table is None and no_table and groups[0].runs[0].kind != "train":
        missing.append(f"there is no table of fresh episodes: {no_table}")


def _references(
    run: RunFolder, comparison: Mapping[str, Any] | None, table: Comparison | None
) -> list[tuple[str, float]]:
    teacher, random = run.last("teacher_return"), run.last("random_return")
    if comparison is not None:
        teacher, random = comparison["teacher"], comparison["random"]
    elif run.scores is not None:
        teacher, random = max(run.scores["teachers"]), run.scores["random"]
    elif table is not None and run.kind != "distill":
        teacher, random = table.reference.evaluation.mean, table.random.mean
    return [(name, value) for name, value in (("teacher", teacher), ("random", random)) if value is not None]


def _facts(groups: Sequence[Group], compared: bool) -> list[tuple[str, str]]:
    run = groups[0].runs[0]
    folder = run.path.parent if compared else run.path
    count = sum(len(group.runs) for group in groups)
    facts = [("environment", run.env_id), ("run folder", shown(str(folder)))]
    if count > 1:
        facts.append(("runs", ", ".join(f"{len(g.runs)} × {g.label}" for g in groups)))
    if run.rows:
        steps, budget = int(run.rows[-1]["env_steps"]), run.budget
        facts.append(("env steps", f"{steps:,} of at most {budget:,}"))
        facts.append(_members(run) if run.members else ("updates", f"{int(run.last('updates') or 0):,}"))
    summary = run.summary or {}
    if "seconds" in summary:
        seconds = summary["seconds"]
        parts = [f"{key} {seconds[key]:.1f}" for key in ("collect", "label", "learn", "evaluate") if key in seconds]
        facts.append(("wall time", f"{seconds['total']:.1f} s" + (f" ({', '.join(parts)})" if parts else "")))
    if summary.get("restarts"):
        facts.append(("workers replaced", f"{summary['restarts']} ({counted(summary['lost_episodes'])} lost)"))
    seeds = sorted({int(r.settings.get("seed", 0)) for group in groups for r in group.runs})
    facts.append(("seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds))))
    return facts


def _members(run: RunFolder) -> tuple[str, str]:
    """Say that a run is a population, and where its picture is."""
    text = f"{run.members} members of so many env steps each; curves are those of the best of each interval"
    return "population", text if run.picture is None else f"{text}; picture: {shown(str(run.picture))}"


def _versions() -> list[tuple[str, str]]:
    found = [("understudy", __version__), ("Python", platform.python_version())]
    for name in _VERSIONS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


__all__ = ["Card", "Content", "comparison_from_json", "compose", "number", "stored_table"]
