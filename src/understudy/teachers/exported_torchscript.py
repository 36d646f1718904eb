"""TorchScript files that ``understudy export`` wrote."""

from __future__ import annotations

from typing import Any

import torch

from understudy.data import Array
from understudy.teachers.exported import Engine, Facts

DESCRIPTION = "understudy.json"
"""Name of the description among the archive's extra files."""


class TorchScriptEngine(Engine):
    """Runs a traced graph; its inputs are the observation's keys in the order of the description, then h and c."""

    def __init__(self, module: Any, facts: Facts) -> None:
        self._module, self._facts = module, facts

    @torch.no_grad()
    def run(self, obs: dict[str, Array], memory: tuple[Array, Array] | None) -> dict[str, Array]:
        """See ``Engine.run``."""
        values = [torch.as_tensor(obs[key]) for key in self._facts.keys]
        values = [v.float() if v.is_floating_point() else v for v in values]
        values += [torch.as_tensor(part) for part in (memory or ())[: len(self._facts.remembered)]]
        out = self._module(*values)
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        return {name: part.numpy() for name, part in zip(self._facts.outputs, outputs, strict=True)}
