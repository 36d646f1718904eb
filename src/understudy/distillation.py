"""``understudy.distill``: point it at a teacher, say how small the student should be, get a student and a verdict."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from understudy.config import build, merge, nest, plain, preset
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.envs.multitask import task_names, whole_tasks
from understudy.errors import UserError
from understudy.evaluation.judge import Judge
from understudy.execution.base import Execution, Portable, Setup
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.io.log import RunLog
from understudy.learner import Learner, make_learner
from understudy.objectives.distances import Distance, default_distance
from understudy.objectives.schedules import parse
from understudy.policies.files import save_policy, write_atomic
from understudy.policies.policy import About, Policy, PolicyLike, named_arrays
from understudy.policies.policy import build as build_policy
from understudy.policies.spec import PolicySpec
from understudy.rollouts.dataset import Dataset
from understudy.settings import DistanceSettings, DistillSettings
from understudy.student import fit_normalizer, new_student, student_spec
from understudy.teachers.combine import combine
from understudy.teachers.ensemble import Ensemble
from understudy.teachers.load import load
from understudy.teachers.routing import TaskTeachers
from understudy.train import Progress, Run, TeacherLabels, train

Report = Callable[[dict[str, Any]], None]


@dataclass
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


def resolve(settings: DistillSettings | Mapping[str, Any] | None, preset_name: str | None) -> DistillSettings:
    """Return the settings: defaults < preset < what the caller says.

    Raises:
        UserError: An unknown preset, key or value, or settings that contradict each other.
    """
    if isinstance(settings, DistillSettings):
        resolved = settings
    else:
        base = preset(preset_name) if preset_name else {}
        resolved = build(DistillSettings, merge(base, settings or {}))
    resolved.check()
    return resolved


def default_preset(teacher: PolicyLike) -> str:
    """Return the preset of the teacher's kind of action."""
    return "distill-continuous" if teacher.family.continuous else "distill-discrete"


def distance_of(settings: DistanceSettings, teacher: PolicyLike, student: PolicySpec) -> Distance:
    """Return the distance that the settings name, checked against both families."""
    if settings.name == "auto":
        return default_distance(teacher.family, student.distribution)
    # A Box without bounds has no action to saturate at.
    distance = Distance(**asdict(settings))
    distance.check(teacher.family, student.distribution)
    return distance


def load_for(source: Any, env: str | EnvSpec | None = None) -> PolicyLike:
    """Load a policy for an environment, with the spaces of that environment where the file does not say its own.

    Raises:
        UserError: No such policy, or an environment whose spaces do not fit it.
    """
    spaces: dict[str, Any] = {}
    if env is not None:
        asked = env if isinstance(env, EnvSpec) else EnvSpec(env)
        try:
            spaces = dict(zip(("observation_space", "action_space"), spaces_of(asked), strict=True))
        except UserError:  # an id of old, which the loader may know a successor of
            spaces = {}
    policy = load(source, env=env, **spaces)
    if env is not None and (policy is source or policy.about.env is None):
        policy = copy.copy(policy)  # the caller's own object keeps its environment
        policy.about = replace(policy.about, env=env if isinstance(env, EnvSpec) else EnvSpec(env))
    if policy.about.env is not None:
        check_fit(policy, policy.about.env)
    return policy


