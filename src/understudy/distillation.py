"""``understudy.distill``: point it at a teacher, say how small the student should be, get a student and a verdict."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from understudy.config import with_overrides
from understudy.data import EnvSpec
from understudy.distill_job import DistillJob, prepare
from understudy.distill_session import DistillSession
from understudy.env_names import EnvLike
from understudy.errors import Interrupted, OutsideError, UserError
from understudy.execution.base import workers_alive
from understudy.io.log import RunLog, as_json
from understudy.io.run_folder import check_free, in_use
from understudy.io.saved_run import over_saved, read_run, same_env, saved_envs
from understudy.loop import Report, train
from understudy.policies.files import remove_leftovers, write_atomic
from understudy.policies.policy import Policy, PolicyLike
from understudy.preset_files import Presets
from understudy.settings import DistillSettings
from understudy.teachers.load import load


@dataclass(repr=False)
class DistillResult:
    """What a run ends with."""

    student: Policy
    teacher: PolicyLike
    stopped: str
    """``parity``, or which budget ended: ``env_steps``, ``seconds``."""
    ratio: float
    """The last evaluation, as a ratio of the teacher's return measured from the random policy's."""
    env_steps: int
    updates: int
    seconds: dict[str, float]
    """Wall seconds by part: collect, label, learn, evaluate, total."""
    folder: Path
    ratios: dict[str, float] = field(default_factory=dict)
    """The last evaluation by task; ``ratio`` is the least of them."""

    def __repr__(self) -> str:
        student = f"{self.student.parameters_count:,} parameters, ratio {self.ratio:.3f}"
        ended = f"{self.env_steps:,} env steps, stopped by {self.stopped}, {self.seconds['total']:.1f} s"
        return f"<DistillResult in {self.folder}: {student}, {ended}>"


def distill(
    teacher: Any = (),
    env: EnvLike | Sequence[EnvLike] | None = None,
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    preset: Presets | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    ensemble: str | None = None,
    report: Report | None = None,
    **overrides: Any,
) -> DistillResult:
    """Distil teachers into a student; stops when the student is statistically on par, or when the budget ends.

    Args:
        teacher: Anything that ``understudy.load`` takes, or a list of several; or a ``DistillJob`` of
            ``prepare``, alone.
        env: Environment id, or a class or function that makes one; or one per teacher; the teachers' own by default.
        settings: ``DistillSettings``, under which no preset lies, or nested mappings such as
            ``{"student": {"hidden": [64, 64]}}``.
        preset: Name of a preset under the settings, or path of a YAML file, or several, merged from left to right; by
            default that of the teacher's kind of action.
        run: Folder of the run; by default ``runs/ENV-TIME``.
        resume: Go on with the run in that folder: presets, nested mappings and keywords lie over its settings, and
            teachers need not be named again. The environment is its own.
        ensemble: How several teachers of one task are averaged: ``distributions`` or ``losses``.
        report: Called with the metrics of each round.
        **overrides: Settings with their dots as double underscores, such as ``stop__ratio=0.9``.

    Raises:
        UserError: Anything the user can mend: no such file, spaces that do not fit, NaN, a full disk.
    """
    if isinstance(teacher, DistillJob):
        options = {"env": env, "settings": settings, "preset": preset, "run": run, "ensemble": ensemble, **overrides}
        named = [name for name, value in options.items() if value is not None] + ["resume"] * resume
        if named:
            raise UserError(f"a job is prepared already: give {', '.join(named)} to prepare, not beside the job")
        return _run_job(teacher, report)
    settings = with_overrides(DistillSettings, settings, overrides, preset)
    teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    saved = read_run(run, "distill") if resume else {}
    asked, given = env, bool(teachers) or env is not None
    if saved:
        if not isinstance(settings, DistillSettings):
            settings, preset = over_saved(run, saved, settings, preset), None
        teachers, ensemble = teachers or saved["teachers"], ensemble or saved["ensemble"]
        asked = saved_envs(saved) if env is None else env
    if not teachers:
        raise UserError("understudy.distill needs a teacher: a zip, a zoo folder, a .safetensors, a function, ...")
    job = prepare(teachers, asked, settings, preset=preset, run=run, resume=resume, ensemble=ensemble)
    if saved and given:
        same_env(run, EnvSpec.from_json(saved["environment"]), job.env)
    return _run_job(job, report)


def _run_job(job: DistillJob, report: Report | None) -> DistillResult:
    with in_use(job.folder):
        if not job.resume:
            check_free(job.folder)  # a run may have ended there since
        return _run_alone(job, report)


def _run_alone(job: DistillJob, report: Report | None) -> DistillResult:
    log: RunLog | None = None
    session = DistillSession(job.teacher, job.env, job.settings, job.folder, job.resume)
    try:
        remove_leftovers(job.folder)
        session.described = yaml.safe_dump(job.described, sort_keys=False).encode()
        session.describe()
        log = RunLog(job.folder, fresh=not job.resume)

        def tell(metrics: dict[str, Any]) -> None:
            progress = session.progress
            seconds = {f"seconds/{k}": round(v, 3) for k, v in progress.seconds.items()}
            seconds["seconds/evaluate"] = round(session.judge.seconds, 3)
            row = {"round": progress.round, "updates": progress.updates, **metrics, **seconds}
            row |= workers_alive(session.execution)
            assert log is not None
            log.write(progress.env_steps, row)
            if report is not None:
                report({"env_steps": progress.env_steps, **row})

        if session.done:
            session.progress.stopped = session.ended or "env_steps"
        else:
            train(session.run(tell))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_way_on(session)}") from None
    except OutsideError as error:
        error.args = (f"{error}; {_way_on(session)}",)
        raise
    finally:
        try:
            session.execution.close()
        finally:
            if log is not None:
                log.close()
    return _result(session)


def _way_on(session: DistillSession) -> str:
    folder = session.folder
    if not (folder / "state.safetensors").exists():
        return f"nothing that was learnt is in {folder}" if session.progress.round else "nothing was learnt yet"
    return f"go on with: understudy distill --resume {shlex.quote(str(folder))}"


def _result(session: DistillSession) -> DistillResult:
    progress = session.progress
    seconds = {**progress.seconds, "evaluate": session.judge.seconds, "total": session.total}
    best = session.folder / "best.safetensors"
    student = load(best if best.exists() else session.folder / "last.safetensors", env=session.env)
    assert isinstance(student, Policy)
    summary = {"stopped": progress.stopped, "ratio": progress.ratio, "env_steps": progress.env_steps}
    if len(progress.ratios) > 1:
        summary["ratios"] = progress.ratios
    summary |= {"updates": progress.updates, "seconds": seconds}
    write_atomic(session.folder / "summary.json", json.dumps(as_json(summary), indent=2).encode())
    return DistillResult(
        student,
        session.teacher,
        progress.stopped,
        progress.ratio,
        progress.env_steps,
        progress.updates,
        seconds,
        session.folder,
        progress.ratios,
    )
