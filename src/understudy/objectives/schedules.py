"""How a number moves over training: schedules on the clock of environment steps, k.

| type        | value at k                                                      | text form                            |
|-------------|-----------------------------------------------------------------|--------------------------------------|
| constant    | value                                                           | ``0.5`` or ``constant(0.5)``         |
| linear      | start + (end - start) * clip(k / steps, 0, 1)                   | ``linear(start, end, steps)``        |
| cosine      | end + (start - end) * (1 + cos(pi * clip(k / steps, 0, 1))) / 2 | ``cosine(start, end, steps)``        |
| exponential | max(floor, start * decay^(k / every))                           | ``exponential(start, decay, every)`` |
|             |                                                                 | and the floor as a fourth number     |
| piecewise   | straight lines between points (k, value), constant outside      | ``piecewise(0:1, 10000:1, 50000:0)`` |

Configuration names them by ``type``: ``{type: linear, start: 1, end: 0, steps: 20000}``. In text forms ``15%`` means
that share of the run's env steps, where there is a run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

import numpy as np

from understudy.errors import UserError, suggest

_SHARE = re.compile(r"(?<![\w.+-])([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*%")
"""A number as Python reads it, and a percent sign."""


class Weight(Protocol):
    """How much something counts; the schedules below, and those that follow what is measured (``feedback``)."""

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""


@dataclass(frozen=True)
class Constant:
    """Always ``value``."""

    number: float

    @property
    def turns(self) -> tuple[float, ...]:
        """The values between which it moves."""
        return (self.number,)

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        return self.number

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""
        return True


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` in a straight line over ``steps``."""

    start: float
    end: float
    steps: float

    def __post_init__(self) -> None:
        _positive(self, "steps")

    @property
    def turns(self) -> tuple[float, ...]:
        """The values between which it moves."""
        return self.start, self.end

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        return self.start + (self.end - self.start) * min(max(env_steps / self.steps, 0.0), 1.0)

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""
        return self.start == self.end


@dataclass(frozen=True)
class Cosine(Linear):
    """From ``start`` to ``end`` along half a cosine over ``steps`` (Loshchilov 2017, eq. 5, without restarts)."""

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        progress = min(max(env_steps / self.steps, 0.0), 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Exponential:
    """``start``, times ``decay`` after each ``every`` steps (continuously), never below ``floor``."""

    start: float
    decay: float
    every: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "every")
        if not 0 < self.decay <= 1:
            raise UserError(f"schedule exponential: decay must be above 0 and at most 1, not {self.decay}")
        if not 0 <= self.floor <= self.start:
            raise UserError(f"schedule exponential: needs 0 <= floor <= start, not {self.floor} and {self.start}")

    @property
    def turns(self) -> tuple[float, ...]:
        """The values between which it moves."""
        return self.start, self.floor

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        return max(self.floor, self.start * float(self.decay ** (env_steps / self.every)))

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""
        return self.decay == 1 or self.floor == self.start


