"""The body of a worker as a Ray actor. Importing this file imports neither Ray nor NumPy nor PyTorch."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Any

from understudy import __version__
from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.execution.base import Arrays, Setup
    from understudy.rollouts.buffers import Layout

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Environment variables of workers; libraries read them when they are first imported."""


class StationActor:
    """Some columns of every rollout, and a share of the evaluation episodes.

    What goes wrong is an answer, not an exception: Ray would wrap it, and one that cannot travel would be lost.
    """

    def __init__(
        self, version: str, setup: Setup, attempt: int, columns: range, eval_envs: int, layout: Layout, size: int
    ) -> None:
        """Remember what to build.

        Args:
            version: The driver's version of Understudy.
            setup: The run.
            attempt: How many actors failed in this one's place before.
            columns: Which of its environments.
            eval_envs: How many run evaluation episodes together.
            layout: Of the actor's own rollout, ...
            size: ... and its bytes.
        """
        # Ray sets OMP_NUM_THREADS, and only that; a runtime environment would cost a second at every start. NumPy may
        # be there already, with the arrays of the setup, but not the libraries of a policy.
        os.environ.update(ONE_THREAD)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        from dataclasses import replace

        import numpy as np

        from understudy.execution.station import Station
        from understudy.rollouts.buffers import rollout_views

        self._version = version
        self._beat = np.zeros(2, np.int64)
        self._out = rollout_views(layout, np.zeros(size, np.uint8))
        self._station = Station(replace(setup, attempt=attempt), columns, eval_envs, beat=self._beat)

    def beat(self) -> tuple[int, int, str]:
        """Return steps and signs of life, the process and its machine; runs beside ``work``, on a thread of its own."""
        return int(self._beat.sum()), os.getpid(), socket.gethostname()

    def work(self, command: str, *arguments: Any) -> tuple[Any, ...]:
        """Do as told; returns ``("done", answer)``, ``("mistake", message)`` or ``("error", message, traceback)``."""
        try:
            return "done", getattr(self, f"_{command}")(*arguments)
        except UserError as error:
            return "mistake", str(error)
        except BaseException as error:  # noqa: BLE001 (whatever an environment raises travels to the driver)
            return "error", f"{type(error).__name__}: {error}", traceback.format_exc()

    def _prepare(self) -> None:
        if self._version != __version__:
            raise UserError(
                f"{socket.gethostname()} has understudy {__version__}, the learner has {self._version}: install the "
                "same version on all nodes"
            )
        self._station.prepare()

    def _collect(self, mixture: Any, steps: int, restart: int | None, version: int, weights: Arrays | None) -> Any:
        info = self._station.collect(mixture, weights, steps, self._out, restart)
        info.version = version
        return info, self._out.first(steps)

    def _evaluate(self, job: Any, seeds: Any, weights: Arrays | None) -> Any:
        from dataclasses import replace

        return self._station.evaluate(replace(job, arrays=weights), seeds)
