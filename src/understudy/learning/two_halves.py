"""Who does the two halves of updates: this process one after the other, or a second process beside it.

The result is the same bit for bit, so the faster way is taken, as measured from time to time: the second process pays
where a core is idle, and only costs time where none is. If it dies or hangs, this one goes on alone with the update
in which that was noticed, and starts another one. The batch of that update may count twice.
"""

from __future__ import annotations

import contextlib
import mmap
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from understudy.data import Array
from understudy.errors import tell
from understudy.execution.line import GONE, Line, LineError
from understudy.execution.processes import death_of, end_all, kill, shared_memory, spawn
from understudy.objectives.continuous_halves import Half, Plan
from understudy.rollouts.buffers import Layout, pack, views

ALONE, TOGETHER = "alone", "together"
_BOUT, _LOOK = 32, 8
"""Updates in one way before the ways are compared, and fewer of the way that was slower."""
_SOON, _LATE = 2, 64
"""Bouts after which the slower way is measured once more: at first, and at most after it was slower again and again."""
_WORK, _SECONDS = 8_000_000, 2.0
"""``Plan.work``, and the seconds of all updates so far, from which on a second process is started unasked."""


@dataclass(frozen=True)
class HalfPlace:
    """What the second process is told at its start.

    Attributes:
        plan: The networks.
        layout: Of ``Plan.shapes`` in the memory.
        size: Of the memory, in bytes.
    """

    plan: Plan
    layout: Layout
    size: int


class Pace:
    """Which way is faster, by the last bout of each.

    Attributes:
        way: The one to take now.
        seconds: Mean of an update in the last bout of each way.
        total: Of all updates.
    """

    def __init__(self) -> None:
        self.way, self.seconds, self.total = ALONE, dict[str, float](), 0.0
        self._sum, self._count, self._length, self._age = 0.0, 0, _BOUT, {ALONE: 0, TOGETHER: 0}
        self._patience = {ALONE: _SOON, TOGETHER: _SOON}

    def note(self, seconds: float, both: bool) -> bool:
        """Count an update; returns whether a bout has ended. ``both`` says whether there is a choice."""
        self.total += seconds
        self._sum += seconds
        self._count += 1
        if self._count < self._length:
            return False
        self.seconds[self.way] = mean = self._sum / self._count
        slower = mean > min(self.seconds.values())
        self._patience[self.way] = min(2 * self._patience[self.way], _LATE) if slower else _SOON
        self._age = {way: 0 if way == self.way else age + 1 for way, age in self._age.items()}
        self._sum, self._count, self._length = 0.0, 0, _BOUT
        self.way = self._choose() if both else ALONE
        return True

    def lost(self) -> None:
        """Forget what the second process was worth."""
        self.seconds.pop(TOGETHER, None)
        self.way, self._sum, self._count, self._length = ALONE, 0.0, 0, _BOUT

    def _choose(self) -> str:
        for way, age in self._age.items():
            if way not in self.seconds:
                return way
            if age >= self._patience[way]:
                self._length = _LOOK
                return way
        return min(self.seconds, key=lambda way: self.seconds[way])


class Partner:
    """The second process."""

    def __init__(self, place: HalfPlace, memory: int, timeout: float) -> None:
        """Start it; it maps the open file ``memory``."""
        self._process: subprocess.Popen[bytes]
        self._process, self._control = spawn("understudy.learning.half_process", memory)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # noticed when it is asked for
            self._control.send(place)
        self.line = Line(self._control, timeout)
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether it waits for updates.

        Raises:
            LineError: It is gone.
        """
        self._ready = self._ready or self.line.heard()
        return self._ready

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def end(self) -> None:
        """End it at once."""
        self._control.close()
        kill(self._process)

    def fate(self, error: LineError) -> str:
        """Say what has become of it, and end it."""
        what = death_of(self._process) if str(error) == GONE else str(error)
        self.end()
        return what

    def close(self) -> None:
        """End it in peace."""
        self._control.close()
        end_all([self._process])


class TwoHalves:
    """Both halves over one memory.

    Attributes:
        memory: The arrays of ``plan``.
        pace: What the ways cost.
        partner: The second process, if there is one now.
        restarts: How often it was replaced.
    """

    def __init__(
        self, plan: Plan, shared: bool, at_once: bool = False, timeout: float = 60.0, restarts: int = 10
    ) -> None:
        """Lay out the memory.

        Args:
            plan: The networks.
            shared: Whether there may be a second process.
            at_once: Start it now, not only once it has turned out that updates take long.
            timeout: Seconds of silence after which it counts as hung.
            restarts: How often it is replaced.
        """
        layout, size = pack(plan.shapes())
        self._place = HalfPlace(plan, layout, size)
        self._file = shared_memory() if shared else None
        if self._file is not None:
            self._file.truncate(size)
        # Pages in either case: where arrays begin within a page must not depend on who does the work.
        self._block = mmap.mmap(-1 if self._file is None else self._file.fileno(), size)
        self.memory: Mapping[str, Array] = views(layout, self._block)
        self._at_once, self._timeout, self._limit = at_once, timeout, restarts
        self.partner: Partner | None = None
        self.pace, self.restarts = Pace(), 0
        self._halves: list[Half] = []
        self._open = False
        if at_once:
            self._start()

    def _start(self) -> None:
        assert self._file is not None
        self.partner = Partner(self._place, self._file.fileno(), self._timeout)

    def update(self) -> None:
        """Do the update that lies in the memory."""
        self.settle()
        self._halves = self._halves or [Half(self._place.plan, self.memory, number) for number in (0, 1)]
        begin = time.perf_counter()
        self._open = True
        try:
            if self.partner is None or self.pace.way == ALONE:
                self._alone()
            else:
                self._beside(self.partner.line)
        except LineError as error:
            self._lost(error)
            self._alone()
        self._open = False
        self._note(time.perf_counter() - begin)

    def _note(self, seconds: float) -> None:
        """Count an update, and start the second process if it is time."""
        try:
            both = self.partner is not None and self.partner.ready
        except LineError as error:
            self._lost(error)
            both = False
        if not self.pace.note(seconds, both) or self.partner is not None:
            return
        wanted = self._at_once or (self._place.plan.work >= _WORK and self.pace.total > _SECONDS)
        if wanted and self._file is not None and self.restarts <= self._limit:
            self._start()

    def _alone(self) -> None:
        first, second = self._halves
        for _ in zip(first.update(), second.update(), strict=True):
            pass

    def _beside(self, line: Line) -> None:
        line.signal()
        for _ in self._halves[0].update():
            line.meet()
        line.wait()

    def _lost(self, error: LineError) -> None:
        assert self.partner is not None
        what = self.partner.fate(error)
        self.partner = None
        self.pace.lost()
        self.restarts += 1
        then = "another one is started" if self.restarts <= self._limit else "this one does its work from now on"
        tell(f"understudy: the learner's second process {what}; {then}\n")

    def settle(self) -> None:
        """See that nobody writes to the memory: an update that was interrupted stays half done."""
        if self._open and self.partner is not None:
            self.partner.end()
            self.partner = None
            self.pace.lost()
        self._open = False

    def close(self) -> None:
        """End the second process."""
        partner, self.partner, self._limit = self.partner, None, -1
        if partner is not None:
            partner.close()