def check_fit(policy: PolicyLike, spec: EnvSpec) -> None:
    """Refuse an environment whose spaces are not the policy's.

    Raises:
        UserError: With both spaces.
    """
    observation, action = spaces_of(spec)
    mine = policy.action_space
    same_kind = type(action) is type(mine)
    if not same_kind or action.shape != mine.shape or getattr(action, "n", 0) != getattr(mine, "n", 0):
        raise UserError(f"{policy.about.source or 'the policy'} acts in {mine}, but {spec.id} takes {action}")
    expected, got = policy.observation_space, observation
    pairs = [(expected, got)]
    if hasattr(expected, "spaces"):
        keys = [e.key for e in policy.spec.encoders] if isinstance(policy, Policy) else list(expected.spaces)
        lacking = [key for key in keys if key not in getattr(got, "spaces", {})]
        if lacking:
            raise UserError(f"{policy.about.source or 'the policy'} sees {lacking[0]!r}, which {spec.id} does not show")
        pairs = [(expected[key], got[key]) for key in keys]  # type: ignore[index]
    for mine_obs, env_obs in pairs:
        if sorted(mine_obs.shape or ()) != sorted(env_obs.shape or ()):
            raise UserError(
                f"{policy.about.source or 'the policy'} sees observations of shape {mine_obs.shape}, but {spec.id} "
                f"gives {env_obs.shape}: choose the environment it was trained in (understudy inspect TEACHER)"
            )


def portable(teacher: PolicyLike) -> Portable | None:
    """Return a teacher as it travels to workers; None for a Python object that cannot."""
    if isinstance(teacher, Policy):
        return Portable(teacher.spec, {n: a.copy() for n, a in named_arrays(teacher).items()})
    if isinstance(teacher, (Ensemble, TaskTeachers)):
        parts = [portable(member) for member in teacher.members]
        kind = teacher.kind if isinstance(teacher, Ensemble) else "tasks"
        found = tuple(part for part in parts if part is not None)
        return Portable(kind=kind, parts=found) if len(found) == len(parts) else None
    recipe = getattr(teacher, "recipe", None)
    return Portable(source=recipe["source"], load_kwargs=recipe["kwargs"]) if recipe else None


def make_execution(settings: DistillSettings, setup: Setup, teacher: PolicyLike) -> Execution:
    """Start the execution that the settings name.

    Raises:
        UserError: The teacher is a Python object that cannot travel to workers.
    """
    if settings.execution.type == "single":
        from understudy.execution.single import SingleExecution

        return SingleExecution(setup, teacher if setup.teacher is None else None)
    if setup.teacher is None:
        raise UserError("this teacher is a Python object and cannot travel to workers: use --execution.type single")
    from understudy.execution.sync import SyncExecution

    return SyncExecution(setup, settings.execution.num_workers, settings.execution.worker_timeout)


