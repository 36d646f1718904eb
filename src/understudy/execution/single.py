"""Everything in the learner's process: the reference, and the debugger's friend."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.data import Rollout
from understudy.envs.make import spaces_of
from understudy.execution.base import Arrays, EvaluationJob, Faults, Setup
from understudy.execution.station import Station
from understudy.rollouts.behaviour import Actor, Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.collect import Collected
from understudy.rollouts.episodes import Episodes


class SingleExecution:
    """Collects when the rollout is asked for."""

    def __init__(self, setup: Setup, teacher: Actor | None = None) -> None:
        """Take a teacher object where there is one: nothing travels, so any policy can act here."""
        traced = setup.student if setup.traced else None
        self._out = new_rollout(*spaces_of(setup.env), setup.steps, len(setup.seeds), traced, setup.replayed)
        self._station = Station(setup, range(len(setup.seeds)), setup.eval_envs, teacher)
        self._pending: tuple[Mixture, Arrays | None, int, int | None] | None = None

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int, restart: int | None = None) -> None:
        """Remember what to do; the weights are copied, as a worker would have received them."""
        copy = None if student is None else {name: array.copy() for name, array in student.items()}
        self._pending = mixture, copy, steps, restart

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Gather the rollout now."""
        assert self._pending is not None, "begin_collect first"
        mixture, student, steps, restart = self._pending
        info = self._station.collect(mixture, student, steps, self._out, restart)
        self._pending = None
        return self._out.first(steps), info

    def evaluate(self, jobs: Sequence[EvaluationJob]) -> list[Episodes]:
        """Run the jobs one after another."""
        return [self._station.evaluate(job, job.seeds) for job in jobs]

    @property
    def faults(self) -> Faults:
        """Nothing: what goes wrong here ends the run."""
        return Faults()

    def close(self) -> None:
        """Close the environments."""
        self._station.close()
