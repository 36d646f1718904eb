"""Learning from a replay with a teacher: QDagger for action values, an actor's distance for DDPG, TD3 and SAC."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.checks import check_schedule, check_settings
from understudy.config import build, merge
from understudy.distill_job import load_for
from understudy.distill_session import distance_of
from understudy.env_names import EnvLike, env_settings
from understudy.errors import UserError
from understudy.execution.portable import portable
from understudy.io.run_folder import in_use
from understudy.learning.replay_teaching import Offline, ReplayTeacher
from understudy.loop import Report
from understudy.objectives.distances import beside_rewards
from understudy.objectives.feedback import Gated, TargetKL, parse_weight
from understudy.policies.policy import Policy, PolicyLike
from understudy.preset_files import Presets, merged_presets
from understudy.settings.taught import TAUGHT, TaughtDeterministic, TaughtQLearning, TaughtSoft
from understudy.teacher_scores import measured_scores
from understudy.teachers.load import called
from understudy.training import TrainResult, run_folder, train

Settings = TaughtQLearning | TaughtDeterministic | TaughtSoft


@dataclass(frozen=True)
class ReplayJob:
    """A run that is ready to start."""

    settings: Settings
    teacher: PolicyLike
    folder: Path
    resume: bool

    @property
    def teachers(self) -> tuple[PolicyLike, ...]:
        """The only one."""
        return (self.teacher,)

    notes: tuple[str, ...] = ()
    """What the user should know before it starts."""


def method_of(settings: Mapping[str, Any], presets: Presets) -> str:
    """Return the method that presets and settings name.

    Raises:
        UserError: No such preset.
    """
    return str(merge(merged_presets(presets), settings).get("method", "actor_critic"))


def prepare_replay(
    teachers: Sequence[Any],
    env: EnvLike | None,
    settings: Mapping[str, Any],
    presets: Presets,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> ReplayJob:
    """Load the teacher and refuse what cannot work, before anything starts.

    Raises:
        UserError: Anything the user can mend.
    """
    merged = merge(merge(merged_presets(presets), settings), env_settings(env))
    method = str(merged.get("method"))
    if method not in TAUGHT:
        raise UserError(f"method is {method!r}; with a teacher from a replay it can be {', '.join(TAUGHT)}")
    try:
        resolved: Settings = build(TAUGHT[method], merged)
    except UserError as error:
        raise UserError(f"{error}; the method is {method}") if "unknown key" in str(error) else error from None
    sources = list(teachers) or list(resolved.teaching.teachers)
    if len(sources) != 1:
        raise UserError(f"learning from a replay takes one --teacher, not {len(sources)}")
    own = resolved.env
    teacher = load_for(sources[0], own.spec() if own.id and (own.wrappers or own.kwargs) else own.id or None)
    spec = teacher.about.env
    if spec is None:
        raise UserError("the teacher does not say its environment: pass --env ID")
    if not own.id or not (own.wrappers or own.kwargs):
        own = own.over(spec)
        teacher = load_for(sources[0], own.spec())
    name = called(sources[0])
    resolved = replace(resolved, env=own, teaching=replace(resolved.teaching, teachers=(name,)))  # type: ignore[arg-type]
    check_settings(resolved)
    _check(resolved, teacher)
    return ReplayJob(resolved, teacher, run_folder(resolved, run, resume), resume, _notes(resolved))


def _notes(settings: Settings) -> tuple[str, ...]:
    """Return what the user should know of a run that ends within its first phases."""
    teaching, warm_up, stop = settings.teaching, settings.replay.warm_up, settings.stop.env_steps
    run, played = (settings.rollout.whole(steps) for steps in (stop, teaching.offline_steps))
    own, offline = run - played, bool(teaching.offline_steps and teaching.offline_updates)
    if own < 0:
        said = f"stop.env_steps {stop:,} end before teaching.offline_steps {teaching.offline_steps:,} do"
        return (f"{said}: nothing is learnt in this run",)
    if own > warm_up or (offline and not own):
        return ()
    what = "only the teacher's data is" if offline else "nothing is"
    said = f"the student's own {own:,} of {run:,} env steps end within replay.warm_up {warm_up:,}"
    return (f"{what} learnt from: {said}",)


def _check(settings: Settings, teacher: PolicyLike) -> None:
    name = teacher.about.source or teacher.about.algorithm
    weight = parse_weight(settings.teaching.weight, "teaching.weight", settings.stop.env_steps)
    check_schedule(settings, "teaching.weight", weight)
    if isinstance(weight, TargetKL):
        raise UserError("teaching.weight target_kl goes with on-policy students; take gated(1) or a schedule")
    if teacher.initial_state(1) is not None:
        raise UserError(f"the teacher {name} has a memory; replayed transitions have none: take --preset kickstarting")
    if settings.teaching.offline_steps and settings.execution.type != "single" and portable(teacher) is None:
        raise UserError(f"the teacher {name} cannot be copied to workers: use --execution single")


def fit(job: ReplayJob, student: Policy, scores: Mapping[str, Any] | None) -> ReplayTeacher:
    """Fit the teacher to a student.

    Args:
        job: From ``prepare_replay``.
        student: Fresh.
        scores: From ``measured_scores``, for a gated weight.

    Raises:
        UserError: Their families do not fit.
    """
    teaching, teacher = job.settings.teaching, job.teacher
    weight = parse_weight(teaching.weight, "teaching.weight", job.settings.stop.env_steps)
    if isinstance(weight, Gated) and scores is not None:
        (weight.teacher,), weight.random = scores["teachers"], scores["random"]
    distance, temperature = None, 0.1
    if isinstance(job.settings, TaughtQLearning):
        temperature = job.settings.teaching.temperature
        if teacher.family.continuous or teacher.family.sizes != student.family.sizes:
            raise UserError(
                f"a {teacher.family.name} teacher with actions {list(teacher.family.sizes)} cannot teach a q_values "
                f"student with {list(student.family.sizes)}"
            )
    else:
        distance = distance_of(job.settings.teaching.distance, teacher, student.spec, beside_rewards)
    offline = Offline(teaching.offline_steps, teaching.offline_updates, teaching.noise)
    return ReplayTeacher(teacher, student.family, weight, offline, distance=distance, temperature=temperature)


def run_replay_job(job: ReplayJob, report: Report | None = None) -> TrainResult:
    """Run what ``prepare_replay`` returned."""
    scores = None
    if job.settings.teaching.weight.lstrip().startswith("gated"):
        with in_use(job.folder):
            scores = measured_scores(job.settings, job.teachers, job.folder, job.resume)
    return train(
        settings=job.settings,
        run=job.folder,
        resume=job.resume,
        report=report,
        teach=lambda student: fit(job, student, scores),
    )
