"""THE loop: gather a rollout, learn from it, sometimes evaluate, report, save."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from understudy.data import Rollout
from understudy.execution.base import Arrays, Execution
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.collect import Collected

Metrics = dict[str, Any]
Report = Callable[[Metrics], None]
"""Told the metrics of each round."""


@dataclass
class Progress:
    """How far a run is; all of it is saved and resumed."""

    round: int = 0
    env_steps: int = 0
    updates: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"start": 0.0, "collect": 0.0, "learn": 0.0})
    """Wall seconds by part; ``collect`` is the learner's wait for the rollout, ``start`` what the first one cost more:
    starting processes, building environments."""
    stopped: str = ""
    """Why the run ended; empty while it goes on."""


class Order(NamedTuple):
    """How the next rollout is to be gathered."""

    mixture: Mixture
    weights: Arrays | None
    """Of the student that acts; None where it does not."""
    steps: int
    restart: int | None = None
    """Begin new episodes first, with the seeds of this number."""


class Learning(Protocol):
    """What is learnt in a round, and from what."""

    def order(self) -> Order:
        """Say how the next rollout is to be gathered."""

    def meanwhile(self) -> Metrics:
        """Learn what can be learnt while the rollout is gathered."""

    def learn(self, rollout: Rollout, info: Collected) -> Metrics:
        """Learn from the rollout; counts its updates in the progress."""


class Examiner(Protocol):
    """Evaluates the student now and then."""

    def look(self, metrics: Metrics) -> str:
        """Evaluate if it is time; adds what was found to the metrics, returns why the run should end, or ''."""


@dataclass
class Run:
    """The parts of a run, and what is told to the outside: ``report`` after each round, ``save`` when worth it."""

    execution: Execution
    learning: Learning
    examiner: Examiner
    progress: Progress
    env_steps: int
    """At which the run ends in any case."""
    seconds: float
    """Wall seconds after which it ends in any case; 0 for no limit."""
    report: Report
    save: Callable[[Metrics], None]


def train(run: Run) -> None:
    """Go on until the examiner is content or the budget ends; ``progress.stopped`` says which."""
    progress = run.progress
    deadline = run.seconds and time.perf_counter() + run.seconds
    first = True
    while not progress.stopped:
        metrics, first = _round(run, first), False
        progress.stopped = run.examiner.look(metrics)
        if not progress.stopped and progress.env_steps >= run.env_steps:
            progress.stopped = "env_steps"
        if not progress.stopped and deadline and time.perf_counter() > deadline:
            progress.stopped = "seconds"
        run.report(metrics)
        run.save(metrics)


def _round(run: Run, first: bool) -> Metrics:
    """Gather one rollout and learn."""
    progress, clock = run.progress, time.perf_counter
    run.execution.begin_collect(*run.learning.order())
    begin = clock()
    metrics = run.learning.meanwhile()
    waiting = clock()
    rollout, info = run.execution.end_collect()
    gathered = clock()
    progress.env_steps += info.env_steps
    metrics |= run.learning.learn(rollout, info)
    progress.round += 1
    working = info.env_seconds + info.act_seconds
    start = max(gathered - waiting - working, 0.0) if first else 0.0
    progress.seconds["start"] += start
    progress.seconds["collect"] += gathered - waiting - start
    progress.seconds["learn"] += waiting - begin + clock() - gathered
    return metrics
