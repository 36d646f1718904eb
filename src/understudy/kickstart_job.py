"""Before a kickstarted run starts: load the teachers, choose environment and settings, refuse what cannot work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from understudy.checks import check_schedule, check_settings
from understudy.config import build, merge, plain
from understudy.data import EnvSpec
from understudy.distill_job import load_for
from understudy.env_names import EnvLike, env_settings
from understudy.envs.multitask import task_shares
from understudy.errors import UserError
from understudy.execution.portable import portable
from understudy.kickstart_checks import check_behaviour, check_key, notes_on_behaviour, one_each
from understudy.objectives.feedback import Gated, TargetKL, ends, parse_weight
from understudy.objectives.schedules import parse
from understudy.policies.policy import Policy, PolicyLike
from understudy.preset_files import Presets, merged_presets
from understudy.scenes import check_labels
from understudy.settings import TAUGHT, KickstartSettings
from understudy.settings.train import EnvSettings
from understudy.teachers.combine import combine
from understudy.teachers.load import called
from understudy.teachers.routing import TaskTeachers
from understudy.training import run_folder

PRESET = "kickstarting"
_SCHEDULES = ("value_weight", "reward_weight", "rl_weight")


@dataclass(frozen=True)
class KickstartJob:
    """A run that is ready to start: everything is loaded, checked and resolved."""

    settings: KickstartSettings
    teachers: tuple[PolicyLike, ...]
    """One for each term: combined ones count as one."""
    folder: Path
    resume: bool
    notes: tuple[str, ...] = ()
    """What the user should know before it starts."""


def resolve(settings: Mapping[str, Any], presets: Presets) -> KickstartSettings:
    """Return the settings: defaults < presets from left to right < what the caller says, not yet checked.

    Raises:
        UserError: An unknown preset, key or value.
    """
    merged = merge(merged_presets(presets or PRESET), settings)
    if (method := merged.get("method")) in TAUGHT:  # a single run of it is prepared by replay_kickstarting
        raise UserError(
            f"populations (--pbt) and --against-scratch are for students that learn from rollouts, not from a replay "
            f"as those of the method {method} do: leave them out, or take --preset kickstarting"
        )
    return build(KickstartSettings, merged)


def prepare(
    teachers: Sequence[Any],
    env: EnvLike | None = None,
    settings: KickstartSettings | Mapping[str, Any] | None = None,
    *,
    preset: Presets = (),
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> KickstartJob:
    """Load the teachers and refuse what cannot work, before anything starts.

    Args:
        teachers: As ``understudy.load`` takes them; those that the settings name where there are none.
        env: Where the student learns; the teacher's own environment by default. An id alone comes with the wrappers of
            the first teacher that was made for it; arguments and wrappers alone go onto that teacher's environment.
        settings: ``KickstartSettings``, or nested mappings on top of the presets.
        preset: Name of a preset, or several that are merged from left to right; ``kickstarting`` by default.
        run: Folder of the run; by default ``runs/ENV-TIME``.
        resume: Go on with the run in that folder.

    Raises:
        UserError: Anything the user can mend.
    """
    if not isinstance(settings, KickstartSettings):
        over = dict(settings or {})
        settings = resolve(merge(over, env_settings(env)), preset)
    elif named := env_settings(env):
        settings = replace(settings, env=build(EnvSettings, merge(plain(settings.env), named["env"])))
    sources = list(teachers) or list(settings.teaching.teachers)
    if not sources:
        raise UserError("no teacher: pass --teacher FILE, or use understudy train to learn without one")
    names = tuple(called(source) for source in sources)
    settings = replace(settings, teaching=replace(settings.teaching, teachers=names))
    tasks = settings.teaching.assignment == "task"
    settings, loaded = (_load_tasks if tasks else _load_all)(settings, sources)
    check_settings(settings)
    _check_schedules(settings)
    for teacher in loaded:
        _check_teacher(settings, teacher)
    folder = run_folder(settings, run, resume)
    return KickstartJob(settings, tuple(loaded), folder, resume, tuple(_notes(settings)))


def _load_all(settings: KickstartSettings, sources: Sequence[Any]) -> tuple[KickstartSettings, list[PolicyLike]]:
    """Load teachers of the student's own environment."""
    env = settings.env
    if not env.id or not (env.wrappers or env.kwargs):
        env = _like_teacher(env, sources)
    spec = env.spec()
    loaded = [load_for(source, spec) for source in sources]
    kinds = {teacher.family.continuous for teacher in loaded}
    if len(kinds) > 1:
        raise UserError("teachers must all act with numbers or all with choices")
    if settings.teaching.assignment == "key" and settings.teaching.key:
        check_key(settings.teaching.key, spec, len(loaded))
    if settings.teaching.assignment == "mixture":
        loaded = [combine(loaded, "distributions")]
    return replace(settings, env=env), loaded


