"""Errors that a user can make and mend; the command line prints them as one line, without a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that is not ours. The message says what is wrong, where, and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OutsideError(UserError):
    """Something beside the learner failed: what was learnt is sound, and worth saving."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, once what there was is saved; the message says where."""


def tell(text: str) -> None:
    """Write to stderr; where nobody reads that any more, the run goes on, and what it says from now on is lost."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except OSError:
        with contextlib.suppress(OSError):  # what could not be written would be tried again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """Return the error for a feature whose optional dependency is not installed."""
    return UserError(f"{purpose} needs the package {package!r}: run  pip install 'understudy[{extra}]'")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ', did you mean X?' for the nearest known name, or an empty string."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
