"""What stands in a policy's file, read without PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.spec import PolicySpec

FORMAT = "understudy-policy-1"
RUN_FILES = ("best.safetensors", "student.safetensors", "last.safetensors", "policy.safetensors")
"""The policies of a run's folder, the first that is there counts."""


class Stored(NamedTuple):
    """The contents of a policy's file."""

    spec: PolicySpec
    arrays: dict[str, Array]
    """Weights and statistics, named as ``named_arrays`` names them."""
    about: dict[str, Any]
    """Algorithm, environment, notes: JSON."""


def read_policy(path: str | os.PathLike[str]) -> Stored:
    """Read a file that ``save_policy`` wrote.

    Raises:
        UserError: The file is missing, truncated, or not one of ours.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            meta = (file.metadata() or {}).get("understudy")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"no policy at {path}: the file does not exist") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:  # the last two: a type that NumPy has not
        raise UserError(f"{path} is not a readable safetensors file ({error}): truncated or damaged?") from error
    if meta is None:
        raise UserError(f"{path} is a safetensors file, but not an Understudy policy (no description inside)")
    with readable(path):
        data = json.loads(meta)
        if data.get("format") != FORMAT:
            raise UserError(f"{path} has format {data.get('format')!r}; this version reads {FORMAT!r}")
        spec = PolicySpec.from_json(data["spec"])
        spec.distribution, spec.observations  # noqa: B018 (built once here, where the file can be named)
        return Stored(spec, arrays, data)
    raise AssertionError


_DAMAGED = (
    TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError, MemoryError,
)  # fmt: skip


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say of what a policy's file describes wrongly that the file is damaged.

    Raises:
        UserError: Anything in the description is not as ``save_policy`` writes it.
    """
    try:
        yield
    except _DAMAGED as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise UserError(f"{path}: the description of the policy cannot be read ({what}): damaged?") from error


def own_policy(folder: Path) -> Path | None:
    """Return the policy that lies in a run's folder itself; None where there is none."""
    return next((folder / name for name in RUN_FILES if (folder / name).is_file()), None)


def run_policy(folder: Path) -> Path | None:
    """Return the policy of a run's folder, else of the only folder in it that holds one; None where there is none.

    Raises:
        UserError: Several folders in it hold one.
    """
    own = own_policy(folder)
    if own is not None:
        return own
    inside = [part for part in sorted(folder.glob("[!.]*")) if own_policy(part) is not None]
    if len(inside) > 1:
        listed = ", ".join(part.name for part in inside[:6]) + (", ..." if len(inside) > 6 else "")
        raise UserError(f"{folder} holds {len(inside)} runs ({listed}): name one of them, such as {inside[0]}")
    return own_policy(inside[0]) if inside else None


def policy_file(path: str | os.PathLike[str]) -> Path | None:
    """Return the file of ours that a path or a run's folder stands for; None where it is something else.

    Raises:
        UserError: Several folders in it hold one.
    """
    place = Path(path).expanduser()
    file = run_policy(place) if place.is_dir() else place
    return file if file is not None and file.suffix == ".safetensors" and file.is_file() else None


BEHAVIOURS = "behaviours.json"
"""In a folder of runs side by side in a Unity scene: behaviour to the folder of its run."""


def behaviours_of(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the runs of a folder that has one for each behaviour of a Unity scene; empty for any other path.

    Raises:
        UserError: The list is damaged, or names something else than folders beside it (``module:function`` is code).
    """
    path = Path(folder) / BEHAVIOURS
    if not path.is_file():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:120]}): truncated or damaged?") from error
    if not isinstance(index, dict):
        raise UserError(f"{path} is not a list of behaviours and the folders of their runs")
    for name, part in index.items():
        if not isinstance(part, str) or Path(part).name != part or not (path.parent / part).is_dir():
            raise UserError(f"{path}: the run of {name} must be a folder beside it, not {part!r}")
    return {name: path.parent / part for name, part in index.items()}
