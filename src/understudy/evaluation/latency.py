"""How long a policy thinks about one observation, and how much room it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.data import map_obs
from understudy.policies import arrays
from understudy.policies.devices import one_thread
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays

WARM_UP, LEAST = 20, 30
"""Calls that are not timed, and that are."""


@dataclass(frozen=True)
class Latency:
    """Median wall time of one ``predict`` with one observation on one thread.

    Attributes:
        predict_us: Microseconds of the policy itself.
        array_us: Microseconds of the same network without PyTorch, which acts in rollout workers; None where there is
            none (networks with an LSTM or convolutions, teachers that are not native).
    """

    predict_us: float
    array_us: float | None

    @property
    def best_us(self) -> float:
        """Of the faster one."""
        return min(self.predict_us, self.array_us or self.predict_us)


def latency(policy: Any, seconds: float = 0.2) -> Latency:
    """Measure how long a policy takes to act.

    Args:
        policy: Anything with ``predict``.
        seconds: Time to spend per measurement, and on 30 calls at least.
    """
    observation = example_observation(policy.observation_space)
    with one_thread():
        own = median_us(_acting(policy, observation), seconds)
        fast = None
        if isinstance(policy, Policy) and arrays.supports(policy.spec):
            twin = arrays.ArrayPolicy(policy.spec, named_arrays(policy))
            fast = median_us(_acting(twin, observation), seconds)
    return Latency(own, fast)


def _acting(policy: Any, observation: Any) -> Callable[[], None]:
    """Return a call that acts once and hands the recurrent state on."""
    batch = map_obs(lambda a: np.asarray(a)[None], observation)
    start, later = np.ones(1, bool), np.zeros(1, bool)
    _, state = policy.predict(batch, None, start, True)

    def act() -> None:
        nonlocal state
        _, state = policy.predict(batch, state, later, True)

    return act


def median_us(call: Callable[[], None], seconds: float) -> float:
    """Return the median microseconds of a call, see ``latency``."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e6


def example_observation(space: Any) -> Any:
    """Return zeros of a space, moved into its bounds; one array per key of a dict space."""
    if hasattr(space, "spaces"):
        return {key: example_observation(sub) for key, sub in space.spaces.items()}
    zeros = np.zeros(space.shape or (), space.dtype)
    return np.clip(zeros, space.low, space.high) if hasattr(space, "low") else zeros + getattr(space, "start", 0)


def parameters_of(policy: Any) -> int | None:
    """Return how many numbers it takes to act; None where that is not known."""
    return int(getattr(policy, "parameters_count", 0)) or None


def kilobytes_of(policy: Any) -> float | None:
    """Return the size of the float32 weights that it takes to act, in kB (1000 bytes); None where not known."""
    count = parameters_of(policy)
    return None if count is None else 4 * count / 1000
