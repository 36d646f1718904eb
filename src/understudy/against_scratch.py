"""What did the teachers save? The same preset with and without them, on the same seeds, judged alike."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.config import first_difference, plain
from understudy.errors import Interrupted, UserError
from understudy.evaluation.speedup import SHARES, Comparison, check_span, saving
from understudy.io.log import read_log
from understudy.io.run_folder import in_use
from understudy.io.scores import is_number
from understudy.kickstart_job import KickstartJob
from understudy.kickstarting import Lessons
from understudy.loop import Report
from understudy.policies.files import write_atomic
from understudy.preset_files import read_yaml
from understudy.teacher_scores import measured_scores
from understudy.training import TrainResult, read_result, train

Tell = Callable[[str, int, TrainResult], None]
"""Called after each run with its kind, ``kickstarted`` or ``scratch``, and its seed."""
KINDS = ("kickstarted", "scratch")
_POLICIES = ("best.safetensors", "last.safetensors")
_LEFT = ("state.safetensors", "summary.json", *_POLICIES)
"""Any of them says that a run was begun."""


def against_scratch(
    job: KickstartJob,
    seeds: int = 1,
    teacher_steps: float | None = None,
    tell: Tell | None = None,
    report: Report | None = None,
) -> Comparison:
    """Train with and without teachers; runs of both kinds take turns.

    Runs that an earlier call has finished in this folder are kept, and one that it broke off is resumed.

    Args:
        job: From ``prepare``; its folder gets ``kickstarted-SEED``, ``scratch-SEED`` and ``comparison.json``. Learners
            wait for their evaluations here, so that curves have the points they should have.
        seeds: Runs of each kind, with the seeds ``settings.seed``, ``settings.seed + 1``, ...
        teacher_steps: Env steps that the teachers cost, for a second count.
        tell: Called after each run.
        report: Called with the metrics of each round.

    Raises:
        UserError: Anything the user can mend, such as teachers that are no better than chance, or runs with other
            settings in that folder.
        Interrupted: Ctrl-C; what was learnt is saved.
    """
    settings = job.settings
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    if not settings.evaluation.every or not settings.evaluation.final:
        raise UserError("--against-scratch reads curves: evaluation.every and evaluation.final must be above 0")
    if teacher_steps is not None and not teacher_steps >= 0:
        raise UserError(f"--teacher-steps must be 0 or more, not {teacher_steps}")
    if (job.folder / "comparison.json").exists():
        raise UserError(
            f"{job.folder} holds a comparison already: --run FOLDER starts another; to add seeds, remove its "
            "comparison.json and ask for more --seeds"
        )
    settings = replace(settings, evaluation=replace(settings.evaluation, wait=True))
    jobs = [
        (kind, replace(job, settings=replace(settings, seed=seed), folder=job.folder / f"{kind}-{seed}"))
        for seed in range(settings.seed, settings.seed + seeds)
        for kind in KINDS
    ]
    begun = [_begun(kind, own) for kind, own in jobs]
    try:
        with in_use(job.folder):
            scores = measured_scores(settings, job.teachers, job.folder, any(begun))
            check_span(max(scores["teachers"]), scores["random"])
            results: dict[str, list[TrainResult]] = {kind: [] for kind in KINDS}
            for kind, own in jobs:
                result = _finish(kind, own, scores, report)
                results[kind].append(result)
                if tell is not None:
                    tell(kind, own.settings.seed, result)
            found = _compare(job, results, scores, teacher_steps)
            write_atomic(job.folder / "comparison.json", json.dumps(found.to_json(), indent=2).encode())
            return found
    except KeyboardInterrupt:
        again = f"--run {shlex.quote(str(job.folder))}"
        raise Interrupted(f"interrupted; the same command with {again} goes on from here") from None


def _begun(kind: str, own: KickstartJob) -> bool:
    """Say whether the folder of a run holds something of it.

    Raises:
        UserError: That has other settings.
    """
    path = own.folder / "config.yaml"
    if not path.exists() or not any((own.folder / name).exists() for name in _LEFT):
        return False
    asked = json.loads(json.dumps(plain(own.settings if kind == "kickstarted" else own.settings.alone)))
    saved = read_yaml(path).get("settings") or {}
    if saved != asked:
        differ = first_difference(saved, asked)
        what = f"another {differ}" if differ else "other settings"
        raise UserError(f"{own.folder} holds a run with {what}: take another folder with --run")
    return True


def _finish(kind: str, own: KickstartJob, scores: dict[str, Any], report: Report | None) -> TrainResult:
    """Train, or go on, unless that was done."""
    folder = own.folder
    if (folder / "summary.json").exists():
        return read_result(folder)
    resume = (folder / "state.safetensors").exists()
    if not resume and _begun(kind, own):
        for name in _POLICIES:  # killed before its first checkpoint: it begins again
            (folder / name).unlink(missing_ok=True)
    if kind == "kickstarted":
        return train(settings=own.settings, run=folder, resume=resume, report=report, teach=Lessons(own, scores))
    return train(settings=own.settings.alone, run=folder, resume=resume, report=report)


def _weights(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return lambda after each round that was logged, by teacher."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_log(folder / "log.jsonl"):
        for name, value in row.items():
            # The objective calls them NAME_weight; those of the teachers' values and of the student's own terms differ.
            if re.fullmatch(r"teacher(_\d+)?_weight", name) and is_number(value):
                found.setdefault(name.removesuffix("_weight"), []).append((row["env_steps"], float(value)))
    return found


def _compare(
    job: KickstartJob,
    results: dict[str, list[TrainResult]],
    scores: dict[str, Any],
    teacher_steps: float | None,
) -> Comparison:
    settings = job.settings
    budget, teacher, random = settings.stop.env_steps, max(scores["teachers"]), scores["random"]
    student, scratch = ([run.curve for run in results[kind]] for kind in KINDS)
    student_final, scratch_final = (tuple(run.score for run in results[kind]) for kind in KINDS)
    return Comparison(
        env=settings.env.id,
        budget=budget,
        teacher=teacher,
        random=random,
        student=tuple(student),
        scratch=tuple(scratch),
        student_final=student_final,
        scratch_final=scratch_final,
        weights=dict(_weights(results["kickstarted"][0].folder)),
        savings=tuple(saving(share, student, scratch, teacher, random, budget, teacher_steps) for share in SHARES),
        teacher_steps=teacher_steps,
        early=sum(run.env_steps < budget for runs in results.values() for run in runs),
    )
