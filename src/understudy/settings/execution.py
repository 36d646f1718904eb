"""Who runs where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from understudy.config import doc


@dataclass(frozen=True)
class ExecutionSettings:
    """Who runs where."""

    type: Literal["single", "sync"] = doc("single: everything in one process; sync: worker processes", "sync")
    num_workers: int = doc("worker processes", 2, least=1)
    worker_timeout: float = doc(
        "seconds without an environment step after which a worker counts as hung", 600.0, above=0
    )
    restarts: int = doc("workers that may fail and be replaced before the run ends with an error", 3, least=0)
