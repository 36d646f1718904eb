"""The process that does the second half of updates: ``python -m understudy.learning.half_process``.

Its arguments are those of ``execution.worker``.
"""

from __future__ import annotations

import contextlib
import mmap
import traceback
from multiprocessing.connection import Connection

import torch

from understudy.execution.line import Line, LineError
from understudy.execution.worker import run
from understudy.learning.two_halves import HalfPlace
from understudy.objectives.continuous_halves import Half
from understudy.rollouts.buffers import views


def _serve(control: Connection, place: HalfPlace, block: mmap.mmap, closing: contextlib.ExitStack) -> None:
    torch.set_num_threads(1)
    line = Line(control)
    try:
        half = Half(place.plan, views(place.layout, block), 1)
        line.signal()  # ready
        while True:
            line.wait()
            for _ in half.update():
                line.meet()
            line.signal()
    except LineError:
        pass  # the learner is gone
    except Exception:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    run(_serve)
