"""Distils a teacher for each behaviour of a scene, one after another, the other teachers acting for their agents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from understudy.config import merge
from understudy.data import EnvSpec
from understudy.distill_job import DistillJob, prepare
from understudy.distillation import DistillResult, distill
from understudy.envs.unity.options import is_unity
from understudy.errors import UserError
from understudy.evaluation.evaluate import Evaluation
from understudy.io.log import as_json
from understudy.io.run_folder import chosen_folder, in_use
from understudy.loop import Report
from understudy.policies.files import write_atomic
from understudy.policies.stored import BEHAVIOURS, behaviours_of
from understudy.scenes import folder_name, rows_in
from understudy.side_by_side.judge import among, judge, own_scene
from understudy.side_by_side.parts import folder_of, write_index

Begin = Callable[[str, DistillJob], AbstractContextManager[Report]]
"""Told a behaviour's job before it starts; returns who is told its rounds, while it lasts."""


@dataclass
class Distilled:
    """One behaviour's student."""

    result: DistillResult
    teacher: Evaluation | None = None
    """Its teacher, among the teachers of the others."""
    student: Evaluation | None = None
    """Its student, among the students of the others."""


def by_behaviour(teachers: list[str]) -> dict[str, str]:
    """Return teachers by behaviour where they are given so: ``NAME=FILE`` each, or the folder of runs side by side.

    Raises:
        UserError: Some are given so and others are not.
    """
    if len(teachers) == 1:
        found = behaviours_of(teachers[0])
        if found:
            return {name: str(path) for name, path in found.items()}
    pairs = [text.partition("=") for text in teachers]
    named = [(name, path) for name, _, path in pairs if path and not Path(name + "=" + path).exists()]
    if named and len(named) < len(teachers):
        raise UserError("either all teachers are given as BEHAVIOUR=FILE, or none")
    if len({name for name, _ in named}) < len(named):
        raise UserError("a behaviour is given two teachers: give each one")
    return dict(named)


def distill_each(
    teachers: Mapping[str, str],
    env: EnvSpec,
    settings: Mapping[str, Any],
    preset: str | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    begin: Begin | None = None,
    players: int | None = None,
) -> tuple[Path, dict[str, Distilled]]:
    """Distil every behaviour's teacher into a student of its own.

    Args:
        teachers: Paths by behaviour.
        env: The scene.
        settings: Of all distillations.
        preset: Under the settings.
        run: The folder that gets a folder for each.
        resume: Go on in that folder: what is finished is kept.
        begin: See ``Begin``.
        players: Of each distillation; by default enough for ``data.num_envs`` agents.

    Returns:
        The folder, and the students by behaviour.

    Raises:
        UserError: Anything the user can mend.
    """
    if not is_unity(env.id):
        raise UserError(f"BEHAVIOUR=FILE is for Unity scenes (--env unity:PATH), not for {env.id}")
    folder = chosen_folder(run, folder_name(env.id))
    if (folder / BEHAVIOURS).exists() and not resume:
        raise UserError(f"{folder} holds runs already: --resume {folder} goes on with them, --run FOLDER starts others")
    jobs, scenes = {}, {name: own_scene(env, path) for name, path in teachers.items()}
    for name, path in teachers.items():  # all of them before the first starts: mistakes are seen at once
        part = folder / folder_of(name)
        going = resume and (part / "state.safetensors").exists()
        spec, own = among(scenes[name], name, teachers), settings
        if players is not None:
            own = merge(settings, {"data": {"num_envs": rows_in(spec, players)}})
        jobs[name] = prepare([path], [spec], own, preset=preset, run=part, resume=going)
    described: dict[str, Any] = {"teachers": dict(teachers), "env": env.to_json(), "settings": dict(settings)}
    described |= {"preset": preset, "players": players}
    with in_use(folder):
        return folder, _distill(jobs, teachers, scenes, described, folder, begin)


def _distill(
    jobs: Mapping[str, DistillJob],
    teachers: Mapping[str, str],
    scenes: Mapping[str, EnvSpec],
    described: Mapping[str, Any],
    folder: Path,
    begin: Begin | None,
) -> dict[str, Distilled]:
    """Do it, in a folder that ``described`` is written to."""
    write_index(folder, {name: job.folder for name, job in jobs.items()})
    write_atomic(folder / "config.yaml", yaml.safe_dump({"by_behaviour": described}, sort_keys=False).encode())
    found = {}
    for name, job in jobs.items():
        with begin(name, job) if begin else nullcontext() as report:
            found[name] = Distilled(distill(job, report=report))
    students = {name: str(job.folder) for name, job in jobs.items()}
    for name, job in jobs.items():
        episodes, seed = job.settings.evaluation.final, job.settings.final_seed
        if episodes:
            found[name].teacher = judge(scenes[name], name, teachers, episodes, seed)
            found[name].student = judge(scenes[name], name, students, episodes, seed)
    write_atomic(folder / "summary.json", json.dumps(as_json(_summary(found)), indent=2).encode())
    return found


def _summary(found: Mapping[str, Distilled]) -> dict[str, Any]:
    summary = {}
    for name, one in found.items():
        told: dict[str, Any] = {"stopped": one.result.stopped, "ratio": one.result.ratio}
        told |= {"env_steps": one.result.env_steps, "updates": one.result.updates, "seconds": one.result.seconds}
        for who, judged in (("teacher", one.teacher), ("student", one.student)):
            if judged is not None:
                told[who] = {"return": judged.mean, "interval": list(judged.mean_interval)}
                told[who] |= {"mean_length": judged.mean_length}
        summary[name] = told
    return {"behaviours": summary}
