"""A run's folder belongs to one run: to the one that is in it, and to one process at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from understudy.errors import UserError
from understudy.policies.stored import RUN_FILES

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked
    fcntl = None

LOCK = ".lock"
_GOES_ON = ("state.safetensors", "population.jsonl")
_RESULTS = ("summary.json", "result.json", "result.png", "population.png", "side-by-side.mp4")
"""What is made of a run once it has ended, and what reports show of it."""
_held: set[int] = set()


def check_free(folder: Path) -> None:
    """Refuse a folder in which a new run would mix with, or overwrite, an earlier one.

    What a run leaves that ended before it had saved anything is no hindrance.

    Raises:
        UserError: It holds a run already, or policies and results of one.
    """
    if any((folder / name).exists() for name in _GOES_ON):
        again = f"--resume {shlex.quote(str(folder))}"
        raise UserError(f"{folder} holds a run already: {again} goes on with it, --run FOLDER starts another")
    for name in (*RUN_FILES, *_RESULTS):
        if (folder / name).exists():
            raise UserError(
                f"{folder} holds {name} of an earlier run, which cannot go on without its state.safetensors: remove "
                "what you do not need, or start in another folder with --run"
            )


def forget_results(folder: Path) -> None:
    """Remove what was made of a run that has gone on since: it is of an earlier student."""
    for name in _RESULTS:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def chosen_folder(run: str | os.PathLike[str] | None, name: str) -> Path:
    """Return the folder that was chosen for a run, or a new one that is called after ``name``.

    Raises:
        UserError: Its name is empty, which would mean the current folder.
    """
    if run is None:
        return new_folder(name)
    if not os.fspath(run):
        raise UserError("the run's folder has no name: name one with --run FOLDER, or leave --run out")
    return Path(run)


def new_folder(name: str) -> Path:
    """Make the folder of a run that was given none: ``runs/NAME-TIME``, numbered where that is taken."""
    first = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        with contextlib.suppress(FileExistsError):
            with contextlib.suppress(PermissionError):  # the first who writes says so
                folder.mkdir(parents=True)
            return folder
    raise AssertionError


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder, until the end or the death of this process.

    Where the system, or the file system, knows no locks there is none.

    Raises:
        UserError: A run is in it.
    """
    number = _lock(folder)
    try:
        yield
    finally:
        if number is not None:
            _held.discard(number)
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()  # if nothing was written
            os.close(number)


def _lock(folder: Path) -> int | None:
    """Return the open file that is locked; None where there are no locks."""
    if fcntl is None:
        return None
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None  # a file stands there, or nothing can be written: the first who writes says so
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise UserError(f"{folder} is in use by another run: wait for its end, or take another folder") from None
        except OSError:
            os.close(number)
            return None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(number), path.stat()):
                _held.add(number)
                return number
        os.close(number)  # whoever held it has just removed the file


def _forget() -> None:
    """Close what a forked process inherited: it would hold the lock after the death of the run."""
    for number in _held:
        with contextlib.suppress(OSError):
            os.close(number)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
