"""Becomes a player: ``python -I -S launch.py PARENT PROGRAM ARGUMENTS...``.

A program of its own, so that the kernel is told before the player begins to run: it dies with its parent, also with one
that is killed. Nothing of Understudy is imported, which would take longer than all else here.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tell the kernel, then become the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):  # it was gone before the kernel was told
            return
    try:
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]}: {error.strerror}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
