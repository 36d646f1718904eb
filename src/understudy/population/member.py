"""One member of a population: a kickstarted run that goes on for an interval at a time. Knows nothing of Ray."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from understudy.errors import UserError
from understudy.execution.base import EvaluationJob
from understudy.execution.single import SingleExecution
from understudy.io.checkpoint import read_arrays
from understudy.kickstart_job import KickstartJob
from understudy.kickstarting import Lessons
from understudy.loop import train as loop
from understudy.policies.files import remove_leftovers, save_policy, write_atomic
from understudy.population.values import Result, Values, interval, member_settings
from understudy.training_session import TrainSession

STATE, ABOUT = "state.safetensors", "member.json"


class Member:
    """A student with numbers of its own, and its folder ``RUN/members/N``.

    Attributes:
        number: Which one.
        values: lambda, learning rate and entropy bonus.
        parent: Whose weights it began the interval with.
        done: Intervals that are behind it.
    """

    def __init__(self, job: KickstartJob, number: int, values: Values, source: Path | None = None) -> None:
        """Begin afresh, or from a checkpoint.

        Args:
            job: The population's, from ``prepare``.
            number: Which member.
            values: Its numbers.
            source: Folder of a checkpoint of this member or of another one: weights, optimiser and normalisers are
                taken from there, the numbers are not.
        """
        self.number, self.values, self.parent, self.done, self.best = number, dict(values), number, 0, float("-inf")
        self._job, self._every = job, interval(job.settings)
        self.folder = member_folder(job.folder, number)
        remove_leftovers(self.folder)
        settings = member_settings(job.settings, number, values)
        self.session = TrainSession(
            settings, source or self.folder, source is not None, Lessons(replace(job, settings=settings))
        )
        self.session.folder = self.folder
        if source is not None:
            about = json.loads((source / ABOUT).read_text())
            self.parent, self.done = int(about["member"]), int(about["interval"])
            self.best = _kept_best(self.folder)

    def advance(self) -> Result:
        """Learn for one interval, then be evaluated; returns what is told of it."""
        session, parent = self.session, self.parent
        self.done, self.parent = self.done + 1, self.number
        budget = self._job.settings.stop.env_steps
        run = session.run(lambda metrics: None)
        run.env_steps = min(session.progress.env_steps + self._every, budget)
        run.save = lambda metrics: None  # when the interval ends
        session.progress.stopped = ""
        if session.progress.env_steps < run.env_steps:
            loop(run)
        score = self._evaluate()
        session.progress.score = score
        if score > self.best:
            self.best = score
            about = {"score": score, "env_steps": session.progress.env_steps}
            save_policy(session.policy, self.folder / "best.safetensors", about)
        self._save()
        steps = session.progress.env_steps
        return Result(self.done, self.number, steps, score, self.values, parent, time.time())

    @property
    def over(self) -> bool:
        """Whether all env steps are done."""
        return self.session.progress.env_steps >= self._job.settings.stop.env_steps

    def _evaluate(self) -> float:
        """Play the same episodes as every other member; returns their mean return."""
        settings, execution = self._job.settings, self.session.execution
        assert isinstance(execution, SingleExecution)
        seeds = tuple(settings.evaluation_seeds)
        order = EvaluationJob("student", seeds, self.session.learner.weights(), settings.evaluation.deterministic)
        (episodes,) = execution.evaluate([order])
        return float(episodes.returns.mean())

    def _save(self) -> None:
        # The next rollout begins new episodes, whether it is this member's or another one's.
        self.session.checkpoint()
        self.session.progress.restart = self.session.progress.checkpoints
        about = {"member": self.number, "interval": self.done, "best": self.best, "values": self.values}
        write_atomic(self.folder / ABOUT, json.dumps(about).encode())

    def hand_over(self, folder: Path) -> None:
        """Copy the checkpoint of the last interval to a folder, from which this or another member may begin."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (STATE, ABOUT):
            shutil.copyfile(self.folder / name, folder / name)

    def close(self) -> None:
        """Free the environments; what is not saved is lost."""
        self.session.close()


def member_folder(run: Path, number: int) -> Path:
    """Return the folder of a member, which is made if need be."""
    folder = run / "members" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept_best(folder: Path) -> float:
    """Return the score of a member's best policy, which stays its own when it copies another one."""
    about = folder / ABOUT
    return float(json.loads(about.read_text())["best"]) if about.exists() else float("-inf")


def saved_member(run: Path, number: int) -> tuple[int, Values] | None:
    """Return the intervals and the numbers of a member's checkpoint; None where it has none.

    Raises:
        UserError: It is damaged.
    """
    folder = run / "members" / str(number)
    if not (folder / ABOUT).exists() or not (folder / STATE).exists():
        return None
    read_arrays(folder / STATE)
    try:
        about = json.loads((folder / ABOUT).read_text())
        return int(about["interval"]), {name: float(value) for name, value in about["values"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / ABOUT} is damaged: remove {run} and start again") from None