class Session:
    """One run and its folder: builds the parts, saves and restores them."""

    def __init__(self, teacher: PolicyLike, spec: EnvSpec, settings: DistillSettings, folder: Path) -> None:
        torch.set_num_threads(1)  # networks this small are slower with more, and workers need the other cores
        self.teacher, self.env, self.settings, self.folder = teacher, spec, settings, folder
        observations, actions = spaces_of(spec)
        self.student_spec = student_spec(settings.student, observations, actions, teacher)
        self.distance = distance_of(settings.distance, teacher, self.student_spec)
        about = About(f"understudy of {teacher.about.algorithm}", "", spec, [f"distilled from {teacher.about.source}"])
        self.student = new_student(self.student_spec, settings.seed, about)
        window = settings.learning.sequence if settings.student.lstm else 1
        self.dataset = Dataset(settings.data.capacity, window)
        self.learner: Learner = make_learner(
            self.student, teacher.family, self.distance, settings, spec.id == "multitask"
        )
        seeds = tuple(settings.seed * 1_000 + i for i in range(settings.data.num_envs))
        evaluation = settings.evaluation
        self.setup = Setup(
            spec,
            seeds,
            max(settings.data.steps, settings.data.first_steps),
            self.student_spec,
            portable(teacher),
            evaluation.num_envs,
        )
        self.execution = make_execution(settings, self.setup, teacher)
        self.judge = Judge(self.execution.evaluate, evaluation, settings.stop, task_names(spec))
        self.progress = Progress()
        self.labels = TeacherLabels(teacher)

    def run(self, report: Report) -> Run:
        """Return the run for ``train``."""
        return Run(
            self.settings,
            self.execution,
            self.learner,
            self.dataset,
            self.labels,
            self.judge,
            parse(self.settings.behaviour.beta, "behaviour.beta"),
            parse(self.settings.behaviour.noise, "behaviour.noise"),
            self.progress,
            lambda columns: fit_normalizer(self.student, self.settings.student, self.teacher, columns),
            report,
            self.save,
        )

    def policy(self) -> Policy:
        """Return the student as it would be saved now."""
        return build_policy(self.student_spec, self.learner.weights(), self.student.about)

    def save(self, best: bool) -> None:
        """Write the student, the samples of this round, and the state to go on from."""
        student, progress = self.policy(), self.progress
        extra = {"env_steps": progress.env_steps, "ratio": progress.ratio if np.isfinite(progress.ratio) else None}
        if best:
            save_policy(student, self.folder / "best.safetensors", extra)
        save_policy(student, self.folder / "last.safetensors", extra)
        fresh = {name: column[self.dataset.latest] for name, column in self.dataset.columns.items()}
        write_arrays(self.folder / "data" / f"{progress.round:05d}.safetensors", fresh, {"round": progress.round})
        arrays, data = self.learner.state()
        state = {"learner": data, "judge": self.judge.state(), "progress": asdict(progress)}
        write_arrays(self.folder / "state.safetensors", arrays, state)

    def restore(self) -> None:
        """Go on from the folder's state. Episodes begin anew; everything else is as it was."""
        arrays, data = read_arrays(self.folder / "state.safetensors")
        self.progress.__dict__.update(data["progress"])
        self.progress.stopped = ""
        first = 1 if self.settings.data.aggregate else self.progress.round
        for number in range(first, self.progress.round + 1):
            columns, _ = read_arrays(self.folder / "data" / f"{number:05d}.safetensors")
            self.dataset.extend(columns)
        self.learner.restore(arrays, data["learner"])
        self.judge.restore(data["judge"])


@dataclass(frozen=True)
class Job:
    """A distillation that is ready to start: everything is loaded, checked and resolved."""

    teacher: PolicyLike
    env: EnvSpec
    settings: DistillSettings
    folder: Path
    resume: bool
    described: dict[str, Any]
    """What ``config.yaml`` will say."""


def prepare(
    teachers: Sequence[Any],
    env: Sequence[str] | None,
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    ensemble: str | None = None,
) -> Job:
    """Load the teachers, choose environment, preset and folder, and refuse what cannot work, before anything starts.

    Raises:
        UserError: Anything the user can mend.
    """
    if len(teachers) == 1:
        teacher = load_for(teachers[0], env[0] if env else None)
    else:
        loaded = [load_for(t, e) for t, e in zip(teachers, pair_environments(teachers, env), strict=True)]
        teacher = combine(loaded, ensemble)
    spec = teacher.about.env
    if spec is None:
        raise UserError(f"the teacher {teacher.about.source} does not say its environment: pass --env ID")
    resolved = for_tasks(resolve(settings, preset or default_preset(teacher)), spec)
    name = spec.id.replace("/", "-").replace(":", "-")
    folder = Path(run) if run is not None else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (folder / "state.safetensors").exists() and not resume:
        raise UserError(f"{folder} holds a run already: --resume {folder} goes on with it, --run FOLDER starts another")
    described = {
        "teachers": [str(t) for t in teachers],
        "env": list(env) if env else None,
        "ensemble": ensemble,
        "environment": spec.to_json(),
        "settings": plain(resolved),
    }
    return Job(teacher, spec, resolved, folder, resume, described)


def for_tasks(settings: DistillSettings, spec: EnvSpec) -> DistillSettings:
    """Return the settings with so many environments that every task has equally many, and every worker some of each.

    Raises:
        UserError: The dataset cannot hold that much.
    """
    tasks = len(task_names(spec))
    if tasks == 1:
        return settings
    workers = settings.execution.num_workers if settings.execution.type == "sync" else 1
    count = max(whole_tasks(spec, settings.data.num_envs), tasks * workers)
    fitted = replace(settings, data=replace(settings.data, num_envs=count))
    fitted.check()
    return fitted


