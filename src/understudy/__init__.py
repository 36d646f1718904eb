"""Understudy: reinforcement learning with teachers.

Any trained policy goes in; a smaller, faster or better one comes out. The names below are loaded on first use, so
that a worker process, which imports this package too, never pays for what it does not need (PyTorch above all).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load": "understudy.loading",
    "distill": "understudy.distillation",
    "kickstart": "understudy.kickstarting",
    "sweep": "understudy.sweeping",
    "kickstart_population": "understudy.population.train",
    "train": "understudy.training",
    "evaluate": "understudy.evaluation.evaluate",
    "compare": "understudy.evaluation.compare",
    "play": "understudy.evaluation.play",
    "export": "understudy.io.export.export",
    "Policy": "understudy.policies.policy",
    "EnvSpec": "understudy.data",
    "UserError": "understudy.errors",
}
__all__ = [
    "EnvSpec",
    "Policy",
    "UserError",
    "__version__",
    "compare",
    "distill",
    "evaluate",
    "export",
    "kickstart",
    "kickstart_population",
    "load",
    "play",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Name what is not loaded yet, too: notebooks complete names by it."""
    return sorted({*globals(), *__all__})
