"""Teachers that are Python: a function of a batch of observations, or an object with ``predict``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from understudy.data import Array, Observation
from understudy.errors import UserError
from understudy.imports import find
from understudy.teachers.opaque import Asked, OpaqueTeacher


class FunctionTeacher(OpaqueTeacher):
    """A function from observations [N, ...] to an array [N, ...], or a tuple of arrays.

    An object with ``predict`` (a Stable-Baselines3 model) is asked for its deterministic actions; its own spaces are
    used where the caller gives none.
    """

    def __init__(self, source: Any, name: str, asked: Asked) -> None:
        self._predict = getattr(source, "predict", None)
        self._source = source
        if self._predict is not None:
            asked = replace(
                asked,
                observation_space=asked.observation_space or getattr(source, "observation_space", None),
                action_space=asked.action_space or getattr(source, "action_space", None),
                output=asked.output or "action",
            )
        super().__init__(name, "Python", asked)

    def _ask(self, obs: Observation) -> list[Array]:
        if self._predict is not None:
            return [np.asarray(self._predict(obs, deterministic=True)[0])]
        out = self._source(obs)
        return [_array(part) for part in (out if isinstance(out, (tuple, list)) else [out])]


def _array(value: Any) -> Array:
    detach = getattr(value, "detach", None)
    return np.asarray(detach().cpu().numpy() if detach is not None else value)


def import_function(source: str) -> Any:
    """Return what ``module:function`` names; the current directory can be imported from.

    Raises:
        UserError: The module or the function is not there, or cannot be called.
    """
    found = find(source, f"the teacher {source}")
    if isinstance(found, type) or not (callable(found) or hasattr(found, "predict")):
        raise UserError(f"the teacher {source} is not a function: name one that maps observations [N, ...] to actions")
    return found
