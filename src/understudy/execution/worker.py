"""The body of a worker process: ``python -m understudy.execution.worker CONTROL_FD BLOCK_FD PARENT``.

Started as a fresh program rather than through ``multiprocessing``: nothing of the parent's main module is imported
again, no threads are copied by a fork, and PyTorch is not loaded unless a network needs it. Orders come through a
pipe, weights and experience go through shared memory. The pipe ends with the parent, and on Linux the kernel ends a
worker whose parent is gone, so that even one that hangs in its environment never outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from understudy.errors import OutsideError, UserError

if TYPE_CHECKING:
    from understudy.execution.place import Place

_PR_SET_PDEATHSIG = 1
Serve = Callable[[Connection, Any, mmap.mmap, contextlib.ExitStack], None]
"""Answers orders for ever; its place comes first, and what is to be closed at the end goes to the stack."""


def _serve(control: Connection, place: Place, block: mmap.mmap, closing: contextlib.ExitStack) -> None:
    from understudy.execution.board import Board
    from understudy.execution.station import Station
    from understudy.rollouts.buffers import rollout_views, views

    board = Board(place.board, block)
    own = len(place.columns)
    cut = slice(place.columns.start, place.columns.stop)
    rollouts = [rollout_views(layout, block) for layout in place.rollouts]
    rollouts = [r if r.shape[1] == own else r.columns(cut) for r in rollouts]
    station = Station(
        place.setup, place.columns, place.eval_envs, beat=views(place.beats, block)["beats"][place.number]
    )
    closing.callback(station.close)
    station.prepare()
    while True:
        command, *arguments = control.recv()
        answer: Any
        if command == "collect":
            mixture, steps, restart, slot = arguments
            version, weights = board.read() if mixture.asks_student else (0, None)
            answer = station.collect(mixture, weights, steps, rollouts[slot], restart)
            answer.version = version
        else:
            job, seeds = arguments
            if job.who == "student" and job.arrays is None:
                job = replace(job, arrays=board.read()[1])
            answer = station.evaluate(job, seeds)
        control.send(("done", answer))


def run(serve: Serve) -> None:
    """Serve until the parent closes the pipe; what goes wrong travels to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    control_fd, block_fd, parent = (int(a) for a in sys.argv[1:4])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel was told
        return
    # What the environment starts must not hold these open: their end is how the parent sees a death at once.
    os.set_inheritable(control_fd, False)
    os.set_inheritable(block_fd, False)
    control = Connection(control_fd)
    with contextlib.ExitStack() as closing:
        try:
            place = control.recv()
            block = mmap.mmap(block_fd, place.size)
            os.close(block_fd)
            serve(control, place, block, closing)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass
        except UserError as error:
            _last_words(control, ("mistake", str(error), isinstance(error, OutsideError)))
        except BaseException as error:  # noqa: BLE001 (whatever an environment raises travels to the parent)
            _last_words(control, ("error", f"{type(error).__name__}: {error}", traceback.format_exc()))
        # Words first, environments then: one that cannot be closed does not hide what it raised.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(number: int, frame: Any) -> None:
    """Close the environments and end, also in the middle of a rollout."""
    raise SystemExit(f"signal {number}")


def _last_words(control: Connection, words: tuple[Any, ...]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        control.send(words)


if __name__ == "__main__":
    run(_serve)
