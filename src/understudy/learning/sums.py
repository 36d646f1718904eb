"""Metrics of many updates, without waiting for a number in any of them."""

from __future__ import annotations

import torch
from torch import Tensor


class Sums:
    """Sums up tensors and numbers by name."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Tensor | float) -> None:
        """Add values; not every update has all of them."""
        for name, value in values.items():
            number = value.detach() if isinstance(value, torch.Tensor) else value
            self._totals[name] = self._totals.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of each since the last call."""
        found = {name: float(total) / self._counts[name] for name, total in self._totals.items()}
        self._totals, self._counts = {}, {}
        return found
