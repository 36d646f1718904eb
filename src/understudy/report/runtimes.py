"""How long an action takes in the programs that can run a student: PyTorch, plain NumPy, onnxruntime, its own C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UserError
from understudy.evaluation.flops import flops_of
from understudy.evaluation.latency import latency, median_us
from understudy.io.export.c.timing import time_policy
from understudy.io.export.onnx_file import float_model
from understudy.policies.policy import Policy

_SECONDS = 0.2


@dataclass(frozen=True)
class Runtime:
    """Median time of one action, one observation, one thread.

    Attributes:
        name: What ran it.
        microseconds: None where it could not be measured.
        note: Where it came from, or why it could not.
    """

    name: str
    microseconds: float | None
    note: str = ""


@dataclass(frozen=True)
class Size:
    """What a policy costs.

    Attributes:
        name: What to call it.
        parameters: Numbers that it takes to act; None where the network is not known.
        flops: Floating-point operations of one action.
        runtimes: What was timed.
    """

    name: str
    parameters: int | None
    flops: int | None
    runtimes: tuple[Runtime, ...]

    @property
    def kilobytes(self) -> float | None:
        """As float32, 1 kB = 1000 bytes."""
        return None if self.parameters is None else 4 * self.parameters / 1000


def measure(name: str, policy: Any, folder: Path | None = None) -> Size:
    """Time a policy, and the exported files beside it.

    Args:
        name: What to call it.
        policy: Loaded.
        folder: Where exported files may lie; None for a teacher.
    """
    found = latency(policy, seconds=_SECONDS)
    runtimes = [Runtime("PyTorch" if isinstance(policy, Policy) else "its own", found.predict_us)]
    if found.array_us is not None:
        runtimes.append(Runtime("NumPy", found.array_us, "as in rollout workers"))
    runtimes += [_onnx(policy, folder), _c(policy)]
    return Size(name, policy.parameters_count or None, flops_of(policy), tuple(runtimes))


def _onnx(policy: Any, folder: Path | None) -> Runtime:
    """Time an exported file beside the student, or else an export for the occasion."""
    name = "onnxruntime"
    try:
        import onnxruntime
    except ImportError:
        return Runtime(name, None, "not installed: pip install 'understudy[onnx]'")
    files = sorted(folder.glob("*.onnx")) if folder is not None else []
    try:
        model: Any = str(files[0]) if files else float_model(_ours(policy))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        note = files[0].name if files else "exported for the occasion"
        return Runtime(name, median_us(_asking(session), _SECONDS), note)
    except UserError as error:
        return Runtime(name, None, str(error))
    except Exception as error:  # a foreign file, or an operator that the exporter does not know
        return Runtime(name, None, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")


def _c(policy: Any) -> Runtime:
    """Time the C of a policy, compiled for the occasion: sources that lie in the folder are not run."""
    try:
        return Runtime("C", time_policy(_ours(policy), _SECONDS).median, "float32, -O3, compiled for the occasion")
    except UserError as error:
        return Runtime("C", None, str(error))


def _ours(policy: Any) -> Policy:
    if not isinstance(policy, Policy):
        raise UserError("not a network of ours")
    return policy


def _asking(session: Any) -> Callable[[], None]:
    kinds: dict[str, Any] = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
    kinds |= {"tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    feed = {
        entry.name: np.zeros([n if isinstance(n, int) else 1 for n in entry.shape], kinds.get(entry.type, np.float32))
        for entry in session.get_inputs()
    }
    return lambda: session.run(None, feed)
