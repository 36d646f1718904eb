"""Typed, frozen configuration: defaults < preset or YAML file < command line. Nothing is changed in silence.

``build`` turns plain nested data into dataclasses and refuses what it does not know, ``plain`` turns them back, and
``flags`` lists every field as a dotted command-line flag.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from understudy.errors import UserError, suggest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a number, each number of a tuple, or all that a schedule comes to must lie.

    Attributes:
        least: It may be as small as this.
        most: It may be as great as this.
        above: It must be greater.
        below: It must be smaller.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        """Return the words that go on after "it must be"."""
        if self.least is not None and self.most is not None:
            return f"between {self.least:.10g} and {self.most:.10g}"
        words = {"at least": self.least, "above": self.above, "below": self.below, "at most": self.most}
        return " and ".join(f"{word} {bound:.10g}" for word, bound in words.items() if bound is not None)

    def check(self, value: float, name: str) -> None:
        """Refuse a number out of bounds.

        Raises:
            UserError: Naming the field.
        """
        wrong = (
            value != value  # not a number
            or (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )
        if wrong:
            raise UserError(f"{name} is {value}; it must be {str(self) or 'a number'}")


def doc(
    text: str,
    default: Any = MISSING,
    factory: Any = MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a field with the sentence that ``--help`` prints, and the bounds that ``check_bounds`` holds it to."""
    metadata = {"help": text, "bounds": Bounds(least, most, above, below)}
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_bounds(config: Any, path: str = "") -> None:
    """Refuse numbers out of the bounds of their fields, wherever they are nested; see ``doc``.

    Raises:
        UserError: Naming the first such field.
    """
    for f in fields(config):
        value, name = getattr(config, f.name), f"{path}{f.name}"
        if is_dataclass(value):
            check_bounds(value, f"{name}.")
        elif bounds := f.metadata.get("bounds"):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    bounds.check(number, name)


def bounds_of(config: Any, name: str) -> Bounds:
    """Return the bounds of a field by its dotted name."""
    *parents, leaf = name.split(".")
    for parent in parents:
        config = getattr(config, parent)
    (found,) = (f.metadata["bounds"] for f in fields(config) if f.name == leaf)
    bounds: Bounds = found
    return bounds


def _convert(value: Any, kind: Any, path: str) -> Any:
    """Bring a value from YAML or the command line to the type of its field."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        word = value[0] if isinstance(value, list) and len(value) == 1 else value
        if word is None or (isinstance(word, str) and word.lower() in ("none", "null")):
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _convert(value, inner, path)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(str, arguments))
            raise UserError(f"{path} is {value!r}; it can be {choices}{suggest(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        items = [part for item in items for part in _parts(item, arguments[0])]
        return tuple(_convert(item, arguments[0], path) for item in items)
    if origin is dict:
        return read_mapping(value, path)
    if is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, path)
    if kind is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise UserError(f"{path} is {value!r}; it must be true or false")
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    try:
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        wanted = {int: "a whole number", float: "a number"}.get(kind, f"of type {kind.__name__}")
        raise UserError(f"{path} is {value!r}; it must be {wanted}") from None


def read_mapping(value: Any, path: str) -> dict[str, Any]:
    """Return a mapping as a dict, or what text says as YAML.

    Raises:
        UserError: It is none; the field is named.
    """
    found = value
    if isinstance(value, str):
        with suppress(yaml.YAMLError, ValueError):  # a date that does not exist is a ValueError
            found = yaml.safe_load(value)
    if not isinstance(found, Mapping):
        raise UserError(f"{path} is {value!r}; it must be a mapping such as {{key: value}}")
    return dict(found)


def _parts(item: Any, kind: Any) -> list[Any]:
    """Split what a shell gave as one word: "64,64", "[64, 64]" and "64x64", or a list as YAML files have it."""
    if not isinstance(item, str):
        return [item]
    if kind in (int, float):
        return re.sub(r"(?<=\d)x(?=\d)|[\[\](),]", " ", item).split()
    with suppress(yaml.YAMLError, ValueError):
        if item.startswith("[") and isinstance(found := yaml.safe_load(item), list):
            return found
    return [item]


def build(cls: type[T], data: Mapping[str, Any] | T | None, path: str = "") -> T:
    """Build a configuration from nested plain data.

    Raises:
        UserError: An unknown key (the nearest known ones are named), a wrong type, or a value out of its choices.
    """
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise UserError(f"{path or 'configuration'} must be a mapping of keys, not {data!r}")
    kinds = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    where = f"{path}." if path else ""
    for key in data:
        if key not in known:
            raise UserError(f"unknown key {where}{key}{suggest(str(key), known)} (known: {', '.join(sorted(known))})")
    return cls(**{key: _convert(value, kinds[key], f"{where}{key}") for key, value in data.items()})


def plain(config: Any) -> Any:
    """Return nested dicts and lists that YAML and JSON can hold, and ``build`` reads."""
    if is_dataclass(config):
        return {f.name: plain(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, (tuple, list)):
        return [plain(item) for item in config]
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    return config


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``over`` on top, mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def flags(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any, Field[Any]]]:
    """Yield (dotted name, type, field) of every leaf of a configuration."""
    kinds = get_type_hints(cls)
    for f in fields(cls):
        kind = kinds[f.name]
        if is_dataclass(kind):
            yield from flags(kind, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", kind, f


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    out: dict[str, Any] = {}
    for name in sorted(dotted, key=lambda name: name.count(".")):  # a section lies under its keys, whichever is first
        value = dotted[name]
        for part in reversed(name.split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def with_overrides(kind: Any, settings: Any, overrides: Mapping[str, Any], preset: object = None) -> Any:
    """Return settings with keywords such as ``stop__ratio`` on top: an object stays one, mappings become a dict.

    Args:
        kind: Class of the object, or several as a union.
        settings: Such an object, nested mappings, or None.
        overrides: The keywords.
        preset: That is to lie under the settings, which only mappings let through.

    Raises:
        UserError: An object of another class, or one beside a preset.
    """
    over = nest({name.replace("__", "."): _opened(value) for name, value in overrides.items()})
    if not is_dataclass(settings):
        if not isinstance(settings, Mapping | None):
            raise UserError(
                f"settings is {settings!r}; it must be nested mappings such as {{'stop': {{'env_steps': 1000}}}} or an "
                "object of settings; a YAML file is given as preset"
            )
        return merge({name: _opened(value) for name, value in (settings or {}).items()}, over)
    if not isinstance(settings, kind):
        wanted = " or ".join(one.__name__ for one in get_args(kind) or (kind,))
        raise UserError(f"settings is an object of {type(settings).__name__}; it must be {wanted}, or nested mappings")
    if preset:
        raise UserError(
            "settings given as an object are whole, and no preset lies under them: leave preset out, or give the "
            "settings as nested mappings or keywords"
        )
    return build(type(settings), merge(plain(settings), over)) if over else settings


def _opened(value: Any) -> Any:
    """Return a section that is given as an object as a mapping, over which keywords can lie."""
    return plain(value) if is_dataclass(value) else value


def first_difference(saved: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> str:
    """Say which of the settings asked for is another one in those saved, and both values; '' where none is."""
    for key, value in asked.items():
        mine = saved.get(key)
        if isinstance(value, Mapping) and isinstance(mine, Mapping):
            inner = first_difference(mine, value, f"{prefix}{key}.")
            if inner:
                return inner
        elif mine != value:
            return f"{prefix}{key} ({mine} instead of {value})"
    return ""
