"""``understudy.kickstart_population``: a population of students, of which the best becomes the run's."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import yaml

from understudy.config import merge, plain, with_overrides
from understudy.env_names import EnvLike
from understudy.envs.make import spaces_of
from understudy.errors import Interrupted, OutsideError, UserError
from understudy.evaluation.evaluate import evaluate
from understudy.execution.processes import cores
from understudy.io.log import as_json
from understudy.io.run_folder import forget_results, in_use
from understudy.kickstart_job import KickstartJob, prepare
from understudy.kickstarting import gone_on
from understudy.policies.files import load_policy, write_atomic
from understudy.policies.policy import About, Policy
from understudy.population import tune
from understudy.population.member import member_folder, saved_member
from understudy.population.needs import estimate, free_disk, free_memory
from understudy.population.picture import draw
from understudy.population.values import (
    LOG,
    Result,
    Values,
    append,
    best,
    first_values,
    interval,
    lineage,
    member_seed,
    read,
)
from understudy.preset_files import Presets
from understudy.settings import KickstartSettings
from understudy.training import TrainResult
from understudy.training_parts import policy_spec

DEFAULT_SIZE = 4
"""Members where only ``--pbt`` was said."""


def kickstart_population(
    env: EnvLike | None = None,
    teacher: Any = (),
    preset: Presets = (),
    settings: KickstartSettings | Mapping[str, Any] | None = None,
    *,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tell: tune.Tell | None = None,
    **overrides: Any,
) -> TrainResult:
    """Train a population of kickstarted students whose lambda, learning rate and entropy bonus PBT moves.

    Args:
        env: As ``kickstart`` takes it, and so are all others but these:
        teacher: Anything that ``understudy.load`` takes and that can be pickled, or a list of several.
        preset: Name of a preset, or several.
        settings: With the section ``pbt``; a population of 4 where it says none.
        run: Folder of the run.
        resume: Go on with the run in that folder.
        tell: Called with the result of every interval of every member.
        **overrides: Settings with their dots as double underscores, such as ``pbt__population=8``.

    Raises:
        UserError: Anything the user can mend.
        Interrupted: Ctrl-C; the intervals that were finished are saved.
    """
    settings = with_overrides(KickstartSettings, settings, overrides, preset)
    if resume:
        settings, preset, env = gone_on(run, env, settings, preset)
    if not isinstance(settings, KickstartSettings):
        settings = merge({"pbt": {"population": DEFAULT_SIZE}}, settings or {})
    teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    return train_population(prepare(teachers, env, settings, preset=preset, run=run, resume=resume), tell)


def concurrent(settings: KickstartSettings) -> int:
    """Return how many members learn at once."""
    return min(settings.pbt.concurrent or cores(), settings.pbt.population)


def check(job: KickstartJob) -> None:
    """Refuse what cannot work, before anything starts.

    Raises:
        UserError: Ray Tune is missing, memory or disk do not suffice, or settings do not go with a population.
    """
    settings = job.settings
    if settings.pbt.population < 2:
        raise UserError("pbt.population is 0: a population has at least 2 members")
    if settings.execution.type not in ("single", "sync"):
        raise UserError(
            f"every member of a population is a single process: --execution {settings.execution.type} does not go "
            "with --pbt"
        )
    if settings.checkpoint_every or settings.stop.score is not None or settings.stop.seconds:
        raise UserError(
            "with --pbt members are saved after every interval and end with stop.env_steps: leave checkpoint_every, "
            "stop.score and stop.seconds out"
        )
    tune.import_tune()
    spaces = spaces_of(settings.env.spec())
    student = Policy(policy_spec(settings.policy, *spaces, bool(settings.objective.value_weight)), About())
    parameters = sum(p.numel() for p in student.parameters())
    estimate(job, parameters, concurrent(settings)).check(free_memory(), free_disk(job.folder.absolute()))


def with_interval(job: KickstartJob) -> KickstartJob:
    """Return the job with ``pbt.interval`` in env steps; one that goes on keeps the first, whatever its budget is now.

    Raises:
        UserError: There is nothing to go on with.
    """
    settings = job.settings
    every = interval(settings)
    if job.resume and not settings.pbt.interval:
        every = next((r.env_steps for r in read(job.folder / LOG) if r.interval == 1), every)
    return replace(job, settings=replace(settings, pbt=replace(settings.pbt, interval=every)))


def begin_of(job: KickstartJob) -> list[tuple[int, Values]]:
    """Return the intervals of every member so far and its numbers: (0, drawn) where there are none.

    Raises:
        UserError: The folder holds a run already, or nothing to resume.
    """
    fresh = [(0, values) for values in first_values(job.settings)]
    path = job.folder / LOG
    if not job.resume:
        if path.exists():
            raise UserError(
                f"{job.folder} holds a population already: --resume {job.folder} goes on with it, --run FOLDER starts "
                "another"
            )
        return fresh
    read(path)
    return [saved_member(job.folder, i) or fresh[i] for i in range(job.settings.pbt.population)]


def train_population(job: KickstartJob, tell: tune.Tell | None = None) -> TrainResult:
    """Run what ``prepare`` returned; see ``kickstart_population``."""
    check(job)
    with in_use(job.folder):
        return _train(job, tell)


def _train(job: KickstartJob, tell: tune.Tell | None) -> TrainResult:
    began, job = time.perf_counter(), with_interval(job)
    job = replace(job, folder=job.folder.absolute())  # members have a working directory of their own
    settings, path = job.settings, job.folder / LOG
    begin = begin_of(job)
    results = read(path) if job.resume else []
    job.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(job.folder / "config.yaml", yaml.safe_dump({"settings": plain(settings)}, sort_keys=False).encode())

    def note(result: Result) -> None:
        forget_results(job.folder)
        past = [r.values for r in results if (r.member, r.interval) == (result.member, result.interval - 1)]
        result = replace(result, before=past[0] if past else {})
        append(path, result)
        results.append(result)
        if tell is not None:
            tell(result)

    if any(r.env_steps < settings.stop.env_steps for r in _last(results, settings)) or not results:
        try:
            tune.run(job, begin, concurrent(settings), note)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {_saved(job, results)}") from None
        except OutsideError as error:
            error.args = (f"{error}; {_saved(job, results)}",)
            raise
    return _finish(job, results, time.perf_counter() - began)


def _last(results: Sequence[Result], settings: KickstartSettings) -> list[Result]:
    """Return every member's last result."""
    last = {r.member: r for r in sorted(results, key=lambda r: r.interval)}
    return list(last.values()) if len(last) == settings.pbt.population else list(results[:1])


