"""Two processes that wait for each other some thousand times a second, by single bytes through a socket."""

from __future__ import annotations

import os
import select
from multiprocessing.connection import Connection

GONE = "is gone"
_LONGEST = 2**31 - 1
"""Milliseconds that ``poll`` can wait, 25 days."""
_BYTE = b"."
_TRIES = 100
"""Looks before a process goes to sleep, some 0.1 ms: it takes the system as long to wake it up again."""


class LineError(Exception):
    """The other end is gone, or silent; says how."""


class Line:
    """One end. Every ``signal`` at one end is worth one ``wait`` at the other."""

    def __init__(self, connection: Connection, timeout: float | None = None) -> None:
        """Take an end over; after ``timeout`` seconds of silence a wait ends with an error, by default never."""
        self._connection, self._timeout = connection, timeout
        self._number = connection.fileno()
        os.set_blocking(self._number, False)
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)

    def signal(self) -> None:
        """Say that one has come so far.

        Raises:
            LineError: The other end is gone.
        """
        try:
            os.write(self._number, _BYTE)
        except (BrokenPipeError, ConnectionResetError):
            raise LineError(GONE) from None

    def wait(self) -> None:
        """Wait until the other one has.

        Raises:
            LineError: It is gone, silent for too long, or says something else.
        """
        for _ in range(_TRIES):
            if self.heard():
                return
        while self._timeout is None:
            self._poll.poll()
            if self.heard():
                return
        # Looked at twice: whoever was stopped and goes on finds the other one silent for long, and nothing wrong there.
        for seconds in (self._timeout, 0.5):
            if self._poll.poll(min(1000 * seconds, _LONGEST)) and self.heard():
                return
        raise LineError(f"was silent for {self._timeout:g} s")

    def heard(self) -> bool:
        """Say whether the other one has, without waiting; if so, that is used up.

        Raises:
            LineError: It is gone, or says something else.
        """
        try:
            byte = os.read(self._number, 1)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            byte = b""
        if byte != _BYTE:
            raise LineError("raised an error" if byte else GONE)
        return True

    def meet(self) -> None:
        """Wait for the other one, and let it wait for this one.

        Raises:
            LineError: See ``wait``.
        """
        self.signal()
        self.wait()
