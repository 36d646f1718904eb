"""What acting computed in the steps of a rollout, kept for learning from it with the same weights.

An A3C worker acts with weights that no update touches before it learns from that rollout, so the forward pass of
learning would repeat what acting has done: here the backward pass starts from that (the known implementations keep the
graph of every step for it). Convolutions of ``array_networks`` and an LSTM of one layer are kept, which is what costs.
"""

from __future__ import annotations

import numpy as np

from understudy.data import Array

LONGEST = 256
"""Steps of a rollout that is kept: of one game of 84x84 pixels that is 75 MB."""


class Tape:
    """The steps of one rollout, T of B environments.

    Attributes:
        length: Steps that were kept so far.
        pictures: Of every encoder what its layers made, [T, B, height, width, channels] each.
        gates: Of the LSTM, [T, B, 4 width] after their activations, in PyTorch's order i, f, g, o.
        cells: Its c after every step, [T, B, width].
        squashed: tanh of that.
        hidden: Its h after every step, [T, B, width].
    """

    def __init__(self) -> None:
        self._steps = self.length = 0
        self.pictures: dict[str, list[Array]] = {}
        self.gates = self.cells = self.squashed = self.hidden = np.zeros((0, 0, 0), np.float32)

    def begin(self, steps: int) -> bool:
        """Forget the last rollout; the next one has so many steps. Returns whether that is not too long to be kept."""
        if steps > LONGEST:
            steps = 0
        if steps != self._steps:
            self._steps, self.pictures, self.gates = steps, {}, np.zeros((0, 0, 0), np.float32)
        self.length = 0
        return steps > 0

    def of_pictures(self, key: str, shapes: list[tuple[int, ...]]) -> list[Array]:
        """Return where the encoder ``key`` writes what its layers make in this step, of these shapes."""
        if key not in self.pictures:
            self.pictures[key] = [np.empty((self._steps, *shape), np.float32) for shape in shapes]
        return [layer[self.length] for layer in self.pictures[key]]

    def note_gates(self, gates: Array, new: Array) -> None:
        """Keep the gates [B, 4 width] of this step; in the place of g stand those of ``new`` [B, width]."""
        batch, width = new.shape
        if len(self.gates) != self._steps or self.gates.shape[1] != batch:
            self.gates = np.empty((self._steps, batch, 4 * width), np.float32)
            self.cells, self.squashed, self.hidden = (np.empty((self._steps, batch, width), np.float32) for _ in "csh")
        kept = self.gates[self.length]
        kept[:] = gates
        kept[:, 2 * width : 3 * width] = new

    def note_memory(self, cells: Array, squashed: Array, hidden: Array) -> None:
        """Keep the LSTM's memory [B, width] after this step."""
        self.cells[self.length], self.squashed[self.length], self.hidden[self.length] = cells, squashed, hidden

    @property
    def whole(self) -> bool:
        """Whether every step was kept."""
        return self.length == self._steps > 0
