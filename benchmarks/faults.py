"""Kill workers, make them raise, let them hang, in real runs; print what survived, and how fast it was noticed.

    python benchmarks/faults.py --kills 20 --hangs 10 --exceptions 10 --json faults.json

Runs of CartPole size with two workers. Kills come from outside at seeded random moments. For exceptions and hangs one
of the probe's environments is told to fail by a file, at such moments too. In the rows ``learner``, of SAC, it is the
learner's second process that is killed, or stopped for good. A fault is injected only when the last one was noticed;
runs are begun until all faults of a row are spent. A row says how many faults the runs survived (each was replaced and
its run reached its env steps), the time from the injection to the start of the replacement, and the unfinished episodes
that were lost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import tempfile
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from understudy.errors import UserError
from understudy.loop import train as loop
from understudy.training import resolve_training
from understudy.training_session import TrainSession

EXECUTIONS: dict[str, dict[str, Any]] = {
    "sync": {"type": "sync"},
    "async": {"type": "async"},
    "a3c": {"type": "async", "shared_gradients": True},
    "ray": {"type": "ray"},
    "learner": {"learner_threads": 2},
}
ENVS = {"kill": "CartPole-v1", "exception": "Raising-v0", "hang": "Hanging-v0"}
console = Console(highlight=False)


@dataclass
class Row:
    """What became of the faults of one kind in one execution."""

    execution: str
    fault: str
    injected: int = 0
    survived: int = 0
    runs: int = 0
    complete: int = 0
    """Runs that reached their env steps."""
    lost_episodes: int = 0
    seconds: list[float] = field(default_factory=list)
    """From the injection to the start of the replacement; faults that came after the last rollout have none."""
    errors: list[str] = field(default_factory=list)


class Workers:
    """The worker processes of a run as victims."""

    def __init__(self, session: TrainSession) -> None:
        # Whatever has ``restarts``, and ``processes`` or (Ray) ``places`` with a ``pid`` each.
        self._pool: Any = getattr(session.execution, "pool", session.execution)

    def pid(self, rng: np.random.Generator) -> int | None:
        """Return one of the processes; None while it starts."""
        bodies = self._pool.places if hasattr(self._pool, "places") else self._pool.processes
        found: int | None = bodies[int(rng.integers(len(bodies)))].pid
        return found

    def noticed(self) -> list[float]:
        """Return when faults were noticed, in seconds since 1970."""
        return [failure.time for failure in self._pool.restarts.failures]


class SecondProcess:
    """The one of the learner, which says nothing of times: looked at often."""

    def __init__(self, session: TrainSession) -> None:
        self._halves: Any = session.learner.core._nets.halves  # type: ignore[union-attr]
        self._times: list[float] = []

    def pid(self, _: np.random.Generator) -> int | None:
        """See ``Workers``."""
        partner = self._halves.partner
        return partner.pid if partner is not None and partner._ready else None

    def noticed(self) -> list[float]:
        """See ``Workers``."""
        self._times += [time.time()] * (self._halves.restarts - len(self._times))
        return self._times


class Injector(threading.Thread):
    """Injects faults into one run at random moments, one at a time."""

    def __init__(self, session: TrainSession, row: Row, flag: Path, most: int, rng: np.random.Generator) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.victims: Workers | SecondProcess = (
            SecondProcess(session) if row.execution == "learner" else Workers(session)
        )
        self._signal = signal.SIGKILL if row.fault == "kill" else signal.SIGSTOP
        self._by_file = row.fault != "kill" and row.execution != "learner"
        self._flag, self._most, self._rng, self.over = flag, most, rng, threading.Event()

    def run(self) -> None:
        """Until the run is over, or all faults are spent."""
        while len(self.times) < self._most:
            if self.over.wait(self._rng.exponential(0.3)):
                return
            self._inject()
            while len(self.victims.noticed()) < len(self.times):
                if self.over.wait(0.005):
                    return

    def _inject(self) -> None:
        if not self._by_file:
            while not (pid := self.victims.pid(self._rng)):
                if self.over.wait(0.01):
                    return
            self.times.append(time.time())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self._signal)
            return
        self._flag.touch()
        while self._flag.exists():
            if self.over.wait(0.001):
                return
        taken = next(self._flag.parent.glob(f"{self._flag.name}.*"))
        self.times.append(taken.stat().st_ctime)
        taken.unlink()


def settings_of(execution: str, fault: str, flag: Path, env_steps: int, timeout: float, seed: int) -> Any:
    """Describe one run."""
    if execution == "learner":
        return resolve_training(
            {
                "env": {"id": "Pendulum-v1"},
                "replay": {"warm_up": 256},
                "evaluation": {"every": 0, "final": 0},
                "execution": {**EXECUTIONS[execution], "worker_timeout": timeout, "restarts": 10_000},
                "stop": {"env_steps": env_steps},
                "seed": seed,
            },
            "sac",
        )
    kwargs = {} if fault == "kill" else {"flag": str(flag), "after": 1}
    name = ENVS[fault] if fault == "kill" else f"understudy.envs.probes:understudy/{ENVS[fault]}"
    return resolve_training(
        {
            "env": {"id": name, "kwargs": kwargs},
            "policy": {"hidden": [32]},
            "rollout": {"num_envs": 4, "steps": 64},
            "evaluation": {"every": 0, "final": 0},
            "execution": {**EXECUTIONS[execution], "worker_timeout": timeout, "restarts": 10_000},
            "stop": {"env_steps": env_steps},
            "seed": seed,
        },
        None,
    )


def one_run(row: Row, most: int, env_steps: int, timeout: float, rng: np.random.Generator) -> None:
    """Add one run's faults to a row."""
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "flag"
        settings = settings_of(row.execution, row.fault, flag, env_steps, timeout, row.runs)
        session = TrainSession(settings, Path(folder) / "run")
        injector = Injector(session, row, flag, most, rng)

        def report(metrics: dict[str, Any]) -> None:
            # From the first rollout on: what dies while it starts is another story, and the tests'.
            if not injector.is_alive() and not injector.times:
                injector.start()

        try:
            loop(session.run(report))
        except UserError as error:
            row.errors.append(str(error))
        finally:
            injector.over.set()
            if injector.is_alive():
                injector.join()
            noticed = list(injector.victims.noticed())
            session.close()
        complete = session.progress.env_steps >= env_steps
        row.runs += 1
        row.complete += complete
        row.injected += len(injector.times)
        row.survived += len(injector.times) if complete else 0
        row.lost_episodes += session.execution.faults.lost_episodes
        row.seconds += [then - begun for begun, then in zip(injector.times, noticed, strict=False)]


