"""One distillation run and its folder: builds the parts, saves and restores them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.data import Array, EnvSpec
from understudy.envs.judged import judged
from understudy.envs.make import spaces_of
from understudy.envs.multitask import task_names
from understudy.errors import UserError
from understudy.evaluation.judge import Judge
from understudy.execution.base import EvaluatingExecution, Setup
from understudy.execution.portable import portable
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.io.run_folder import forget_results
from understudy.learning.distill_learner import Learner, make_learner
from understudy.learning.from_dataset import DistillProgress, FromDataset, ParityExaminer, TeacherLabels
from understudy.loop import Report, Run
from understudy.objectives.distances import Distance, default_distance
from understudy.objectives.schedules import parse
from understudy.policies.family import ActionMap, Family
from understudy.policies.files import save_policy, write_atomic
from understudy.policies.policy import About, Policy, PolicyLike
from understudy.policies.spec import PolicySpec, differences
from understudy.policies.weights import build as build_policy
from understudy.rollouts.dataset import Dataset
from understudy.settings import DistanceSettings, DistillSettings
from understudy.student import fit_normalizer, new_student, student_spec

Auto = Callable[[Family, Family], Distance]
"""A sound distance from a teacher's family to a student's."""


def distance_of(
    settings: DistanceSettings, teacher: PolicyLike, student: PolicySpec, auto: Auto = default_distance
) -> Distance:
    """Return the distance that the settings name, or what ``auto`` is, checked against both families."""
    name = auto(teacher.family, student.distribution).name if settings.name == "auto" else settings.name
    # A Box without bounds has no action to saturate at.
    bounded = bool(np.isfinite(ActionMap(student.actions).unit_low).all()) if student.distribution.continuous else True
    distance = Distance(**asdict(settings) | {"name": name, "saturate": settings.saturate and bounded})
    distance.check(teacher.family, student.distribution)
    return distance


def make_execution(settings: DistillSettings, setup: Setup, teacher: PolicyLike) -> EvaluatingExecution:
    """Start the execution that the settings name.

    Raises:
        UserError: The teacher is a Python object that cannot travel to workers.
    """
    if settings.execution.type == "single":
        from understudy.execution.single import SingleExecution

        return SingleExecution(setup, teacher if setup.teacher is None else None)
    if setup.teacher is None:
        raise UserError("this teacher cannot be copied to workers: use --execution.type single")
    from understudy.execution.sync import SyncExecution

    workers = settings.execution
    return SyncExecution(setup, workers.num_workers, workers.worker_timeout, workers.restarts)


class DistillSession:
    """One run and its folder: builds the parts, saves and restores them."""

    def __init__(
        self, teacher: PolicyLike, spec: EnvSpec, settings: DistillSettings, folder: Path, resume: bool = False
    ) -> None:
        self._begin, self._spent = time.perf_counter(), 0.0
        saved = read_arrays(folder / "state.safetensors") if resume else None
        torch.set_num_threads(1)  # networks this small are slower with more, and workers need the other cores
        self.teacher, self.env, self.settings, self.folder = teacher, spec, settings, folder
        self.described = b""
        """What ``config.yaml`` says: written again where the folder was taken away, so that the run can be resumed."""
        self._places: dict[int, slice] = {}
        """Where the samples of each round stand, and later ones over them."""
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
        seeds = settings.collection_seeds(saved[1]["progress"]["round"] if saved else 0)
        evaluation = settings.evaluation
        self.setup = Setup(
            spec,
            seeds,
            max(settings.data.steps, settings.data.first_steps),
            self.student_spec,
            portable(teacher),
            evaluation.num_envs,
            judged=(range(settings.judge_seed, settings.judge_seed + 1_000_000),),
        )
        self.execution = make_execution(settings, self.setup, teacher)
        self.ended = ""
        """Why the run that is resumed had ended, empty if it had not or would not with the goal that is asked for."""
        try:
            tasks = task_names(spec)
            self.judge = Judge(self.execution.evaluate, evaluation, settings.stop, tasks, settings.judge_seed)
            self.progress = DistillProgress()
            self.labels = TeacherLabels(teacher)
            if saved is not None:
                self._restore(*saved)
        except BaseException:
            self.execution.close()
            raise

    def run(self, report: Report) -> Run:
        """Return the run for ``train``."""
        settings, learner, progress = self.settings, self.learner, self.progress
        learning = FromDataset(
            settings,
            learner,
            self.dataset,
            self.labels,
            parse(settings.behaviour.beta, "behaviour.beta", settings.stop.env_steps),
            parse(settings.behaviour.noise, "behaviour.noise", settings.stop.env_steps),
            progress,
            lambda columns: fit_normalizer(self.student, settings.student, self.teacher, columns),
        )
        examiner = ParityExaminer(settings, learner, self.judge, progress)
        stop = settings.stop
        return Run(self.execution, learning, examiner, progress, stop.env_steps, stop.seconds, report, self.save)

    @property
    def _goal(self) -> dict[str, Any]:
        """What a student must show to end the run on par, and with whom."""
        stop, about = self.settings.stop, self.teacher.about
        goal = {"ratio": stop.ratio, "alpha": stop.alpha, "guard_falls": stop.guard_falls}
        return {**goal, "confirm": self.settings.evaluation.confirm, "teacher": [about.algorithm, about.source]}

    @property
    def done(self) -> bool:
        """Whether a run that is resumed has nothing left to do: it ended on par, or its budget is used up."""
        return self.ended == "parity" or self.progress.env_steps >= self.settings.stop.env_steps

    @property
    def total(self) -> float:
        """Wall seconds of the whole run; what came to nothing by a kill is not counted."""
        return self._spent + time.perf_counter() - self._begin

    def policy(self) -> Policy:
        """Return the student as it would be saved now."""
        return build_policy(self.student_spec, self.learner.weights(), self.student.about)

    def save(self, metrics: Mapping[str, Any]) -> None:
        """Write the student, the samples of this round, and the state to go on from."""
        forget_results(self.folder)
        student, progress = self.policy(), self.progress
        extra = {"env_steps": progress.env_steps, "ratio": progress.ratio if np.isfinite(progress.ratio) else None}
        if metrics.get("best"):
            save_policy(student, self.folder / "best.safetensors", extra)
        save_policy(student, self.folder / "last.safetensors", extra)
        if self.described and not (self.folder / "config.yaml").exists():
            self.describe()
        self._save_samples()
        arrays, data = self.learner.state()
        state = {
            "learner": data, "judge": self.judge.state(), "progress": asdict(progress),
            "spec": self.student_spec.to_json(), "total": self.total, "window": self.dataset.window,
            "goal": self._goal, "whole_games": True,
        }  # fmt: skip
        write_arrays(self.folder / "state.safetensors", arrays, state)

    def describe(self) -> None:
        """Write ``config.yaml``."""
        write_atomic(self.folder / "config.yaml", self.described)

    def _save_samples(self) -> None:
        """Write this round's samples, and those of earlier ones where the folder was taken away."""
        now = self.progress.round
        earlier = self._places if self.settings.data.aggregate else {}
        self._places = {**earlier, now: self.dataset.latest}
        for number, place in self._places.items():
            path = self._samples_of(number)
            if number == now or not path.exists():
                samples = {name: column[place] for name, column in self.dataset.columns.items()}
                write_arrays(path, samples, {"round": number})

    def _samples_of(self, number: int) -> Path:
        return self.folder / "data" / f"{number:05d}.safetensors"

    def _restore(self, arrays: dict[str, Array], data: dict[str, Any]) -> None:
        """Go on from the folder's state. Episodes begin anew; everything else is as it was."""
        mine = {name: tuple(tensor.shape) for name, tensor in self.student.state_dict().items()}
        if mine != {name: arrays[name].shape for name in mine if name in arrays}:
            raise UserError(f"the run in {self.folder} has another student: resume it without changing student.*")
        # Runs of earlier versions do not say it.
        differ = differences(PolicySpec.from_json(data["spec"]), self.student_spec) if "spec" in data else ""
        if differ:
            raise UserError(
                f"the run in {self.folder} has another student ({differ}): resume it without changing student.*"
            )
        window, before = self.dataset.window, data.get("window", self.dataset.window)
        if before % window:
            raise UserError(
                f"the run in {self.folder} kept sequences of {before} steps, which do not divide into {window}: resume "
                f"it with learning.sequence {before}, or a divisor of it"
            )
        self.progress.__dict__.update(data["progress"])
        # Runs of earlier versions say the ratio alone, or nothing.
        goal = data.get("goal", {"ratio": data["asked"]} if "asked" in data else {})
        if goal.items() <= self._goal.items():
            self.ended = self.progress.stopped
        self.progress.stopped = ""
        first = 1 if self.settings.data.aggregate else self.progress.round
        for number in range(first, self.progress.round + 1):
            columns, _ = read_arrays(self._samples_of(number))
            self._places[number] = self.dataset.extend(columns)
        self.learner.restore(arrays, data["learner"])
        # Earlier versions judged in the environment of learning: what they measured of the teacher is measured again.
        aided = not data.get("whole_games", False) and judged(self.env) != self.env
        other = goal.get("teacher", self._goal["teacher"]) != self._goal["teacher"]
        self.judge.restore(data["judge"] | ({"seed": None} if aided or other else {}))
        if other:
            self.progress.best = DistillProgress().best
        # Runs of earlier versions say the parts alone.
        self._spent = data.get("total", sum(self.progress.seconds.values()) + self.judge.seconds)
