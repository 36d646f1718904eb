"""A population as trials of Ray Tune: who learns when, who copies whom, and what it learns with then, is Tune's affair.

What is handed over are our own checkpoints (safetensors and JSON), in files. Tune's notes on the experiment are of no
use to us (``Tuner.restore`` would unpickle them): they are in a folder that goes when the run ends.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import OutsideError, UserError, missing_extra
from understudy.execution.ray_cluster import Cluster, environment_variables, import_ray
from understudy.kickstart_job import KickstartJob
from understudy.population.member import Member, member_folder, saved_member
from understudy.population.values import Result, Values

Tell = Callable[[Result], None]
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # population.jsonl says it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "RAY_AIR_NEW_OUTPUT": "0",
}


def import_tune() -> Any:
    """Return ``ray.tune``.

    Raises:
        UserError: It, or what it needs beside Ray's core, is not installed.
    """
    purpose = "population based training (--pbt)"
    try:
        import_ray()
        with environment_variables(_QUIET):
            return importlib.import_module("ray.tune")
    except (ImportError, UserError):
        raise missing_extra("ray[tune]", "pbt", purpose) from None


class _RayEndedError(BaseException):
    """Ray is not there any more. No ``Exception``, after which Tune would tidy up with the Ray that ended."""

    def __init__(self, error: OutsideError) -> None:
        self.error = error


class MemberTrial:
    """What Tune asks of a trial, for one member at a time; see ``Member``.

    ``trainable`` adds Tune's own class, which is imported late: Ray is an extra.
    """

    trial_name: str
    _job: KickstartJob
    _member: Member | None = None

    def setup(self, config: dict[str, Any], job: KickstartJob | None = None) -> None:
        """Remember what to do; the first call says with what."""
        assert job is not None
        self._job, self._config = job, config

    @property
    def _number(self) -> int:
        return int(self.trial_name.rpartition("-")[2])

    def _begin(self, source: Path | None) -> Member:
        self._close()
        self._member = Member(self._job, self._number, self._config["values"], source)
        return self._member

    def step(self) -> dict[str, Any]:
        """Go on for an interval; a member that a kill left behind the others catches up first."""
        rows: list[dict[str, Any]] = []
        try:
            member = self._member
            if member is None:
                run, number = self._job.folder, self._number
                known = self._config["intervals"] and saved_member(run, number)
                member = self._begin(member_folder(run, number) if known else None)
            while not rows or member.done < self._config["intervals"] + 1:
                rows.append(asdict(member.advance()))
        except UserError as error:
            return {
                "mistake": str(error),
                "rows": rows,
                "score": float("-inf"),
                "round": 0,
                "intervals": 0,
                "done": True,
            }
        done = member.done
        rounds = done - self._config["begin"]  # since this start
        told = {"score": rows[-1]["score"], "round": rounds, "intervals": done, "done": member.over}
        return {"rows": rows, **told}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Hand over ours."""
        assert self._member is not None
        self._member.hand_over(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Begin from this member's checkpoint, or from the one of a better one."""
        self._begin(Path(checkpoint_dir))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make room for another member."""
        self._close()
        self._config = new_config
        return True

    def cleanup(self) -> None:
        """Free the environments."""
        self._close()

    def _close(self) -> None:
        if self._member is not None:
            self._member.close()
        self._member = None


def trainable(tune: Any) -> type[Any]:
    """Return the class that Tune runs: one member at a time, in a process that is used again for others."""

    class PopulationMember(MemberTrial, tune.Trainable):  # type: ignore[misc]
        """A member as a trial."""

    return PopulationMember


def run(job: KickstartJob, begin: list[tuple[int, Values]], concurrent: int, tell: Tell) -> None:
    """Train the population; every interval of every member is told, in the order in which they end.

    Args:
        job: From ``prepare``.
        begin: Each member's intervals so far and its numbers.
        concurrent: Members that learn at once.
        tell: Called with each result.

    Raises:
        UserError: Ray is missing, or a member's mistake.
        OutsideError: A member's process was ended, or Ray was.
    """
    tune = import_tune()
    notes = job.folder / "tune"
    shutil.rmtree(notes, ignore_errors=True)
    cluster = Cluster("", concurrent, 0)
    try:
        with environment_variables(_QUIET):
            mistakes = _fit(tune, job, begin, notes, cluster, tell)
    except _RayEndedError as ended:
        raise ended.error from None
    finally:
        cluster.close()
        shutil.rmtree(notes, ignore_errors=True)
    if mistakes:
        raise UserError(mistakes[0])


def _fit(
    tune: Any, job: KickstartJob, begin: list[tuple[int, Values]], notes: Path, cluster: Cluster, tell: Tell
) -> list[str]:
    """Run Tune to the end; returns the members' mistakes.

    Raises:
        OutsideError: A member's process was ended, or Ray was.
    """
    mistakes: list[str] = []

    most = max(intervals for intervals, _ in begin)
    space = {
        "number": tune.grid_search(list(range(len(begin)))),
        "values": tune.sample_from(lambda spec: dict(begin[spec["number"]][1])),
        "intervals": most,
        "begin": most,
    }

    def name(trial: Any) -> str:
        return f"member-{trial.config['number']}"

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable(tune), job=job), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(tune, job),
            reuse_actors=True,
            trial_name_creator=name,  # given once: later a trial's config is a copy of another one's
            trial_dirname_creator=name,
        ),
        run_config=tune.RunConfig(
            name="population",
            storage_path=str(notes.absolute()),
            verbose=0,
            stop=lambda trial, result: bool(mistakes),
            callbacks=[_notes(tune, tell, mistakes, cluster)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
            failure_config=tune.FailureConfig(fail_fast=True),
        ),
    )
    found = tuner.fit()
    if found.num_errors and not mistakes:
        cluster.check()
        raise OutsideError(_reason(found.errors[0], cluster.ray))
    return mistakes


def _reason(error: Exception, ray: Any) -> str:
    """Return why a member failed."""
    if isinstance(error, ray.exceptions.RayActorError):
        return "the process of a member was ended, perhaps since memory ran out"
    return f"a member failed: {str(error).strip().splitlines()[-1]}"


def _notes(tune: Any, tell: Tell, mistakes: list[str], cluster: Cluster) -> Any:
    """Return what Tune calls with every result of a member."""

    class Notes(tune.Callback):  # type: ignore[misc]
        """Tells results, and ends everything at a mistake."""

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune saves its callbacks; terminals and files cannot be saved, and nobody reads them back

        def on_step_begin(self, **_: Any) -> None:
            try:
                self.cluster.check()  # each time: Tune would wait for a Ray that ended, and Ray then end this process
            except OutsideError as error:
                raise _RayEndedError(error) from None

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            for row in result["rows"]:
                self.tell(Result(**row))
            if "mistake" in result:
                self.mistakes.append(result["mistake"])

    notes = Notes()
    notes.tell, notes.mistakes, notes.cluster = tell, mistakes, cluster
    return notes


def _scheduler(tune: Any, job: KickstartJob) -> Any:
    """Return Tune's scheduler: when all members have come to the end of an interval, the worst copy of the best."""
    pbt, seed = job.settings.pbt, job.settings.seed

    class Seeded(tune.schedulers.PopulationBasedTraining):  # type: ignore[misc]
        """Draws the same numbers in every run of a seed, whatever else in this process draws, and whoever is last."""

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> Any:
            with _seeded(seed, result["intervals"]):
                return super().on_trial_result(controller, trial, result)

    draws = {name: tune.loguniform(low, high) for name, (low, high) in pbt.ranges.items()}
    return Seeded(
        time_attr="round",
        metric="score",
        mode="max",
        perturbation_interval=1,
        hyperparam_mutations={"values": draws},
        quantile_fraction=pbt.quantile,
        resample_probability=pbt.resample,
        perturbation_factors=(pbt.factor, 1 / pbt.factor),
        log_config=False,
        synch=True,
    )


@contextlib.contextmanager
def _seeded(*seed: int) -> Iterator[None]:
    """Seed what Tune draws from, Python's and NumPy's generators; afterwards they are as they were."""
    before, legacy = random.getstate(), np.random.get_state()
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(legacy)
