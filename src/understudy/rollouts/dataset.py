"""The aggregated dataset of visited states and what the teacher says about them (Ross 2011, DAgger)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from understudy.data import Array, Observation, Rollout
from understudy.errors import UserError


class Dataset:
    """Columns of samples in preallocated arrays; when full, the oldest samples are overwritten.

    Steps of one environment stand next to each other, so that windows of ``window`` samples are sequences for
    recurrent students; rollouts are as long as a whole number of windows.

    Columns: ``obs:KEY`` [N, ...], ``episode_start`` [N], and what the teacher says: ``params`` [N, P], ``value`` [N]
    and ``mask`` [N, A] where it has them.
    """

    def __init__(self, capacity: int, window: int = 1) -> None:
        self.window = window
        self.capacity = capacity // window * window
        self.columns: dict[str, Array] = {}
        self.size = 0
        self.added = 0
        """Samples ever added, and places that were passed over; what ``capacity`` leaves of it is the next place."""
        self.latest = slice(0, 0)
        """Where the samples of the last ``append`` or ``extend`` stand."""

    def append(self, rollout: Rollout, labels: Mapping[str, Array]) -> slice:
        """Add a rollout [T, B] with the teacher's labels, [T, B, ...] each; returns where it stands.

        Raises:
            UserError: T is no multiple of the window, or the rollout is larger than the dataset.
        """
        steps, envs = rollout.shape
        if steps % self.window:
            raise UserError(f"rollouts of {steps} steps do not divide into sequences of {self.window}")
        if steps * envs > self.capacity:
            raise UserError(f"data.capacity {self.capacity} cannot hold one rollout of {steps * envs} samples")
        obs = rollout.obs if isinstance(rollout.obs, dict) else {"": rollout.obs}
        new = {f"obs:{key}": array for key, array in obs.items()}
        new |= {"episode_start": rollout.episode_start, **labels}
        return self.extend({name: array.swapaxes(0, 1).reshape(-1, *array.shape[2:]) for name, array in new.items()})

    def extend(self, new: Mapping[str, Array]) -> slice:
        """Add samples [n, ...] by column."""
        count = len(new["params"])
        if not self.columns:
            self.columns = {n: np.empty((self.capacity, *a.shape[1:]), a.dtype) for n, a in new.items()}
        begin = self.added % self.capacity
        if begin + count > self.capacity:
            begin = 0  # a rollout stays in one piece: start over at the front
            self.added += self.capacity - self.added % self.capacity
        where = slice(begin, begin + count)
        for name, array in new.items():
            self.columns[name][where] = array
        self.added += count
        self.size, self.latest = max(self.size, where.stop), where
        return where

    def clear(self) -> None:
        """Forget every sample (re-collection without aggregation); the next one stands at the front."""
        self.added += -self.added % self.capacity  # never back: who keeps something of the samples goes by it
        self.size = 0

    def indices(self, rng: np.random.Generator, batch_size: int) -> Array:
        """Return ``batch_size`` sample numbers, in windows: [batch_size // window, window]."""
        windows = rng.integers(0, self.size // self.window, max(batch_size // self.window, 1))
        return np.asarray(windows[:, None] * self.window + np.arange(self.window))

    def observations(self, index: Any) -> Observation:
        """Return the observations at an index or slice."""
        obs = {name[4:]: column[index] for name, column in self.columns.items() if name.startswith("obs:")}
        return obs[""] if list(obs) == [""] else obs

    def filled(self) -> Iterator[tuple[str, Array]]:
        """Return the columns without their unused rest."""
        return ((name, column[: self.size]) for name, column in self.columns.items())