def _like_teacher(env: EnvSettings, sources: Sequence[Any]) -> EnvSettings:
    """Return the environment on top of that of the first teacher that was made for it."""
    for source in sources:
        own = load_for(source, env.id or None).about.env
        if own is not None and (not env.id or own.id == env.id):
            return env.over(own)
    if not env.id:
        raise UserError("no teacher says its environment: pass --env ID")
    return env


def _load_tasks(settings: KickstartSettings, sources: Sequence[Any]) -> tuple[KickstartSettings, list[PolicyLike]]:
    """Load one teacher for each task; together they say what the environment is."""
    if settings.env.id not in ("", "multitask"):
        raise UserError(
            f"teaching.assignment task learns the teachers' own tasks, not {settings.env.id}: leave --env out"
        )
    lost = [f"kwargs.{key}" for key in settings.env.kwargs if key not in ("tasks", "weights")]
    for name in [*lost, *(["wrappers"] if settings.env.wrappers else [])]:
        raise UserError(f"env.{name}: teaching.assignment task learns the teachers' tasks as they are: leave it out")
    loaded = [load_for(source) for source in sources]
    if "tasks" in settings.env.kwargs:
        loaded = one_each(settings.env.spec(), loaded)
    team = combine(loaded) if len(loaded) > 1 else None
    if not isinstance(team, TaskTeachers):
        raise UserError("teaching.assignment task needs teachers of different tasks; theirs is the same")
    spec = team.about.env
    assert spec is not None
    weights = settings.env.kwargs.get("weights")
    spec = EnvSpec(spec.id, {**spec.kwargs, **({"weights": weights} if weights else {})})
    count = sum(task_shares(spec))
    execution, envs = settings.execution, settings.rollout.num_envs
    share = envs // (1 if execution.type == "single" else execution.num_workers)
    if share % count:
        weighed = f" of weights {weights}" if weights else ""
        raise UserError(
            f"{len(sources)} tasks{weighed} need environments in whole shares: {share} for every worker does not "
            f"divide among them, take --num-envs {count * max(share // count, 1) * (envs // share)}"
        )
    return replace(settings, env=EnvSettings(spec.id, dict(spec.kwargs))), [team]


def _check_schedules(settings: KickstartSettings) -> None:
    teaching, run = settings.teaching, settings.stop.env_steps
    weight = parse_weight(teaching.weight, "teaching.weight", run)
    others = {name: parse(getattr(teaching, name), f"teaching.{name}", run) for name in _SCHEDULES}
    check_schedule(settings, "teaching.weight", weight)
    for name, schedule in others.items():
        check_schedule(settings, f"teaching.{name}", schedule)
    for text in teaching.rho:
        check_schedule(settings, "teaching.rho", parse(text, "teaching.rho", run))
    rehearsed = parse(teaching.rehearsal.weight, "teaching.rehearsal.weight", run)
    check_schedule(settings, "teaching.rehearsal.weight", rehearsed)
    if isinstance(weight, Gated) and not settings.evaluation.every:
        raise UserError("teaching.weight gated follows evaluations, but evaluation.every is 0")
    if isinstance(weight, TargetKL) and settings.execution.shared_gradients:
        raise UserError(
            "teaching.weight target_kl follows the distance over all workers, which in A3C each learn by themselves: "
            "take another schedule, or a2c with --execution async"
        )
    check_behaviour(settings, ends(others["rl_weight"]) == 0)
    last = teaching.warm_up + ends(weight)
    alone = not settings.objective.value_weight and not teaching.rehearsal.data
    if ends(others["rl_weight"]) == 0 and alone and last < run:
        raise UserError(
            f"teaching.rl_weight is 0 and teaching.weight ends after {last:,.0f} of {run:,} env steps: nothing would "
            "be left to learn from"
        )


