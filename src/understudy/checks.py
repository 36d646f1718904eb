"""What is refused before a run starts: numbers out of bounds, contradictions, schedules, a device that is not there."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from understudy.config import bounds_of
from understudy.errors import UserError
from understudy.objectives.schedules import Schedule, Weight, parse


class _Settings(Protocol):
    """Of any run."""

    @property
    def stop(self) -> Any:
        """When the run ends."""

    @property
    def schedules(self) -> dict[str, str]:
        """The settings that are schedules, by name."""

    def check(self) -> None:
        """Refuse what contradicts itself."""


def check_settings(settings: _Settings) -> None:
    """Refuse settings with which no run can start.

    Raises:
        UserError: Naming the field.
    """
    settings.check()
    for name, text in settings.schedules.items():
        check_schedule(settings, name, parse(text, name, settings.stop.env_steps))
    check_device(getattr(settings, "device", "cpu"))


def check_schedule(settings: Any, name: str, schedule: Weight) -> None:
    """Refuse a schedule that leaves the bounds of its field; one that follows what is measured keeps its own.

    Raises:
        UserError: Naming the field.
    """
    for value in schedule.turns if isinstance(schedule, Schedule) else ():
        bounds_of(settings, name).check(value, name)


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
