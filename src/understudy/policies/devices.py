"""The devices and threads on which networks run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from understudy.errors import UserError


def check_device(name: str) -> None:
    """Refuse a device that this machine, or this build of PyTorch, does not have.

    Raises:
        UserError: There is no such device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"device is {name!r}; it can be cpu, cuda or cuda:NUMBER")
    if kind == "cpu":
        return
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "no GPU answers" if built else f"PyTorch {torch.__version__} is built without CUDA"
        raise UserError(f"device {name}: {why}; take --device cpu, or install a PyTorch that fits your GPU")
    if int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name}: there are {torch.cuda.device_count()}, numbered from 0")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch's operations run in the caller's thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
