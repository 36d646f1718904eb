"""Our side: ``understudy.train`` as a user calls it, watched; see ``sides.py``."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import understudy.training as training
from understudy.terminal_training import limit
from understudy.training import resolve_training
from understudy.training_session import TrainSession
from watch import Done, Watch, warm


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Train with ``understudy.train``."""
    settings = resolve_training(job["settings"], job.get("preset"))
    warm(settings)
    sessions: list[TrainSession] = []

    class Seen(TrainSession):
        """Tells us of itself, so that the policy of the moment can be judged; otherwise as it is."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            sessions.append(self)

    def predict(obs: Any) -> Any:
        return sessions[0].policy.predict(obs, deterministic=True)[0]

    last: dict[str, Any] = {}

    def report(metrics: dict[str, Any]) -> None:
        last.update(metrics)
        watch.round(metrics["env_steps"], predict)

    training.TrainSession = Seen  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(job)
        with contextlib.suppress(Done):
            training.train(settings=settings, run=Path(folder) / "run", report=report)
        found = watch.result()
        seconds = {name.removeprefix("seconds/"): value for name, value in last.items() if name.startswith("seconds/")}
        found["seconds"] = seconds
        wall = 1e6 * (seconds["collect"] + seconds["learn"]) / last["env_steps"]
        found["limit_share"] = limit(last["env_steps"], seconds, settings.execution.type) / wall
        if job.get("final"):
            found["returns"] = watch.judge(predict)
    return found
