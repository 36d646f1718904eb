"""``scores.json`` of a kickstarted run: what its teachers and the random policy reach, read and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.policies.files import write_atomic


def read_scores(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return what was measured of the teachers with these names; empty where that has to be done, or done again."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    # Files of earlier versions do not say whose scores they are.
    return known if isinstance(known, dict) and known.get("of", _digest(names)) == _digest(names) else {}


def write_scores(path: Path, names: Sequence[str], found: Mapping[str, Any]) -> None:
    """Write what ``read_scores`` returns.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    write_atomic(path, json.dumps({**found, "of": _digest(names)}, indent=2).encode())


def _digest(names: Sequence[str]) -> str:
    """Return a word for the teachers that says no paths of this machine: runs are published with their scores."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]


def is_number(value: Any) -> bool:
    """Say whether a value of such a file is a score."""
    return isinstance(value, int | float) and not isinstance(value, bool)
