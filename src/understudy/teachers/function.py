"""Teachers that are Python: a function of a batch of observations, or an object with ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from understudy.data import Array, Observation, map_obs
from understudy.errors import UserError
from understudy.imports import find
from understudy.policies.protocol import check_arguments
from understudy.teachers.opaque import Asked, OpaqueTeacher


class FunctionTeacher(OpaqueTeacher):
    """A function from observations [N, ...] to an array [N, ...], a tuple of arrays, or what ``predict`` returns.

    An object with ``predict`` (a Stable-Baselines3 model) is asked for its deterministic actions; its own spaces are
    used where the caller gives none.
    """

    def __init__(self, source: Any, name: str, asked: Asked) -> None:
        self._predict = getattr(source, "predict", None)
        self._source = source
        if self._predict is not None:
            check_arguments(self._predict, name, None, deterministic=True)
            asked = replace(
                asked,
                observation_space=asked.observation_space or getattr(source, "observation_space", None),
                action_space=asked.action_space or getattr(source, "action_space", None),
                output=asked.output or "action",
            )
        super().__init__(name, "Python", asked)

    def _ask(self, obs: Observation) -> list[Array]:
        obs = map_obs(np.array, obs)  # a copy: it may be changed in place
        if self._predict is not None:
            out = self._predict(obs, deterministic=True)
            self._check_memory(out)
            return [_array(out[0] if isinstance(out, tuple) else out)]
        return [_array(part) for part in _parts(self._source(obs))]

    def _check_memory(self, out: Any) -> None:
        """Refuse a state among the answers, as recurrent policies return: nobody would hand it back."""
        if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], tuple) and out[1]:
            raise UserError(
                f"the teacher {self.name} answers a state beside its actions: it has a memory, which objects "
                "with predict cannot keep here; return the actions alone if it needs none"
            )


def _parts(out: Any) -> Sequence[Any]:
    """Return the arrays of an answer; of actions and a state, as ``predict`` returns them, the actions."""
    if isinstance(out, tuple) and len(out) == 2 and (out[1] is None or isinstance(out[1], (tuple, dict))):
        return out[:1]
    several = isinstance(out, tuple) or (isinstance(out, list) and any(np.ndim(part) for part in out))
    return out if several else [out]


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
