"""A policy on disk: ``policy.safetensors``, whose metadata carries the description as JSON. One file, nothing to run.

Written to a temporary file in the same folder, flushed and renamed, so that a full disk or a kill leaves the last good
file as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.policy import About, Policy
from understudy.policies.stored import FORMAT, read_policy, readable
from understudy.policies.weights import build, named_arrays


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, all or nothing.

    Raises:
        UserError: The disk is full or the folder cannot be written; an older file at ``path`` is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a file stands where a folder should
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; what was there before is intact") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what ``write_atomic`` had begun in a run's folder in processes that were killed."""
    for part in (folder, folder / "data"):
        for path in part.glob(".*.tmp"):
            writer = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
            if writer and not _lives(int(writer[1])):
                with contextlib.suppress(OSError):  # somebody else's, or removed meanwhile
                    path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def save_policy(policy: Policy, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> Path:
    """Write a policy; ``extra`` is JSON-able information for people.

    Raises:
        UserError: A weight is not finite, or the file cannot be written.
    """
    arrays = named_arrays(policy)
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"policy is not saved to {path}: {broken[0]} holds NaN or infinity")
    about = policy.about
    meta = {
        "format": FORMAT,
        "spec": policy.spec.to_json(),
        "algorithm": about.algorithm,
        "env": about.env.to_json() if about.env else None,
        "notes": about.notes,
        "extra": dict(extra or {}),
    }
    path = Path(path)
    write_atomic(path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, {"understudy": json.dumps(meta)}))
    return path


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy that ``save_policy`` wrote.

    Raises:
        UserError: The file is missing, truncated, or not one of ours.
    """
    spec, arrays, data = read_policy(path)
    with readable(Path(path)):
        env = EnvSpec.from_json(data["env"]) if data["env"] else None
        about = About(str(data["algorithm"]), str(Path(path)), env, [str(note) for note in data["notes"]])
        return build(spec, arrays, about)
    raise AssertionError
