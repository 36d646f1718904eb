"""``understudy.sweep``: a ladder of students of one teacher, and the smallest of them that is on par."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.config import build, first_difference, merge, plain, with_overrides
from understudy.data import EnvSpec
from understudy.distill_job import DistillJob, prepare
from understudy.distillation import distill
from understudy.env_names import EnvLike
from understudy.envs.make import spaces_of
from understudy.errors import Interrupted, UserError
from understudy.evaluation.compare import Comparison, Row, compare
from understudy.evaluation.ladder import smallest_on_par
from understudy.io.run_folder import chosen_folder
from understudy.loop import Report
from understudy.policies.files import load_policy, write_atomic
from understudy.policies.policy import About, Policy, PolicyLike
from understudy.preset_files import read_yaml
from understudy.settings import DistillSettings, StudentSettings
from understudy.student import new_student, student_spec

Tell = Callable[[str, str], None]
"""Told of every size, and what is done about it."""
_LAYERS = re.compile(r"^(0|[1-9]\d*(x[1-9]\d*)*)$")
_SHARE = re.compile(r"^\d+(\.\d+)?%$")
_WIDEST = 4096
_KEPT = ("state.safetensors", "summary.json")
"""Either says that a size was begun, or is done."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """What a ladder of students came to.

    Attributes:
        comparison: The teacher, then one row per size, on the same fresh episodes; each test at alpha / sizes.
        sizes: (name, folder, how its run ended, env steps) of each student, in the order of the rows.
        smallest: Name of the smallest student on par; None where none is.
        folder: Where it all lies.
    """

    comparison: Comparison
    sizes: tuple[tuple[str, Path, str, int], ...]
    smallest: str | None
    folder: Path

    def __repr__(self) -> str:
        return f"{self.comparison!r}smallest on par: {self.smallest or 'none'}, in {self.folder}\n"

    def _repr_markdown_(self) -> str:
        """What notebooks show."""
        return f"{self.comparison._repr_markdown_()}\nsmallest on par: {self.smallest or 'none'}\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain data: one entry per student, then the comparison with every return."""
        rows = zip(self.sizes, self.comparison.rows[1:], strict=True)
        return {
            "env": self.comparison.env,
            "smallest": self.smallest,
            "students": [_entry(size, row) for size, row in rows],
            "comparison": self.comparison.to_json(),
        }


def _entry(size: tuple[str, Path, str, int], row: Row) -> dict[str, Any]:
    name, folder, stopped, env_steps = size
    return {
        "name": name,
        "folder": folder.name,
        "stopped": stopped,
        "env_steps": env_steps,
        "parameters": row.parameters,
        "latency_us": None if row.latency is None else row.latency.best_us,
        "return": row.evaluation.mean,
        "interval": list(row.evaluation.mean_interval),
        "ratio": row.ratio,
        "on_par": bool(row.parity and row.parity.passed),
        "p_value": row.parity.p_value if row.parity else None,
    }


def sweep(
    teacher: Any,
    env: EnvLike | Sequence[EnvLike] | None = None,
    sizes: Sequence[str] = ("8x8", "16x16", "32x32", "64x64"),
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    run: str | os.PathLike[str] = "runs/sweep",
    ensemble: str | None = None,
    tell: Tell = lambda name, what: None,
    report: Report | None = None,
    **overrides: Any,
) -> Sweep:
    """Distil a student of every size, each in a folder of its own, and compare all of them on fresh episodes.

    Sizes that an earlier call has finished are not distilled again, and one that it broke off is resumed.

    Args:
        teacher: As ``understudy.distill`` takes it, a path or a list of them.
        env: Likewise.
        sizes: Widths of the hidden layers as ``64x64``, ``0`` for none, or a share of the teacher's parameters as
            ``25%``: as many layers as the teacher has, as wide as the share allows.
        settings: Of all students alike; ``student.hidden`` is each size's own.
        preset: As of ``distill``.
        run: The folder; gets ``sweep.json`` too.
        ensemble: As of ``distill``.
        tell: Told of every size.
        report: Called with the metrics of each round.
        **overrides: Settings with their dots as double underscores.

    Raises:
        UserError: A size that cannot be read or made, a folder that holds runs with other settings, and all that
            ``distill`` raises.
    """
    _check_sizes(sizes)
    over = with_overrides(DistillSettings, settings, overrides, preset)
    if isinstance(over, DistillSettings):
        over = plain(over)  # which says every setting, so that nothing of a preset is left under it
    teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    folder = chosen_folder(run, "")
    jobs = [_job(size, teachers, env, over, folder, preset=preset, ensemble=ensemble) for size in sizes]
    students, found = [], []
    for size, job in zip(sizes, jobs, strict=True):
        stopped, env_steps = _finish(size, job, tell, report)
        best = job.folder / "best.safetensors"
        students.append(load_policy(best if best.exists() else job.folder / "last.safetensors"))
        found.append((size, job.folder, stopped, env_steps))
    tell("all", "playing fresh episodes")
    result = _compare(jobs, students, found, folder)
    write_atomic(folder / "sweep.json", json.dumps(result.to_json(), indent=1).encode())
    return result


