"""What did the teachers save? The same preset with and without them, on the same seeds, judged alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from understudy.errors import UserError
from understudy.evaluation.speedup import SHARES, Comparison, check_span, saving
from understudy.kickstart_job import KickstartJob
from understudy.kickstarting import Lessons, measured_scores
from understudy.policies.files import write_atomic
from understudy.session import Report
from understudy.training import TrainResult, train

Tell = Callable[[str, int, TrainResult], None]
"""Called after each run with its kind, ``kickstarted`` or ``scratch``, and its seed."""


def against_scratch(
    job: KickstartJob,
    seeds: int = 1,
    teacher_steps: float | None = None,
    tell: Tell | None = None,
    report: Report | None = None,
) -> Comparison:
    """Train with and without teachers; runs of both kinds take turns.

    Args:
        job: From ``prepare``; its folder gets ``kickstarted-SEED``, ``scratch-SEED`` and ``comparison.json``. Learners
            wait for their evaluations here, so that curves have the points they should have.
        seeds: Runs of each kind, with the seeds ``settings.seed``, ``settings.seed + 1``, ...
        teacher_steps: Env steps that the teachers cost, for a second count.
        tell: Called after each run.
        report: Called with the metrics of each round.

    Raises:
        UserError: Anything the user can mend, such as teachers that are no better than chance.
    """
    settings = job.settings
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    if not settings.evaluation.every or not settings.evaluation.final:
        raise UserError("--against-scratch reads curves: evaluation.every and evaluation.final must be above 0")
    if teacher_steps is not None and not teacher_steps >= 0:
        raise UserError(f"--teacher-steps must be 0 or more, not {teacher_steps}")
    if (job.folder / "comparison.json").exists():
        raise UserError(f"{job.folder} holds a comparison already: --run FOLDER starts another")
    settings = replace(settings, evaluation=replace(settings.evaluation, wait=True))
    scores = measured_scores(job)
    teacher, random = max(scores["teachers"]), scores["random"]
    check_span(teacher, random)
    results: dict[str, list[TrainResult]] = {"kickstarted": [], "scratch": []}
    weights: dict[str, list[tuple[int, float]]] = {}
    for seed in range(settings.seed, settings.seed + seeds):
        own = replace(job, settings=replace(settings, seed=seed), folder=job.folder / f"kickstarted-{seed}")
        for kind in results:
            if kind == "kickstarted":
                noted = _noting(weights if seed == settings.seed else {}, report)
                result = train(settings=own.settings, run=own.folder, teach=Lessons(own, scores), report=noted)
            else:
                result = train(settings=own.settings.alone, run=job.folder / f"scratch-{seed}", report=report)
            results[kind].append(result)
            if tell is not None:
                tell(kind, seed, result)
    found = _compare(job, results, weights, teacher, random, teacher_steps)
    write_atomic(job.folder / "comparison.json", json.dumps(found.to_json(), indent=2).encode())
    return found


def _noting(weights: dict[str, list[tuple[int, float]]], report: Report | None) -> Report:
    """Return a report that also notes lambda after each round, by teacher."""

    def note(metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            # The objective calls them NAME_weight; those of the teachers' values and of the student's own terms differ.
            if re.fullmatch(r"teacher(_\d+)?_weight", name):
                weights.setdefault(name.removesuffix("_weight"), []).append((metrics["env_steps"], float(value)))
        if report is not None:
            report(metrics)

    return note


def _compare(
    job: KickstartJob,
    results: dict[str, list[TrainResult]],
    weights: dict[str, list[tuple[int, float]]],
    teacher: float,
    random: float,
    teacher_steps: float | None,
) -> Comparison:
    settings = job.settings
    budget = settings.stop.env_steps
    student, scratch = ([run.curve for run in results[kind]] for kind in ("kickstarted", "scratch"))
    student_final, scratch_final = (tuple(run.score for run in results[kind]) for kind in ("kickstarted", "scratch"))
    return Comparison(
        env=settings.env.id,
        budget=budget,
        teacher=teacher,
        random=random,
        student=tuple(student),
        scratch=tuple(scratch),
        student_final=student_final,
        scratch_final=scratch_final,
        weights=dict(weights),
        savings=tuple(saving(share, student, scratch, teacher, random, budget, teacher_steps) for share in SHARES),
        teacher_steps=teacher_steps,
        early=sum(run.env_steps < budget for runs in results.values() for run in runs),
    )