def _check_teacher(settings: KickstartSettings, teacher: PolicyLike) -> None:
    """Refuse a teacher that lacks what the settings want of it."""
    teaching, name = settings.teaching, teacher.about.source or teacher.about.algorithm
    recurrent = teacher.initial_state(1) is not None
    if recurrent and settings.execution.type == "async" and settings.execution.max_lag:
        raise UserError(
            f"the teacher {name} has a memory, but async joins rollouts in any order: take --execution sync, or "
            "--execution.max_lag 0"
        )
    if _labels(settings):
        check_labels(teacher, settings.env.id)
    if settings.execution.shared_gradients and portable(teacher) is None:
        raise UserError(f"{name} cannot be copied to A3C's workers: take --preset a2c")
    behaviour = teaching.behaviour
    if behaviour.acts and behaviour.samples and not hasattr(teacher, "act"):
        raise UserError(
            f"teaching.behaviour.samples: {name} is no policy of Understudy's or Stable-Baselines3's format: it acts "
            "by its mode; set it false"
        )
    if behaviour.acts and behaviour.jump.strip().startswith("curriculum") and portable(teacher) is None:
        raise UserError(f"teaching.behaviour.jump curriculum is evaluated in another process, where {name} cannot go")
    if behaviour.acts and settings.execution.type != "single" and portable(teacher) is None:
        raise UserError(f"{name} cannot be copied to workers: take --execution single")
    if teaching.reward == "log_prob" and not teacher.family.stochastic:
        raise UserError(f"teaching.reward log_prob needs a teacher with probabilities, not a {teacher.family.name} one")
    wants_value = teaching.gate == "value" or teaching.reward == "value" or teaching.value_weight not in ("0", "0.0")
    if wants_value and not _has_value(teacher):
        raise UserError(f"teaching.gate, value_weight and reward value need a teacher with a value; {name} has none")
    if recurrent and teaching.rehearsal.data:
        raise UserError(f"teaching.rehearsal asks about single states, but {name} has a memory")
    if recurrent and teaching.reward == "value":
        raise UserError(f"teaching.reward value needs teachers without a memory; {name} has one")
    if teaching.init == "teacher" and not isinstance(teacher, Policy):
        raise UserError(f"teaching.init teacher needs a policy of Understudy's own format, not {name}: distil it first")


def _labels(settings: KickstartSettings) -> bool:
    """Say whether teachers are asked about rollouts, and do not act alone."""
    teaching, run = settings.teaching, settings.stop.env_steps
    weights = [teaching.weight, teaching.value_weight]
    if teaching.reward not in ("none", "distance"):  # the weight of the distance is that of its reward, too
        weights.append(teaching.reward_weight)
    return bool(settings.pbt.population) or any(ends(parse_weight(w, "teaching", run)) > 0 for w in weights)


def _has_value(teacher: PolicyLike) -> bool:
    """Ask the teacher about one observation of zeros."""
    one = teacher.observation_space.sample()
    obs: Any = (
        {k: np.zeros_like(v)[None] for k, v in one.items()} if isinstance(one, dict) else np.zeros_like(one)[None]
    )
    state = teacher.initial_state(1)
    if state is not None:
        obs = {k: v[None] for k, v in obs.items()} if isinstance(obs, dict) else obs[None]
    start = None if state is None else np.ones((1, 1), bool)
    return teacher.label(obs, state, start)[0].value is not None


def _notes(settings: KickstartSettings) -> list[str]:
    teaching, run = settings.teaching, settings.stop.env_steps
    notes = []
    if 0 < run <= settings.rollout.whole(teaching.warm_up):
        notes = [f"teaching.warm_up {teaching.warm_up:,} lasts all {run:,} env steps: the policy stays as it begins"]
    if settings.pbt.population:
        return notes  # lambda is moved by the population
    weight = parse_weight(teaching.weight, "teaching.weight", run)
    learns = teaching.env_reward and ends(parse(teaching.rl_weight, "teaching.rl_weight", run)) > 0
    notes += notes_on_behaviour(settings) if learns else []
    if not learns or weight.value(0) == 0:
        return notes
    if weight.constant:
        return [
            *notes,
            f"teaching.weight {teaching.weight} never falls: such a student ends at its teacher; try linear(1, 0, 15%)",
        ]
    if isinstance(weight, (Gated, TargetKL)) or ends(weight) <= run or weight.value(run) == 0:
        return notes
    said = f"teaching.weight {teaching.weight} is still {weight.value(run):.3g} at the end: it holds the student back"
    return [*notes, said]
