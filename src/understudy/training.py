"""``understudy.train``: an environment and a preset in, a trained policy out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from understudy.checks import check_settings
from understudy.config import build, merge, plain, with_overrides
from understudy.env_names import EnvLike, env_settings
from understudy.errors import Interrupted, OutsideError, UserError, suggest
from understudy.evaluation.statistics import bootstrap_interval
from understudy.execution.base import workers_alive
from understudy.io.log import RunLog, as_json, logged_curve
from understudy.io.run_folder import check_free, chosen_folder, in_use
from understudy.io.saved_run import keep_env, over_saved, read_run
from understudy.loop import Report
from understudy.loop import train as loop
from understudy.policies.files import load_policy, remove_leftovers, write_atomic
from understudy.policies.policy import Policy
from understudy.preset_files import Presets, merged_presets
from understudy.scenes import folder_name, for_scene
from understudy.settings import METHODS, EnvSettings, ReplayedSettings, TrainSettings
from understudy.training_session import Teach, TrainSession


@dataclass(repr=False)
class TrainResult:
    """What a run ends with."""

    policy: Policy
    """As it was at the end; ``folder/best.safetensors`` had the best evaluation."""
    stopped: str
    """``score``, or which budget ended: ``env_steps``, ``seconds``."""
    env_steps: int
    updates: int
    seconds: dict[str, float]
    """Wall seconds by part: collect, learn, total; of the slowest worker: env, inference; beside it all: evaluate."""
    folder: Path
    score: float = float("nan")
    """Mean return of the last evaluation's episodes, which chose nothing."""
    interval: tuple[float, float] = (float("nan"), float("nan"))
    """Its bootstrap 95 % interval."""
    restarts: int = 0
    """Workers (and evaluators) that failed and were replaced."""
    lost_episodes: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(env_steps, mean return) of every evaluation."""

    def __repr__(self) -> str:
        low, high = self.interval
        score = "" if math.isnan(self.score) else f"return {self.score:.5g} [{low:.5g}, {high:.5g}], "
        ended = f"{self.env_steps:,} env steps, stopped by {self.stopped}, {self.seconds['total']:.1f} s"
        return f"<TrainResult in {self.folder}: {score}{ended}>"


AnySettings = TrainSettings | ReplayedSettings


def resolve_training(settings: Mapping[str, Any], preset: Presets | None) -> AnySettings:
    """Return the settings of the method that they name: defaults < preset < what the caller says.

    Raises:
        UserError: An unknown preset, key or value, or settings that contradict each other.
    """
    merged = merge(merged_presets(preset), settings)
    method = str(merged.get("method", "actor_critic"))
    if method not in METHODS:
        raise UserError(f"method is {method!r}; it can be {', '.join(METHODS)}{suggest(method, METHODS)}")
    try:
        resolved: AnySettings = build(METHODS[method], merged)
    except UserError as error:
        raise UserError(f"{error}; the method is {method}") if "unknown key" in str(error) else error from None
    check_settings(resolved)
    return resolved


def train(
    env: EnvLike | None = None,
    preset: Presets | None = None,
    settings: AnySettings | Mapping[str, Any] | None = None,
    *,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    teach: Teach | None = None,
    **overrides: Any,
) -> TrainResult:
    """Train a policy by reinforcement learning.

    Args:
        env: Environment id, a class or function that makes one, or a description; the preset's by default.
        preset: Name of a preset under the settings, such as ``ppo`` (``understudy presets`` lists them), or path of a
            YAML file, or several, merged from left to right.
        settings: Those of a method, such as ``TrainSettings``, under which no preset lies, or nested mappings such as
            ``{"rollout": {"num_envs": 8}}``.
        run: Folder of the run; by default ``runs/ENV-TIME``.
        resume: Go on with the run in that folder, from its last checkpoint: presets, nested mappings and keywords lie
            over its settings, and the environment is its own.
        report: Called with the metrics of each round.
        teach: Adds teachers; ``understudy.kickstart`` makes it.
        **overrides: Settings with their dots as double underscores, such as ``update__lr="1e-3"``.

    Raises:
        UserError: Anything the user can mend: no such environment, settings that contradict, NaN, a full disk.
        OutsideError: NaN from the environment, an evaluation that cannot be played, or (``WorkerError``) more workers
            failed than ``execution.restarts``; what was learnt is saved.
        Interrupted: Ctrl-C; what was learnt is saved.
    """
    named = env_settings(env)
    settings = with_overrides(AnySettings, settings, overrides, preset)
    if teach is None and hasattr(settings, "teaching"):
        raise UserError(f"settings is {type(settings).__name__}, with teachers: give it to understudy.kickstart")
    if resume and teach is None:
        saved = read_run(run, "train")
        keep_env(run, saved, env)
        if not isinstance(settings, AnySettings):
            settings, preset, named = over_saved(run, saved, settings, preset), None, {}
    if isinstance(settings, AnySettings):
        resolved = settings
        if named:
            resolved = replace(settings, env=build(EnvSettings, merge(plain(settings.env), named["env"])))
        check_settings(resolved)
    else:
        resolved = resolve_training(merge(settings or {}, named), preset)
    return _run(resolved, run_folder(resolved, run, resume), resume, report, teach)


def _run(resolved: AnySettings, folder: Path, resume: bool, report: Report | None, teach: Teach | None) -> TrainResult:
    """Run resolved settings in a folder; see ``train``."""
    with in_use(folder):
        if not resume:
            check_free(folder)  # a run may have ended there since
        return _run_alone(resolved, folder, resume, report, teach)


def _run_alone(
    resolved: AnySettings, folder: Path, resume: bool, report: Report | None, teach: Teach | None
) -> TrainResult:
    session = TrainSession(for_scene(resolved), folder, resume, teach)
    log: RunLog | None = None
    try:
        remove_leftovers(folder)
        described: dict[str, Any] = {"settings": plain(resolved)}
        if session.teaching is not None:
            described["distances"] = session.teaching.distances  # what "auto" was
        session.described = yaml.safe_dump(described, sort_keys=False).encode()
        session.describe()
        curve = logged_curve(folder / "log.jsonl", session.progress.env_steps) if resume else []
        log = RunLog(folder, fresh=not resume)

        def tell(metrics: dict[str, Any]) -> None:
            row = _row(session, metrics)
            if "eval_return" in metrics:
                curve.append((metrics["eval_env_steps"], metrics["eval_return"]))
            assert log is not None
            log.write(session.progress.env_steps, row)
            if report is not None:
                _call(report, {"env_steps": session.progress.env_steps, **row}, session)

        if session.progress.env_steps < resolved.stop.env_steps:
            run, examiner = session.run(tell), session.examiner
            assert examiner is not None
            if session.unjudged is not None and session.unjudged not in dict(curve):
                made_up: dict[str, Any] = {}
                session.progress.stopped = examiner.make_up(made_up)
                if made_up:
                    tell(made_up)
            loop(run)
            last: dict[str, Any] = {}
            examiner.finish(last)
            if last:
                tell(last)
        else:
            session.progress.stopped = session.ended or "env_steps"
        return _result(session, curve)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {session.rescue()}") from None
    except OutsideError as error:
        error.args = (f"{error}; {session.rescue()}",)
        raise
    except UserError:
        raise  # a full disk, or a loss that is not finite: the last checkpoint is the better one
    except (Exception, SystemExit) as error:
        error.add_note(session.rescue())
        raise
    finally:
        try:
            session.close()
        finally:
            if log is not None:
                log.close()


def _call(report: Report, metrics: dict[str, Any], session: TrainSession) -> None:
    """Tell the caller; whatever is raised to end the run says nothing against what was learnt."""
    try:
        report(metrics)
    except UserError as error:
        error.add_note(session.rescue())
        raise


def run_folder(settings: AnySettings, run: str | os.PathLike[str] | None, resume: bool) -> Path:
    """Return the folder of a run.

    Raises:
        UserError: It holds a run already, or what is left of one, or has no name.
    """
    folder = chosen_folder(run, folder_name(settings.env.id))
    if not resume:
        check_free(folder)
    return folder


def _row(session: TrainSession, metrics: dict[str, Any]) -> dict[str, Any]:
    progress, seconds = session.progress, session.seconds
    faults = session.faults
    counts = {"round": progress.round, "updates": progress.updates, "episodes": progress.episodes}
    counts |= {"restarts": faults.restarts, "lost_episodes": faults.lost_episodes} | workers_alive(session.execution)
    rate = progress.env_steps / max(progress.seconds["collect"] + progress.seconds["learn"], 1e-9)
    return {**counts, **metrics, "rate": rate, **{f"seconds/{k}": round(v, 3) for k, v in seconds.items()}}


def _result(session: TrainSession, curve: list[tuple[int, float]]) -> TrainResult:
    progress, settings = session.progress, session.settings
    weights = session.learner.weights()
    score, interval = float("nan"), (float("nan"), float("nan"))
    returns: list[float] = []
    if session.evaluator is not None and settings.evaluation.final:
        session.evaluator.begin(weights, settings.final_seeds, settings.evaluation.deterministic)
        episodes = session.evaluator.result(wait=True)
        assert episodes is not None
        score, interval = float(episodes.returns.mean()), bootstrap_interval(episodes.returns)
        returns = episodes.returns.tolist()
    faults, seconds = session.faults, session.seconds
    summary = {
        "stopped": progress.stopped, "env_steps": progress.env_steps, "updates": progress.updates, "score": score,
        "interval": list(interval), "returns": returns, "seconds": seconds, "restarts": faults.restarts,
        "lost_episodes": faults.lost_episodes, "curve": curve,
    }  # fmt: skip
    write_atomic(session.folder / "summary.json", json.dumps(as_json(summary), indent=2).encode())
    return TrainResult(
        session.policy,
        progress.stopped,
        progress.env_steps,
        progress.updates,
        seconds,
        session.folder,
        score,
        interval,
        faults.restarts,
        faults.lost_episodes,
        curve,
    )


def read_result(folder: Path) -> TrainResult:
    """Return what the finished run in a folder ended with.

    Raises:
        UserError: There is none, or its files are damaged.
    """
    path = folder / "summary.json"
    try:
        told = json.loads(path.read_text())
        score, low, high = (math.nan if x is None else float(x) for x in (told["score"], *told["interval"]))
        curve = [(int(steps), math.nan if value is None else float(value)) for steps, value in told["curve"]]
        return TrainResult(
            load_policy(folder / "last.safetensors"),
            told["stopped"],
            told["env_steps"],
            told["updates"],
            told["seconds"],
            folder,
            score,
            (low, high),
            told["restarts"],
            told["lost_episodes"],
            curve,
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: remove {folder} and start that run again") from None
