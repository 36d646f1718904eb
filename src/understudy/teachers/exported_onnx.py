"""ONNX files that ``understudy export`` wrote, run by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.teachers.exported import Engine, Facts

OBSERVATION = "obs"
"""Name of the input where observations are not a dict."""
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


class OnnxEngine(Engine):
    """Runs a session; inputs and outputs go by their names.

    Raises:
        UserError: The graph lacks an input or output that its description names.
    """

    def __init__(self, session: Any, facts: Facts, where: str) -> None:
        self._session, self._facts, self._where = session, facts, where
        self._types = {node.name: TYPES.get(node.type, np.float32) for node in session.get_inputs()}
        names = {node.name for node in session.get_outputs()}
        lacking = (set(facts.outputs) - names) | ({key or OBSERVATION for key in facts.keys} - set(self._types))
        if lacking:
            raise UserError(f"{where}: its graph has no {', '.join(sorted(lacking))}: export the student again")

    def run(self, obs: dict[str, Array], memory: tuple[Array, Array] | None) -> dict[str, Array]:
        """See ``Engine.run``."""
        feeds = {(k or OBSERVATION): obs[k].astype(self._types[k or OBSERVATION], copy=False) for k in self._facts.keys}
        if memory is not None:
            feeds |= dict(zip(self._facts.remembered, memory, strict=False))
        try:
            answers = self._session.run(self._facts.outputs, feeds)
        except Exception as error:  # onnxruntime's exceptions share no class of their own
            raise UserError(f"{self._where} cannot be run: {str(error)[:200]}") from error
        return dict(zip(self._facts.outputs, (np.asarray(answer) for answer in answers), strict=True))
