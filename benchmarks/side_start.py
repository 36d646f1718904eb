"""How long our side takes to start, and where the time goes; see ``sides.py``."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import understudy.training as training
from understudy.envs.make import make
from understudy.settings import TrainSettings
from understudy.training import resolve_training
from understudy.training_session import TrainSession
from watch import Done, warm


def start(job: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds from the call of ``understudy.train`` to the first update, and where they went."""
    settings = resolve_training(job["settings"], job.get("preset"))
    warm(settings)
    built: list[float] = []

    class Seen(TrainSession):
        """Notes when everything is built."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            built.append(time.perf_counter())

    told: dict[str, Any] = {}

    def report(metrics: dict[str, Any]) -> None:
        told.update(metrics, at=time.perf_counter())
        raise Done

    training.TrainSession = Seen  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with contextlib.suppress(Done):
            training.train(settings=settings, run=Path(folder) / "run", report=report)
        closed = time.perf_counter() - told["at"]
    parts = {name: told[f"seconds/{name}"] for name in ("start", "collect", "learn")}
    found = {"total": told["at"] - begin, "session": built[0] - begin, **parts}
    found["other"] = found["total"] - found["session"] - sum(parts.values())
    found["closing"] = closed
    return found | pieces(settings)


def pieces(settings: TrainSettings) -> dict[str, float]:
    """Return what parts of a start cost by themselves, one after the other, with nothing beside them."""
    spec, count = settings.env.spec(), settings.rollout.num_envs
    begin = time.perf_counter()
    env = make(spec, count)
    made = time.perf_counter()
    env.reset(range(count))
    reset = time.perf_counter()
    env.close()
    imports = "import understudy.execution.station, understudy.execution.board, understudy.rollouts.buffers"
    actor = "import understudy.policies.arrays"
    times = []
    for code in ("pass", imports, f"{imports}; {actor}; from understudy.envs.make import make; make({spec!r}, 1)"):
        code = f"from understudy.data import EnvSpec; {code}" if "EnvSpec" in code else code
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - before)
    return {
        "envs made": made - begin, "envs reset": reset - made, "interpreter": times[0],
        "worker imports": times[1] - times[0], "simulator import and one env": times[2] - times[1],
    }  # fmt: skip
