"""The student's weights in shared memory: one process publishes, others read, nobody waits for a lock.

Two copies are written in turn, each with a counter that is odd while its copy is being written. A reader takes the
newest copy and reads again if its counter moved meanwhile, so it never sees weights that are half old and half new
(Lamport's sequence lock).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.data import Array
from understudy.rollouts.buffers import Layout, pack, views

Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


def board_layout(shapes: Shapes) -> tuple[Layout, int]:
    """Return where the arrays named in ``shapes`` stand twice, after their counters, and where they end."""
    named: dict[str, tuple[tuple[int, ...], Any]] = {"version": ((), np.int64), "writing": ((2,), np.int64)}
    for copy in (0, 1):
        named |= {f"{copy}:{name}": pair for name, pair in shapes.items()}
    return pack(named)


class Board:
    """Weights of one student over a block of shared memory."""

    def __init__(self, layout: Layout, block: Any) -> None:
        arrays = views(layout, block)
        self._version, self._writing = arrays.pop("version"), arrays.pop("writing")
        self._copies: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
        for name, array in arrays.items():
            copy, _, plain = name.partition(":")
            self._copies[int(copy)][plain] = array

    @property
    def version(self) -> int:
        """How often weights were published."""
        return int(self._version)

    def publish(self, weights: Mapping[str, Array]) -> None:
        """Write new weights; the version of the first is 1."""
        version = int(self._version) + 1
        copy = version % 2
        self._writing[copy] += 1
        for name, array in self._copies[copy].items():
            array[...] = weights[name]
        self._writing[copy] += 1
        self._version[...] = version

    def read(self) -> tuple[int, dict[str, Array]]:
        """Return the newest version and copies of its weights."""
        while True:
            version = int(self._version)
            copy = version % 2
            before = int(self._writing[copy])
            weights = {name: array.copy() for name, array in self._copies[copy].items()}
            if before % 2 == 0 and before == int(self._writing[copy]):
                return version, weights
