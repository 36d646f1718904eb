"""The body of a worker process: ``python -m understudy.execution.worker CONTROL_FD BLOCK_FD``.

Started as a fresh program rather than through ``multiprocessing``: nothing of the parent's main module is imported
again, no threads are copied by a fork, and PyTorch is not loaded unless a network needs it. Commands come through a
pipe, experience goes through shared memory. The pipe ends with the parent, so a worker never outlives it.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import traceback
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import Any

from understudy.errors import UserError


def _serve(control: Connection, block_fd: int) -> None:
    from understudy.data import Rollout, map_obs
    from understudy.execution.station import Station
    from understudy.rollouts.buffers import rollout_views

    setup, columns, layout, eval_envs, size = control.recv()
    whole = rollout_views(layout, mmap.mmap(block_fd, size))
    os.close(block_fd)
    cut = slice(columns.start, columns.stop)
    mine = Rollout(
        **{field.name: map_obs(lambda a: a[:, cut], getattr(whole, field.name)) for field in fields(Rollout)}
    )
    station = Station(setup, columns, mine, eval_envs)
    try:
        station.prepare()
        while True:
            command, *arguments = control.recv()
            answer: Any = station.collect(*arguments) if command == "collect" else station.evaluate(*arguments)
            control.send(("done", answer))
    finally:
        station.close()


def main() -> None:
    """Serve until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    control_fd, block_fd = (int(a) for a in sys.argv[1:3])
    control = Connection(control_fd)
    try:
        _serve(control, block_fd)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        control.send(("error", str(error), ""))
    except BaseException as error:  # noqa: BLE001 (whatever an environment raises travels to the parent)
        control.send(("error", f"{type(error).__name__}: {error}", traceback.format_exc()))


if __name__ == "__main__":
    main()
