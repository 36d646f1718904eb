"""What is refused before a run starts: numbers out of bounds, contradictions, schedules, a device that is not there."""

from __future__ import annotations

from typing import Any, Protocol

from understudy.config import bounds_of
from understudy.objectives.schedules import Schedule, Weight, parse
from understudy.policies.devices import check_device


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


__all__ = ["check_device", "check_schedule", "check_settings"]
