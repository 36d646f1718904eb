"""Teachers that are modules of PyTorch: TorchScript files, and modules handed over in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.data import Array, Observation, map_obs
from understudy.errors import UserError
from understudy.teachers.exported import ExportedPolicy, Facts
from understudy.teachers.exported_torchscript import DESCRIPTION, TorchScriptEngine
from understudy.teachers.opaque import Asked, OpaqueTeacher


class ModuleTeacher(OpaqueTeacher):
    """A module that maps a tensor [N, ...] (or a dict of them) to one tensor or several.

    It sees observations in the type of their space, real numbers as float32, without scaling.
    """

    def __init__(self, module: nn.Module, name: str, asked: Asked, algorithm: str = "PyTorch module") -> None:
        super().__init__(name, algorithm, asked)
        self._module, self._device = module.eval().to(asked.device), asked.device

    @property
    def parameters_count(self) -> int:
        """How many weights the module has."""
        return sum(parameter.numel() for parameter in self._module.parameters())

    @torch.no_grad()
    def _ask(self, obs: Observation) -> list[Array]:
        try:
            out: Any = self._module(map_obs(self._tensor, obs))
        except Exception as error:  # a module is anybody's program, and may lack its method forward
            raise UserError(f"the teacher {self.name} cannot be asked: {_last_line(error)}") from error
        outputs = out if isinstance(out, (tuple, list)) else [out]
        if not all(isinstance(output, torch.Tensor) for output in outputs):
            raise UserError(f"the teacher {self.name} answers {type(out).__name__}, not tensors")
        return [output.cpu().numpy() for output in outputs]

    def _tensor(self, array: Array) -> torch.Tensor:
        # A copy: the module may change its argument in place.
        array = np.array(array, np.float32 if array.dtype == np.float64 else array.dtype)
        return torch.as_tensor(array, device=self._device)


def load_torchscript(path: Path, asked: Asked) -> OpaqueTeacher:
    """Load a file that ``torch.jit.save`` wrote, or ``understudy export``.

    Raises:
        UserError: It is not TorchScript (a file of ``torch.save`` would have to be unpickled, which is refused).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated (PyTorch 2.14), and still loaded
            extra = {DESCRIPTION: ""}
            module = torch.jit.load(str(path), asked.device, _extra_files=extra)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a TorchScript file ({_last_line(error)}); write one with torch.jit.trace(...).save(...): "
            "files of torch.save hold pickles, which are not opened here"
        ) from error
    facts = Facts.parse(extra[DESCRIPTION], str(path)) if extra[DESCRIPTION] else None
    if facts is not None:
        return ExportedPolicy(facts, TorchScriptEngine(module.cpu(), facts), str(path), asked)
    return ModuleTeacher(module, str(path), asked, "TorchScript")


def _last_line(error: Exception) -> str:
    """Return the line that says what happened: TorchScript's errors end with it."""
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
