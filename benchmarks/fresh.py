"""Runs of a benchmark, each in a fresh process, and what is said about several of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULT = "RESULT "
"""What the line of a run's output begins with that carries its result."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def fresh(job: dict[str, Any], timeout: float = 7200.0) -> dict[str, Any]:
    """Run a job of ``sides.py`` in a process of its own and return its result; ``job["threads"]`` is 1 by default.

    Raises:
        SystemExit: The run failed; what it printed has been shown.
    """
    threads = dict.fromkeys(_THREADS, str(job.get("threads", 1)))
    command = [sys.executable, str(Path(__file__).with_name("sides.py")), json.dumps(job)]
    done = subprocess.run(
        command,
        env={**os.environ, **threads},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise SystemExit(f"{done.stdout}\n{done.stderr}\nthis run failed: {json.dumps(job)}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT))
    return found


def turns(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of a round: every second round backwards, so that nobody is always first."""
    return list(names) if number % 2 == 0 else list(names)[::-1]


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Return the median, and the range where there are several."""
    if not values:
        return "-"
    middle = _short(statistics.median(values), digits)
    return middle if len(values) == 1 else f"{middle} [{_short(min(values), digits)}, {_short(max(values), digits)}]"


def _short(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def machine() -> dict[str, Any]:
    """Return what a figure's reader needs to know of the machine and the packages."""
    import importlib.metadata
    import platform

    packages = ("understudy", "torch", "numpy", "gymnasium", "mujoco", "ale-py", "stable-baselines3")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }
