"""What a file would have us import or start: an environment in it, or in its tasks, may be a name of code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.data import EnvSpec
from understudy.env_names import is_known
from understudy.errors import UserError

_CODE = re.compile(r"[A-Za-z_][\w.-]*:[A-Za-z_]|.*\.[cC]$", re.DOTALL)
"""``module:name``, or C, which is compiled and run where it acts for agents of a scene."""
_NAMES = ("id", "tasks", "teachers", "env")
"""Keys under which every text is a name: whatever stands before a colon would be imported."""

PULLED = "pulled"
"""In ``config.yaml`` of a run that ``understudy pull`` fetched: from where."""


def refuse_code(spec: EnvSpec, source: str, asked: str | None = None) -> None:
    """Refuse an environment that would import a module or start a program because a file says so.

    Args:
        spec: As the file says it.
        source: The file.
        asked: The id that the user gave: it is allowed, and with ``multitask`` the tasks.

    Raises:
        UserError: Naming what it would import.
    """
    if asked is not None and asked != spec.id:
        return  # the user's replaces it
    if asked is None and _is_code(spec.id, True):
        what = f"the environment {spec.id!r}, which {_deed(spec.id)}"
        raise UserError(f"{source} names {what}: --env {spec.id} allows it")
    found = code_in(spec.kwargs)
    if found is not None and spec.id != "multitask":
        way = "give the whole environment yourself (from Python: env=EnvSpec(...))"
        raise UserError(f"{source} gives {spec.id} the argument {found!r}, which {_deed(found)}: {way}")
    if found is not None and asked is None:
        raise UserError(f"{source} names the environment {found!r}, which {_deed(found)}: --env multitask allows it")


def refuse_pulled(config: Mapping[str, Any], path: Path) -> None:
    """Refuse to load what a run's configuration names, where it came from the hub and would be code.

    Raises:
        UserError: It did, and would.
    """
    source, found = config.get(PULLED), code_in(config)
    if source and found is not None:
        way = f"read the file, and take its line {PULLED!r} out to allow it"
        raise UserError(f"{path} came from {source} and names {found!r}, which {_deed(found)}: {way}")


def code_in(data: Any) -> str | None:
    """Return the first name of code in what was read from JSON or YAML, however deep; None if there is none."""
    waiting, seen = [(data, False)], set()
    while waiting:
        value, name = waiting.pop(0)
        if isinstance(value, str) and _is_code(value, name):
            return value
        if isinstance(value, (Mapping, list, tuple, set)) and (id(value), name) not in seen:  # YAML can hold itself
            seen.add((id(value), name))
            if isinstance(value, Mapping):
                waiting += [(part, key in _NAMES) for key, part in value.items()]
            else:
                waiting += [(part, name) for part in value]
    return None


def _is_code(text: str, name: bool) -> bool:
    """Say whether a text names code; of a name a colon is enough."""
    hub = text.startswith("hf://")
    return not is_known(text) and not hub and (_CODE.match(text) is not None or (name and ":" in text))


def _deed(text: str) -> str:
    if text.startswith("unity:"):
        return "starts a program"
    return "imports a module" if ":" in text else "is compiled and run"
