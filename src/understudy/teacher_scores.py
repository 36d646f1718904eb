"""What the teachers of a kickstarted run and the random policy reach, for gates and comparisons; measured once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.envs.multitask import task_names
from understudy.evaluation.contestants import RANDOM, resolve
from understudy.evaluation.evaluate import play_out
from understudy.evaluation.task_score import Level
from understudy.io.scores import is_number, read_scores, write_scores
from understudy.policies.policy import PolicyLike
from understudy.rollouts.episodes import Episodes
from understudy.settings import KickstartSettings
from understudy.settings.taught import TaughtDeterministic, TaughtQLearning, TaughtSoft
from understudy.teachers.routing import TaskTeachers

Settings = KickstartSettings | TaughtQLearning | TaughtDeterministic | TaughtSoft


def measured_scores(settings: Settings, teachers: Sequence[PolicyLike], folder: Path, resume: bool) -> dict[str, Any]:
    """Return the mean returns of the teachers and of the random policy; measured once for each folder and teachers."""
    path, names = folder / "scores.json", settings.teaching.teachers
    tasks = task_names(settings.env.spec()) if isinstance(teachers[0], TaskTeachers) else ()
    known = read_scores(path, names) if resume else {}
    if _whole(known, len(teachers), tasks):
        return known
    played = [_play(settings, teacher) for teacher in teachers]
    random = _play(settings, RANDOM)
    found: dict[str, Any] = {"teachers": [float(e.returns.mean()) for e in played]}
    found |= {"random": float(random.returns.mean()), "episodes": len(random)}
    if tasks:
        pairs = zip(played[0].by_task(), random.by_task(), strict=True)
        levels = [Level(float(taught.returns.mean()), float(chance.returns.mean())) for taught, chance in pairs]
        found["tasks"] = {name: level._asdict() for name, level in zip(tasks, levels, strict=True)}
    write_scores(path, names, found)
    return found


def _whole(scores: Mapping[str, Any], teachers: int, names: Sequence[str]) -> bool:
    """Say whether scores that were read are those of as many teachers and of these tasks, and whole."""
    told, tasks = scores.get("teachers"), scores.get("tasks", {})
    if not isinstance(told, list) or len(told) != teachers:
        return False
    levels = [tasks.get(name) for name in names] if isinstance(tasks, dict) else [None]
    whole = all(isinstance(level, dict) and set(level) == set(Level._fields) for level in levels)
    return whole and all(map(is_number, [*told, scores.get("random")]))


def _play(settings: Settings, policy: Any) -> Episodes:
    """Play episodes as the student's evaluations do, on seeds that neither they nor the final ones use."""
    evaluation = settings.evaluation
    count, seed = evaluation.final or evaluation.episodes, evaluation.seed + 700_000
    player = resolve(policy, settings.env.spec(), seed=seed)
    return play_out(player, count, seed, evaluation.num_envs, evaluation.deterministic)