def row_of(execution: str, fault: str, count: int, env_steps: int, timeout: float, seed: int) -> Row:
    """Inject ``count`` faults, in as many runs as it takes."""
    row, rng = Row(execution, fault), np.random.default_rng(seed)
    while row.injected < count and len(row.errors) < 3:
        # What is replaced says so on stderr, with its traceback: wanted in a run, not in this table.
        with contextlib.redirect_stderr(io.StringIO()):
            one_run(row, count - row.injected, env_steps, timeout, rng)
    return row


def print_rows(rows: list[Row], timeout: float) -> None:
    """Print the table."""
    table = Table(title=f"faults in runs with two workers (worker_timeout {timeout:g} s)")
    for name in ("where", "fault", "injected", "survived", "median s", "max s", "lost", "runs complete"):
        table.add_column(name, justify="left" if name in ("where", "fault") else "right")
    for row in rows:
        noticed = [f"{f(row.seconds):.3f}" if row.seconds else "-" for f in (np.median, max)]
        counts = map(str, (row.injected, row.survived))
        whole = f"{row.complete} of {row.runs}"
        table.add_row(row.execution, row.fault, *counts, *noticed, str(row.lost_episodes), whole)
    table.caption = "s: from the fault to the start of the replacement; lost: unfinished episodes"
    console.print(table)
    for row in rows:
        for error in row.errors:
            console.print(f"{row.execution}, {row.fault}: {error}", soft_wrap=True)


def main() -> None:
    """Run all rows, or those of the executions given."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20, help="per execution [20]")
    parser.add_argument("--hangs", type=int, default=10, help="per execution [10]")
    parser.add_argument("--exceptions", type=int, default=10, help="per execution [10]")
    parser.add_argument("--executions", nargs="*", default=list(EXECUTIONS), choices=list(EXECUTIONS))
    parser.add_argument("--env-steps", type=int, default=60_000, help="of a run; a sixth in the rows learner [60000]")
    parser.add_argument("--timeout", type=float, default=2.0, help="worker_timeout in seconds [2]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    arguments = parser.parse_args()
    rows = []
    for execution in arguments.executions:
        if execution == "ray" and not (find_spec("understudy.execution.ray_execution") and find_spec("ray")):
            console.print("ray: not installed, no row")
            continue
        counts = {"kill": arguments.kills, "exception": arguments.exceptions, "hang": arguments.hangs}
        env_steps = arguments.env_steps
        if execution == "learner":  # an update for every step; what it raises, the tests cause
            counts["exception"], env_steps = 0, env_steps // 6
        for fault, count in counts.items():
            if count:
                rows.append(row_of(execution, fault, count, env_steps, arguments.timeout, arguments.seed))
    print_rows(rows, arguments.timeout)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