def pair_environments(teachers: Sequence[Any], env: Sequence[str] | None) -> list[str | None]:
    """Return one environment per teacher: as given, or one for all, or each teacher's own.

    Raises:
        UserError: Their numbers differ.
    """
    if not env or len(env) == 1:
        return [env[0] if env else None] * len(teachers)
    if len(env) != len(teachers):
        raise UserError(
            f"{len(teachers)} teachers and {len(env)} environments: give one --env for all, or one for each"
        )
    return list(env)


def distill(
    teacher: Any,
    env: str | Sequence[str] | None = None,
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    ensemble: str | None = None,
    report: Report | None = None,
    **overrides: Any,
) -> DistillResult:
    """Distil teachers into a student; stops when the student is statistically on par, or when the budget ends.

    Args:
        teacher: Anything that ``understudy.load`` takes, or a list of several; or a ``Job`` from ``prepare``.
        env: Environment id, or one per teacher; the teachers' own by default.
        settings: ``DistillSettings``, or nested mappings such as ``{"student": {"hidden": [64, 64]}}``.
        preset: Name of a preset under the settings; by default that of the teacher's kind of action.
        run: Folder of the run; by default ``runs/ENV-TIME``.
        resume: Go on with the run in that folder.
        ensemble: How several teachers of one task are averaged: ``distributions`` or ``losses``.
        report: Called with the metrics of each round.
        **overrides: Settings with their dots as double underscores, such as ``stop__ratio=0.9``.

    Raises:
        UserError: Anything the user can mend: no such file, spaces that do not fit, NaN, a full disk.
    """
    if isinstance(teacher, Job):
        return _run_job(teacher, report)
    if not isinstance(settings, DistillSettings):
        settings = merge(settings or {}, nest({name.replace("__", "."): v for name, v in overrides.items()}))
    teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    ids = [env] if isinstance(env, str) else env
    job = prepare(teachers, ids, settings, preset=preset, run=run, resume=resume, ensemble=ensemble)
    return _run_job(job, report)


def _run_job(job: Job, report: Report | None) -> DistillResult:
    begin = time.perf_counter()
    log: RunLog | None = None
    session = Session(job.teacher, job.env, job.settings, job.folder)
    try:
        if job.resume:
            session.restore()
        write_atomic(job.folder / "config.yaml", yaml.safe_dump(job.described, sort_keys=False).encode())
        log = RunLog(job.folder)

        def tell(metrics: dict[str, Any]) -> None:
            progress = session.progress
            seconds = {f"seconds/{k}": round(v, 3) for k, v in progress.seconds.items()}
            seconds["seconds/evaluate"] = round(session.judge.seconds, 3)
            row = {"round": progress.round, "updates": progress.updates, **metrics, **seconds}
            assert log is not None
            log.write(progress.env_steps, row)
            if report is not None:
                report({"env_steps": progress.env_steps, **row})

        train(session.run(tell))
    finally:
        session.execution.close()
        if log is not None:
            log.close()
    return _result(session, time.perf_counter() - begin)


def _result(session: Session, total: float) -> DistillResult:
    progress = session.progress
    seconds = {**progress.seconds, "evaluate": session.judge.seconds, "total": total}
    best = session.folder / "best.safetensors"
    student = load(best if best.exists() else session.folder / "last.safetensors")
    assert isinstance(student, Policy)
    summary = {"stopped": progress.stopped, "ratio": progress.ratio, "env_steps": progress.env_steps}
    if len(progress.ratios) > 1:
        summary["ratios"] = progress.ratios
    summary |= {"updates": progress.updates, "seconds": seconds}
    write_atomic(session.folder / "summary.json", json.dumps(summary, indent=2).encode())
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


__all__ = ["DistillResult", "DistillSettings", "Job", "distill", "prepare"]
