"""Gymnasium spaces from the clear text beside a Stable-Baselines3 pickle; the pickle itself is never opened.

A zip's ``data`` holds, for each space, its class name and its fields as JSON or as NumPy's printed text. Old files name
``gym`` and ``shape``, newer ones ``gymnasium`` and ``_shape``; arrays of more than 1000 elements are printed with
``...`` in the middle. A dict space holds its members as one text, ``{'a': Box(-1.0, 1.0, (5,), float32), ...}``.
"""

from __future__ import annotations

import ast
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.errors import UserError

_NUMBER = re.compile(r"[-+]?(?:inf|nan|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?)", re.IGNORECASE)
_LIMIT = 1 << 27
"""Elements of one space; the largest images have a few million."""
_DTYPE = re.compile(r"^(float(16|32|64)|u?int(8|16|32|64)|bool)$")
_MEMBER = re.compile(r"""(?P<quote>['"])(?P<key>[^'"]*)(?P=quote)\s*[:,]\s*(?P<type>[A-Z]\w*)\(""")


def space_from_data(field: Any, where: str) -> gym.Space[Any]:
    """Build the space that ``data`` describes in clear text.

    Args:
        field: The JSON value under ``observation_space`` or ``action_space``.
        where: What to call it in errors.

    Raises:
        UserError: The description is missing, cut short, or of a kind that is not supported.
    """
    if not isinstance(field, Mapping) or ":type:" not in field:
        raise UserError(f"{where} is not described in the file")
    kind = str(field[":type:"]).rstrip("'>").rsplit(".", 1)[-1]
    try:
        if kind == "Box":
            return _box(field, where)
        if kind == "Dict":
            return _dict(str(field["spaces"]), where)
        if kind == "Discrete":
            return _discrete(int(field["n"]), int(field.get("start") or 0), where)
        if kind == "MultiDiscrete":
            return _multi_discrete(str(field["nvec"]), str(field.get("start") or ""), where)
        if kind == "MultiBinary":
            return _multi_binary(str(field["n"]))
    except (KeyError, ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise UserError(f"{where} cannot be read from the file ({error})") from error
    raise UserError(f"{where} is a {kind} space, which is not supported")


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _dtype(text: str) -> np.dtype[Any]:
    if not _DTYPE.match(text):
        raise ValueError(f"dtype {text!r}")
    return np.dtype(text)


def _box(field: Mapping[str, Any], where: str) -> gym.Space[Any]:
    shape = field.get("_shape", field.get("shape"))
    if shape is None:
        raise KeyError("shape")
    shape, dtype = tuple(int(n) for n in shape), _dtype(str(field["dtype"]))
    if math.prod(shape) > _LIMIT:
        raise ValueError(f"a shape of {shape}")
    low = _bound(field, "low", shape, dtype, where)
    high = _bound(field, "high", shape, dtype, where)
    return gym.spaces.Box(low, high, shape, dtype.type)


def _bound(field: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> np.ndarray:
    """[*shape] bounds; a printed text that NumPy shortened is used where everything it shows is one number."""
    size = int(np.prod(shape))
    numbers: list[float] = []
    for text in (str(field.get(f"{name}_repr") or ""), str(field.get(name, ""))):
        if dtype.kind == "b":
            text = text.replace("False", "0").replace("True", "1")
        numbers = [float(number) for number in _NUMBER.findall(text)]
        if len(numbers) == size and "..." not in text:
            return _cast(np.array(numbers).reshape(shape), dtype)
        if numbers and len(set(numbers)) == 1:
            return _cast(np.full(shape, numbers[0]), dtype)
    if dtype.kind == "f" and numbers and where.startswith("the observation"):
        # Bounds of real-valued observations are for people: nothing is computed from them.
        return _cast(np.full(shape, -np.inf if name == "low" else np.inf), dtype)
    raise UserError(f"{where} cannot be read from the file: its {name} bound is printed with gaps ('...')")


def _cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.kind in "iu":  # printed bounds of wide integers can round to just outside of their type
        info = np.iinfo(dtype)
        values = values.clip(info.min, info.max)
    return values.astype(dtype)


def _discrete(n: int, start: int, where: str) -> gym.Space[Any]:
    if start:
        raise UserError(f"{where} is Discrete({n}, start={start}): only start=0 is supported, as in Stable-Baselines3")
    return gym.spaces.Discrete(n)


def _multi_discrete(nvec: str, start: str, where: str) -> gym.Space[Any]:
    if nvec.count("[") > 1 or any(_integers(start)):
        raise UserError(f"{where} is MultiDiscrete({nvec}, start={start}): only vectors that start at 0 are supported")
    return gym.spaces.MultiDiscrete(_integers(nvec))


def _multi_binary(n: str) -> gym.Space[Any]:
    sizes = _integers(n)
    return gym.spaces.MultiBinary(sizes[0] if len(sizes) == 1 else sizes)


def _dict(text: str, where: str) -> gym.Space[Any]:
    """Build a dict space from its printed members, in their order."""
    members: dict[str, gym.Space[Any]] = {}
    position = 0
    while match := _MEMBER.search(text, position):
        position = _closing(text, match.end() - 1)
        name = f"{where}, key {match['key']!r},"
        members[match["key"]] = _member(match["type"], text[match.end() : position - 1], name)
    if not members:
        raise UserError(f"{where} is a dict space whose members cannot be read")
    return gym.spaces.Dict(OrderedDict(members))  # an OrderedDict keeps its order, which is that of the features


def _closing(text: str, opening: int) -> int:
    """Return the position after the parenthesis that closes the one at ``opening``."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    raise ValueError("unbalanced parentheses")


def _member(kind: str, inside: str, where: str) -> gym.Space[Any]:
    if kind == "Box":
        # From the right: dtype, shape, and before them the two bounds, each a number or a printed array.
        match = re.match(r"^(?P<bounds>.*),\s*(?P<shape>\([\d, ]*\)),\s*(?P<dtype>\w+)$", inside, re.DOTALL)
        if not match:
            raise UserError(f"{where} is a Box whose text cannot be read: {inside[:60]!r}")
        low, high = _two_bounds(match["bounds"])
        shape = ast.literal_eval(match["shape"])
        return _box({"shape": shape, "dtype": match["dtype"], "low": low, "high": high}, where)
    if kind == "Discrete":
        numbers = _integers(inside)
        return _discrete(numbers[0], numbers[1] if len(numbers) > 1 else 0, where)
    if kind == "MultiDiscrete":
        nvec, _, start = inside.partition("start=")
        return _multi_discrete(nvec, start, where)
    if kind == "MultiBinary":
        return _multi_binary(inside)
    raise UserError(f"{where} is a {kind} space, which is not supported inside a dict")


def _two_bounds(text: str) -> tuple[str, str]:
    """Split ``low, high`` at the comma outside of brackets."""
    depth = 0
    for index, letter in enumerate(text):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            return text[:index], text[index + 1 :]
    raise ValueError(f"bounds {text[:40]!r}")
