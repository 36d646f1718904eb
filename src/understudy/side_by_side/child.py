"""The process of one behaviour's run: ``python -m understudy.side_by_side.child CONTROL_FD PARENT``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import current_process
from pathlib import Path
from typing import Any

from understudy.errors import OutsideError

ENDINGS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What ends a run with a checkpoint: Ctrl-C, ``docker stop`` or a batch system, a closed terminal."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Task:
    """What it is told, once."""

    address: str
    """Of the hub."""
    key: bytes
    """The hub's: nobody else may take part."""
    settings: Any
    folder: Path
    look: Any
    """What the scene showed of the behaviour, so that no player must be started for that again."""
    resume: bool


def main(control_fd: int, parent: int) -> None:
    """Do the run; tell every round, and at last how it ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    control = Connection(control_fd)
    try:
        task: Task = control.recv()
        _end(control, *_run(control, task))
    except (EOFError, OSError):
        return  # whoever wanted to know is gone


def _run(control: Connection, task: Task) -> tuple[str, Any]:
    from understudy.envs.unity.hub import ADDRESS
    from understudy.envs.unity.probe import remember
    from understudy.errors import UserError
    from understudy.training import train

    os.environ[ADDRESS] = task.address
    current_process().authkey = task.key
    remember(task.settings.env.spec(), task.look)

    def report(metrics: Mapping[str, Any]) -> None:
        control.send(("round", dict(metrics)))

    try:
        # From here on Ctrl-C, which a terminal sends to everybody in it, ends the run with a checkpoint.
        for number in ENDINGS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup: it goes on
                signal.signal(number, _interrupt_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        found = train(settings=task.settings, run=task.folder, resume=task.resume, report=report)
    except KeyboardInterrupt as stop:
        return "interrupted", str(stop)
    except UserError as error:
        return "mistake", str(error).partition("; go on with: ")[0]  # all go on together
    except Exception:  # noqa: BLE001 (it is told where it can be seen)
        return "crash", traceback.format_exc()
    told = {"stopped": found.stopped, "env_steps": found.env_steps, "updates": found.updates, "seconds": found.seconds}
    return "done", told | {"restarts": found.restarts, "lost_episodes": found.lost_episodes}


def _interrupt_once(_: int, frame: object) -> None:
    """Raise on the first signal only: the terminal sends one and the parent another, which must not stop the saving."""
    for number in ENDINGS:  # not SIG_IGN: Python would complain of one that came in the same moment
        signal.signal(number, _pass_over)
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, OutsideError):
            return  # players that failed once too often failed for all runs: this one is saving what there is already
        error = error.__context__
    raise KeyboardInterrupt


def _pass_over(_: int, frame: object) -> None:
    """Do nothing."""


def _end(control: Connection, how: str, what: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    control.send((how, what))
    control.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
