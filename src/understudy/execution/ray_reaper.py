"""Ends what a Ray of ours leaves behind: ``python -m understudy.execution.ray_reaper FOLDER``, until its input ends.

When a driver is killed, the kernel ends the processes that Ray started for it, but not the helpers that those started:
they wait a minute for a head node that is gone. This one notes them while all is well, new ones every two seconds, and
ends them, and removes Ray's folder, when the driver closes its end of the pipe, in whichever way.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time


def family_of(folder: str) -> set[int]:
    """Return the processes that have the folder in their arguments, and all that they started (Linux)."""
    parents: dict[int, int] = {}
    roots = set()
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            with open(f"/proc/{entry}/stat", "rb") as file:
                parents[int(entry)] = int(file.read().rpartition(b")")[2].split()[1])
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                if f"{folder}/".encode() in file.read():
                    roots.add(int(entry))
    family: set[int] = set()
    while roots:
        family |= roots
        roots = {child for child, parent in parents.items() if parent in family} - family
    return family


def _note(handles: dict[int, int], folder: str) -> None:
    """Forget processes that have ended, and take handles of those that are new."""
    for process in [number for number, handle in handles.items() if select.select([handle], [], [], 0)[0]]:
        os.close(handles.pop(process))
    for process in family_of(folder) - handles.keys():
        with contextlib.suppress(OSError):
            handles[process] = os.pidfd_open(process)


def main() -> None:
    """Wait for the driver's end."""
    folder = sys.argv[1]
    handles: dict[int, int] = {}  # unlike its number, a handle never comes to mean another process
    _note(handles, folder)
    while not select.select([sys.stdin], [], [], 2.0)[0]:  # nothing is ever written: only its end wakes us
        _note(handles, folder)
    _note(handles, folder)
    time.sleep(0.5)
    _note(handles, folder)  # a worker that was just being started
    for handle in handles.values():
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