def _check_sizes(sizes: Sequence[str]) -> None:
    """Refuse sizes that are none, given twice, or cannot be read.

    Raises:
        UserError: What is wrong with them.
    """
    if not sizes or len(set(sizes)) < len(sizes):
        raise UserError("--sizes needs at least one size, each once, such as 8x8 16x16 32x32")
    for size in sizes:
        if not _LAYERS.match(size) and not _SHARE.match(size):
            raise UserError(f"the size {size!r} cannot be read: write widths as 64x64, 0 for none, or a share as 25%")


def _job(
    size: str,
    teachers: Sequence[Any],
    env: EnvLike | Sequence[EnvLike] | None,
    over: Mapping[str, Any],
    folder: Path,
    **options: Any,
) -> DistillJob:
    """Prepare the distillation of one size, in a folder of its own; ``options`` are those of ``distill_job.prepare``.

    Raises:
        UserError: The size cannot be made, the folder holds a run with other settings, or no table is wanted.
    """
    place = folder / size.replace("%", "-percent")
    options |= {"run": place, "resume": any((place / name).exists() for name in _KEPT)}
    job = prepare(teachers, env, over, **options)  # a share of the teacher's parameters is known once it is loaded
    if job.settings.evaluation.final < 2:
        raise UserError(
            f"a sweep decides on fresh episodes: evaluation.final is {job.settings.evaluation.final}, take 20"
        )
    own = {"student": network_of(size, job.teacher, job.env, job.settings.student)}
    job = prepare(teachers, env, merge(over, own), **options)
    _check_same(job)
    return job


def _finish(size: str, job: DistillJob, tell: Tell, report: Report | None) -> tuple[str, int]:
    """Distil unless that was done; returns how the run ended, and its env steps."""
    summary = job.folder / "summary.json"
    if not summary.exists():
        tell(size, "going on" if job.resume else "distilling")
        try:
            distill(job, report=report)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command goes on from here") from None
    data = json.loads(summary.read_text())
    tell(size, f"{data['stopped']} after {data['env_steps']:,} env steps")
    return str(data["stopped"]), int(data["env_steps"])


def _compare(
    jobs: Sequence[DistillJob], students: Sequence[Policy], found: Sequence[tuple[str, Path, str, int]], folder: Path
) -> Sweep:
    """Play fresh episodes with everyone, sorted by size."""
    order = sorted(range(len(students)), key=lambda i: students[i].parameters_count)
    settings, teacher = jobs[0].settings, jobs[0].teacher
    result = compare(
        [teacher, *(students[i] for i in order)],
        jobs[0].env,
        settings.evaluation.final,
        settings.final_seed,
        settings.evaluation.num_envs,
        ratio=settings.stop.ratio,
        alpha=0.05 / len(students),
        guard_falls=settings.stop.guard_falls,
        names=["teacher", *(found[i][0] for i in order)],
    )
    smallest = smallest_on_par(result.rows[1:])
    return Sweep(result, tuple(found[i] for i in order), smallest.name if smallest else None, folder)


def _check_same(job: DistillJob) -> None:
    """Refuse to go on with a run that has other settings than are asked for.

    Raises:
        UserError: Naming the first setting that differs.
    """
    path = job.folder / "config.yaml"
    if not job.resume or not path.exists():
        return
    saved, asked = read_yaml(path), json.loads(json.dumps(job.described))
    for key in ("teachers", "environment"):
        if saved[key] != asked[key]:
            raise UserError(f"{job.folder} holds a run with other {key}: take another folder with --run")
    was, now = (found.get("ensemble") or "distributions" for found in (saved, asked))
    if was != now:
        raise UserError(
            f"{job.folder} holds a run with another --ensemble ({was} instead of {now}): take another folder with --run"
        )
    # Runs of earlier versions do not say every setting; the table is made anew.
    own = merge(
        plain(build(DistillSettings, saved["settings"])), {"evaluation": {"final": job.settings.evaluation.final}}
    )
    differ = first_difference(own, asked["settings"])
    if differ:
        raise UserError(f"{job.folder} holds a run with another {differ}: take another folder with --run")


def network_of(size: str, teacher: PolicyLike, env: EnvSpec, settings: StudentSettings) -> dict[str, Any]:
    """Return the student's settings for a size.

    Raises:
        UserError: A share of a teacher whose parameters are not known, or one that no network of this kind is as small
            as.
    """
    if _LAYERS.match(size):
        return {"hidden": [width for width in map(int, size.split("x")) if width]}
    if not teacher.parameters_count:
        raise UserError(f"the size {size} is a share of the teacher's parameters, which are not known: write widths")
    most = math.floor(float(size[:-1]) / 100 * teacher.parameters_count)
    layers = len(teacher.spec.hidden) if isinstance(teacher, Policy) else 2
    spaces = spaces_of(env)

    def network(width: int) -> dict[str, Any]:
        return {"hidden": [width] * max(layers, 1)} if not pictures else {"cnn_features": width, "hidden": []}

    def parameters(width: int) -> int:
        own = build(StudentSettings, merge(plain(settings), network(width)))
        return new_student(student_spec(own, *spaces, teacher), 0, About()).parameters_count

    pictures = any(e.learned for e in student_spec(settings, *spaces, teacher).encoders)
    if parameters(1) > most:
        raise UserError(
            f"no student of this kind is as small as {size} of the teacher's {teacher.parameters_count:,} parameters: "
            f"the smallest has {parameters(1):,}"
        )
    low, high = 1, _WIDEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) <= most else (low, middle)
    return network(low)


__all__ = ["Sweep", "network_of", "sweep"]
