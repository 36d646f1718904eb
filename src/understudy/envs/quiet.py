"""Keeps the chatter of simulators off the terminal while they start; what they say while running stays."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def quiet(env_id: str) -> Iterator[None]:
    """Silence what gymnasium, MuJoCo and PyBullet say while environments are built or first reset.

    Gymnasium advises newer versions (a teacher needs the one it was trained in) and narrates the precision of bounds.
    MuJoCo's compiler deprecates parts of gymnasium's models, and writes MUJOCO_LOG.TXT into the working directory.
    PyBullet prints from C when imported and when it connects, so the descriptors are turned away, for its ids only.
    """
    mujoco: Any = sys.modules.get("mujoco")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(is out of date|precision lowered by casting).*")
        before = mujoco.get_mju_user_warning() if mujoco else None
        if mujoco:
            mujoco.set_mju_user_warning(lambda _: None)
        try:
            if "Bullet" in env_id or "Panda" in env_id:
                with _no_output():
                    yield
            else:
                yield
        finally:
            if mujoco:
                mujoco.set_mju_user_warning(before)


@contextmanager
def _no_output() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [os.dup(fd) for fd in (1, 2)], os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in (1, 2):
            os.dup2(nowhere, fd)
        yield
    finally:
        with suppress(Exception):  # C keeps what it printed until told; without a C library by that name it may appear
            ctypes.CDLL(None).fflush(None)
        for fd, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(nowhere)