@dataclass(frozen=True)
class Piecewise:
    """Straight lines between ``points``, pairs (env_steps, value) with rising steps; constant before and after."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        steps = [point[0] for point in self.points]
        if not steps or any(b <= a for a, b in zip(steps[:-1], steps[1:], strict=True)):
            raise UserError(f"schedule piecewise: needs points with rising steps, not {list(self.points)}")

    @property
    def turns(self) -> tuple[float, ...]:
        """The values between which it moves."""
        return tuple(value for _, value in self.points)

    def value(self, env_steps: int) -> float:
        """Return the value after ``env_steps`` steps."""
        steps, values = zip(*self.points, strict=True)
        return float(np.interp(env_steps, steps, values))

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""
        return len({value for _, value in self.points}) == 1


Schedule = Constant | Linear | Cosine | Exponential | Piecewise
TYPES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "piecewise": Piecewise,
}


def parse(given: Any, where: str = "schedule", run: int | None = None) -> Schedule:
    """Read a schedule from a number, a mapping with ``type``, or a text form; a schedule is returned as it is.

    Args:
        given: What the configuration holds.
        where: The field, for the message.
        run: Env steps of the run, of which text forms may name shares.

    Raises:
        UserError: Unknown type or field, a missing one, or a number that is none.
    """
    if isinstance(given, (Constant, Linear, Exponential, Piecewise)):
        return given
    try:
        if isinstance(given, Mapping):
            return _from_mapping(given)
        if isinstance(given, str) and "(" in given:
            return _from_text(given if run is None else absolute(given, run))
        return Constant(_number(given))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def absolute(text: str, run: int) -> str:
    """``linear(1, 0, 15%)`` -> ``linear(1, 0, 15000.0)`` for a run of 100,000 env steps."""
    return _SHARE.sub(lambda match: repr(float(match[1]) / 100 * run), text)


def to_json(schedule: Schedule) -> dict[str, Any]:
    """Return the mapping that ``parse`` reads back."""
    name = next(name for name, kind in TYPES.items() if type(schedule) is kind)
    values = {_key(name, f.name): getattr(schedule, f.name) for f in fields(schedule)}
    if isinstance(schedule, Piecewise):
        values["points"] = [list(point) for point in schedule.points]
    return {"type": name, **values}


def _key(name: str, field: str) -> str:
    """A constant's number is called value in files; the class has a method of that name."""
    return "value" if (name, field) == ("constant", "number") else field


def _from_mapping(given: Mapping[str, Any]) -> Schedule:
    values = dict(given)
    kind = _kind(values.pop("type", None))
    name = next(key for key, value in TYPES.items() if value is kind)
    known = {_key(name, f.name): f for f in fields(kind)}
    for key in values:
        if key not in known:
            raise UserError(
                f"schedule {name} has no field {key!r}{suggest(str(key), known)}; it has {', '.join(known)}"
            )
    missing = [key for key, f in known.items() if f.default is MISSING and key not in values]
    if missing:
        raise UserError(f"schedule {name} lacks {', '.join(missing)}")
    read: dict[str, Any] = {
        known[key].name: _points(v) if key == "points" else _number(v, key) for key, v in values.items()
    }
    return kind(**read)


def _from_text(text: str) -> Schedule:
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    if match is None:
        raise UserError(f"{text!r} is not a schedule; write for example linear(1, 0, 20000)")
    kind = _kind(match[1])
    arguments = [part.strip() for part in match[2].split(",")] if match[2].strip() else []
    if kind is Piecewise:
        return Piecewise(_points([part.split(":") for part in arguments]))
    names = [_key(match[1], f.name) for f in fields(kind)]
    required = sum(f.default is MISSING for f in fields(kind))
    if not required <= len(arguments) <= len(names):
        raise UserError(f"{text!r} has {len(arguments)} numbers; write {match[1]}({', '.join(names)})")
    numbers: list[Any] = [_number(argument, key) for argument, key in zip(arguments, names, strict=False)]
    return kind(*numbers)


def _kind(name: Any) -> type[Schedule]:
    if name not in TYPES:
        near = suggest(str(name), TYPES)
        raise UserError(f"schedule type {name!r} is unknown{near}; there are {', '.join(TYPES)}")
    return TYPES[name]


def _number(given: Any, key: str = "") -> float:
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{key + ' must be' if key else 'must be a schedule or'} a number, not {given!r}")
    return number


def _points(given: Any) -> tuple[tuple[float, float], ...]:
    pairs = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not pairs or any(isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2 for pair in pairs):
        raise UserError(f"points must be pairs of steps and value, [[0, 1], [1000, 0]] or 0:1, 1000:0, not {given!r}")
    return tuple((_number(steps, "points"), _number(value, "points")) for steps, value in pairs)


def _positive(schedule: Linear | Exponential, field: str) -> None:
    if not getattr(schedule, field) > 0:
        name = type(schedule).__name__.lower()
        raise UserError(f"schedule {name}: {field} must be above 0, not {getattr(schedule, field)}")
