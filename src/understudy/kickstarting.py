"""``understudy.kickstart``: reinforcement learning with teachers, by a student that may surpass them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from understudy.config import with_overrides
from understudy.distill_session import distance_of
from understudy.env_names import EnvLike
from understudy.errors import UserError
from understudy.evaluation.task_score import Level
from understudy.execution.portable import portable, restored
from understudy.io.run_folder import in_use
from understudy.io.saved_run import keep_env, over_saved, read_run
from understudy.kickstart_job import KickstartJob, prepare
from understudy.learning.behaviours import TeacherActs
from understudy.learning.rehearsal import Rehearsal, check_states, rehearsal_of, stored_states
from understudy.learning.teaching import Guide, Teaching
from understudy.loop import Report
from understudy.objectives.distances import beside_rewards
from understudy.objectives.feedback import Curriculum, Gated, Product, Scaled, parse_jump, parse_weight
from understudy.objectives.schedules import Constant, parse
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.spaces import members
from understudy.policies.spec import PolicySpec
from understudy.preset_files import Presets
from understudy.replay_kickstarting import method_of, prepare_replay, run_replay_job
from understudy.settings import KickstartSettings
from understudy.teacher_scores import measured_scores
from understudy.teachers.routing import TaskTeachers
from understudy.training import TrainResult, train


@dataclass(frozen=True)
class Lessons:
    """Fits the teachers of a run to a student; travels to A3C's workers, which ask teachers themselves.

    Attributes:
        job: From ``prepare``.
        scores: ``teachers`` and ``random``, for gates.
    """

    job: KickstartJob
    scores: Mapping[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Teachers travel as ``portable`` makes them; that they can was checked before."""
        teachers = [portable(teacher) for teacher in self.job.teachers]
        return {"job": replace(self.job, teachers=()), "teachers": teachers, "scores": self.scores}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Make policies of them again."""
        job = replace(state["job"], teachers=tuple(map(restored, state["teachers"])))
        object.__setattr__(self, "job", job)
        object.__setattr__(self, "scores", state["scores"])

    def __call__(self, student: Policy) -> Teaching:
        """Return what the teachers add for this student.

        Raises:
            UserError: A teacher does not fit it.
        """
        job, teaching, run = self.job, self.job.settings.teaching, self.job.settings.stop.env_steps
        if teaching.init == "teacher":
            copy_teacher(job.teachers[0], student)
        combined = Teaching(
            [self._guide(i, teacher, student.spec) for i, teacher in enumerate(job.teachers)],
            rl_weight=parse(teaching.rl_weight, "teaching.rl_weight", run),
            gate=teaching.gate == "value",
            proximal=teaching.proximal,
            reward=teaching.reward,
            reward_weight=parse(teaching.reward_weight, "teaching.reward_weight", run)
            if teaching.reward != "none"
            else Constant(0.0),
            env_reward=teaching.env_reward,
            gamma=job.settings.objective.gamma,
            warm_up=teaching.warm_up,
            keeps_normalizer=teaching.init == "teacher",
            acting=acting(job, self.scores),
            rehearsal=rehearsal(job, student),
        )
        if self.scores is not None and "tasks" in self.scores:
            combined.levels = tuple(Level(**level) for level in self.scores["tasks"].values())
        return combined

    def _guide(self, i: int, teacher: PolicyLike, student: PolicySpec) -> Guide:
        settings, scores = self.job.settings, self.scores
        teaching, run = settings.teaching, settings.stop.env_steps
        rho = tuple(parse(text, "teaching.rho", run) for text in teaching.rho)
        weight = parse_weight(teaching.weight, "teaching.weight", run)
        if isinstance(weight, Gated) and scores is not None:
            weight.teacher, weight.random = scores["teachers"][i], scores["random"]
        routed = isinstance(teacher, TaskTeachers)
        own = Scaled(weight, 1.0, teaching.warm_up)
        return Guide(
            "teacher" if len(self.job.teachers) == 1 else f"teacher_{i + 1}",
            teacher,
            distance_of(teaching.distance, teacher, student, beside_rewards),
            Product(own, rho[i]) if rho and not routed else own,
            parse(teaching.value_weight, "teaching.value_weight", run),
            rho if routed else (),
            (teaching.key, i) if teaching.assignment == "key" else None,
        )


def acting(job: KickstartJob, scores: Mapping[str, Any] | None = None) -> TeacherActs | None:
    """Return the teacher that acts in rollouts, as the settings say; None where none does."""
    behaviour, run = job.settings.teaching.behaviour, job.settings.stop.env_steps
    if not behaviour.acts:
        return None
    jump = parse_jump(behaviour.jump, "teaching.behaviour.jump", run)
    if isinstance(jump, Curriculum) and scores is not None:
        jump.teacher, jump.random = scores["teachers"][0], scores["random"]
    beta = parse(behaviour.beta, "teaching.behaviour.beta", run)
    return TeacherActs(job.teachers[0], beta, jump, behaviour.samples)


def rehearsal(job: KickstartJob, student: Policy) -> Rehearsal | None:
    """Return the term on stored states that the settings name; None for none.

    Raises:
        UserError: There are no such states, or they are not the student's.
    """
    teaching, wanted = job.settings.teaching, job.settings.teaching.rehearsal
    if not wanted.data:
        return None
    states, teacher = stored_states(Path(wanted.data)), job.teachers[0]
    check_states(states, student)
    weight = parse(wanted.weight, "teaching.rehearsal.weight", job.settings.stop.env_steps)
    fitted = distance_of(teaching.distance, teacher, student.spec, beside_rewards)
    return rehearsal_of(states, teacher, fitted, Scaled(weight, 1.0, teaching.warm_up), wanted.batch, job.settings.seed)


def copy_teacher(teacher: PolicyLike, student: Policy) -> None:
    """Give the student the teacher's weights and input statistics; a value function that the teacher lacks stays fresh.

    Raises:
        UserError: Their networks differ.
    """
    assert isinstance(teacher, Policy)
    mine, theirs = asdict(student.spec), asdict(teacher.spec)
    apart = {"observation_space", "action_space", "value_hidden", "normalizer_clip", "normalizer_epsilon"}
    differ = [name for name in mine if name not in apart and mine[name] != theirs[name]]
    seen, shown = members(student.observation_space), members(teacher.observation_space)
    flat = [e.key for e in student.spec.encoders if not e.learned and e.key in shown]
    if any(seen[key].shape != shown[key].shape for key in flat):  # a picture's numbers in another order
        differ.append("observation_space")
    weights = teacher.state_dict()
    with torch.no_grad():
        for name, tensor in student.state_dict().items():
            if name in weights and weights[name].shape == tensor.shape:
                tensor.copy_(weights[name])
            elif not name.startswith("value_"):
                differ.append(name)
    if differ:
        told = ", ".join(f"{n} {theirs.get(n)} against {mine.get(n)}" for n in differ[:3])
        raise UserError(
            f"teaching.init teacher: the student's network must be its teacher's, but they differ in {told} "
            "(understudy inspect TEACHER; flags --policy.*)"
        )


def kickstart(
    env: EnvLike | None = None,
    teacher: Any = (),
    preset: Presets = (),
    settings: KickstartSettings | Mapping[str, Any] | None = None,
    *,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **overrides: Any,
) -> TrainResult:
    """Train a student by its own rewards and by teachers; see ``docs/kickstart.md``.

    Args:
        env: Environment id, a class or function that makes one, or a description; the teacher's own by default.
        teacher: Anything that ``understudy.load`` takes, or a list of several.
        preset: Name of a preset or path of a YAML file, or several, merged from left to right; ``kickstarting`` by
            default.
        settings: ``KickstartSettings``, under which no preset lies, or nested mappings such as
            ``{"teaching": {"weight": "gated(1)"}}``.
        run: Folder of the run; by default ``runs/ENV-TIME``.
        resume: Go on with the run in that folder: presets, nested mappings and keywords lie over its settings, and
            teachers need not be named again. The environment is its own.
        report: Called with the metrics of each round.
        **overrides: Settings with their dots as double underscores, such as ``teaching__weight="linear(2, 0, 10%)"``.

    Raises:
        UserError: Anything the user can mend.
    """
    settings = with_overrides(KickstartSettings, settings, overrides, preset)
    teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    if resume:
        settings, preset, env = gone_on(run, env, settings, preset)
    if not isinstance(settings, KickstartSettings) and method_of(settings, preset) != "actor_critic":
        replayed = prepare_replay(teachers, env, settings, preset, run, resume)
        _warn(replayed.notes)
        return run_replay_job(replayed, report)
    job = prepare(teachers, env, settings, preset=preset, run=run, resume=resume)
    _warn(job.notes)
    return run_job(job, report)


def gone_on(
    run: str | os.PathLike[str] | None,
    env: EnvLike | None,
    settings: KickstartSettings | Mapping[str, Any],
    preset: Presets,
) -> tuple[KickstartSettings | Mapping[str, Any], Presets, EnvLike | None]:
    """Return the settings, presets and environment with which the run in a folder goes on.

    Raises:
        UserError: There is no such run, or it is of another method or environment.
    """
    saved = read_run(run, "kickstart")
    keep_env(run, saved, env)
    if isinstance(settings, KickstartSettings):
        return settings, (), env
    return over_saved(run, saved, settings, preset), (), None


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=3)


def run_job(job: KickstartJob, report: Report | None = None) -> TrainResult:
    """Run what ``prepare`` returned."""
    if job.settings.pbt.population:
        raise UserError("pbt.population: a population is trained by understudy.kickstart_population")
    teaching, run = job.settings.teaching, job.settings.stop.env_steps
    weight = parse_weight(teaching.weight, "teaching.weight", run)
    jump = parse_jump(teaching.behaviour.jump, "teaching.behaviour.jump", run)
    follows = isinstance(weight, Gated) or isinstance(jump, Curriculum)
    by_task = isinstance(job.teachers[0], TaskTeachers) and job.settings.evaluation.every
    scores = None
    if follows or by_task:
        with in_use(job.folder):
            scores = measured_scores(job.settings, job.teachers, job.folder, job.resume)
    return train(
        settings=job.settings, run=job.folder, resume=job.resume, report=report, teach=Lessons(job, scores)
    )  # fmt: skip
