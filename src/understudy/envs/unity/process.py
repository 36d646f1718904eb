"""The process of a player: found, started in a group of its own, ended with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import UserError

_LEAVE_SECONDS = 2.0
"""What a player has to leave, once it was told to quit."""
_SUFFIXES = ("", ".x86_64", ".x86", ".exe", ".app")


def find_player(path: str) -> list[str]:
    """Return the command that starts a player.

    Linux builds may be named without ``.x86_64``, on a Mac the bundle will do, a ``.py`` file is run by this Python.

    Raises:
        UserError: There is no such file, or it is not executable.
    """
    found = next((Path(path + suffix) for suffix in _SUFFIXES if Path(path + suffix).exists()), None)
    if found is None:
        raise UserError(f"there is no Unity player at {path}: build the scene and pass the path of its executable")
    if found.is_dir():
        inside = sorted((found / "Contents" / "MacOS").glob("*"))
        if not inside:
            raise UserError(f"{found} is a folder: pass the executable in it, such as {found}/NAME.x86_64")
        found = inside[0]
    if found.suffix == ".py":
        return [sys.executable, str(found.resolve())]
    if not os.access(found, os.X_OK):
        raise UserError(f"the Unity player {found} is not executable: run  chmod +x {found}")
    return [str(found.resolve())]


class PlayerProcess:
    """A running player; what it prints goes to a file without a name."""

    def __init__(self, command: Sequence[str]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        launcher = Path(__file__).with_name("launch.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(launcher), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle, and the whole group can be ended
        )

    @property
    def pid(self) -> int:
        """Of the player."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """Return the last line that it printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(size - 2000, 0))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""

    def close(self, leave: bool) -> None:
        """End it and everything that it started, with some time to ``leave`` by itself; may be called twice."""
        if self._output.closed:
            return
        if leave:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # an interrupt may have left its lock taken
            self._process.wait(_LEAVE_SECONDS)
        self._output.close()