def _saved(job: KickstartJob, results: Sequence[Result]) -> str:
    if not results:
        return f"nothing was learnt yet, nothing is in {job.folder}"
    draw(results, job.folder / "population.png")
    steps = min(r.env_steps for r in results if r.interval == max(r.interval for r in results))
    return (
        f"members came to {steps:,} env steps; go on with: understudy kickstart --resume {shlex.quote(str(job.folder))}"
    )


def _finish(job: KickstartJob, results: Sequence[Result], seconds: float) -> TrainResult:
    """Make the best member the run's student, and judge it on episodes that chose nothing."""
    settings, folder = job.settings, job.folder
    winner = best(results)
    shutil.copyfile(member_folder(folder, winner.member) / "last.safetensors", folder / "last.safetensors")
    top = max(results, key=lambda r: r.score)
    shutil.copyfile(member_folder(folder, top.member) / "best.safetensors", folder / "best.safetensors")
    draw(results, folder / "population.png")
    policy = load_policy(folder / "last.safetensors")
    score, interval = float("nan"), (float("nan"), float("nan"))
    if settings.evaluation.final:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            found = evaluate(
                policy, settings.env.spec(), settings.evaluation.final, settings.final_seeds[0],
                settings.evaluation.num_envs, deterministic=settings.evaluation.deterministic,
            )  # fmt: skip
        score, interval = found.mean, found.mean_interval
    curve = [(r.env_steps, r.score) for r in lineage(results, winner.member)]
    spent = sum(r.env_steps for r in results if r.interval == winner.interval)
    summary = {
        "stopped": "env_steps", "env_steps": winner.env_steps, "population_env_steps": spent, "score": score,
        "interval": list(interval), "seconds": {"total": seconds}, "curve": curve, "member": winner.member,
        "values": winner.values, "seeds": [member_seed(settings, i) for i in range(settings.pbt.population)],
        "exploits": sum(r.exploit for r in results),
    }  # fmt: skip
    write_atomic(folder / "summary.json", json.dumps(as_json(summary), indent=2).encode())
    times = {"total": seconds}
    return TrainResult(policy, "env_steps", winner.env_steps, 0, times, folder, score, interval, curve=curve)
