"""Preallocated rollout arrays, on the heap or inside one block of shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation, Rollout, Sequel, Trace
from understudy.policies.spaces import members
from understudy.policies.spec import PolicySpec

Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any], int]]
"""Name -> (shape, dtype, byte offset); observation keys are named ``obs:KEY``."""


def pack(shapes: Mapping[str, tuple[tuple[int, ...], Any]], offset: int = 0) -> tuple[Layout, int]:
    """Place arrays one after another, each on a cache line of its own; returns the layout and where it ends."""
    layout: Layout = {}
    for name, (shape, dtype) in shapes.items():
        kind = np.dtype(dtype)
        layout[name] = (shape, kind, offset)
        offset += -(-int(np.prod(shape)) * kind.itemsize // 64) * 64
    return layout, offset


def views(layout: Layout, block: Any) -> dict[str, Array]:
    """Return the arrays of a layout as views into ``block`` (anything with the buffer protocol)."""
    return {n: np.ndarray(shape, dtype, buffer=block, offset=offset) for n, (shape, dtype, offset) in layout.items()}


def rollout_layout(
    observation: gym.Space[Any],
    action: gym.Space[Any],
    steps: int,
    envs: int,
    traced: PolicySpec | None = None,
    offset: int = 0,
    replayed: bool = False,
) -> tuple[Layout, int]:
    """Return where each array of a [T, B] rollout stands in one block, and where they end.

    Args:
        observation: Of one environment.
        action: Of one environment.
        steps: T.
        envs: B.
        traced: The student whose trace is kept; None for a rollout without.
        offset: Where the first array stands.
        replayed: Whether the rollout has a sequel.
    """
    seen = {key: (tuple(space.shape or ()), space.dtype) for key, space in members(observation).items()}
    timed: dict[str, tuple[tuple[int, ...], Any]] = {f"obs:{key}": pair for key, pair in seen.items()}
    timed["action"] = (tuple(action.shape or ()), action.dtype)
    timed["reward"] = ((), np.float32)
    for flag in ("terminated", "truncated", "episode_start", "teacher_acted"):
        timed[flag] = ((), np.bool_)
    once: dict[str, tuple[tuple[int, ...], Any]] = {}
    if traced is not None:
        family = traced.distribution
        scalar = isinstance(action, gym.spaces.Discrete)
        width = () if scalar else (family.sizes[0],) if family.continuous else (len(family.sizes),)
        timed["trace:choice"] = (width, np.float32 if family.continuous else np.int64)
        timed |= {f"trace:{name}": ((), np.float32) for name in ("log_prob", "value", "bootstrap")}
        once = {f"trace:last_obs:{key}": pair for key, pair in seen.items()}
        once |= {"trace:last_value": ((), np.float32), "trace:last_start": ((), np.bool_)}
        once["trace:state"] = ((2 * traced.lstm_layers * traced.lstm,), np.float32)
    if replayed:
        timed |= {f"sequel:final_obs:{key}": pair for key, pair in seen.items()}
        timed |= {f"sequel:{name}": ((), np.float32) for name in ("value", "chosen", "final_value")}
        once |= {f"sequel:last_obs:{key}": pair for key, pair in seen.items()}
        once["sequel:last_value"] = ((), np.float32)
    shapes = {name: ((steps, envs, *shape), dtype) for name, (shape, dtype) in timed.items()}
    shapes |= {name: ((envs, *shape), dtype) for name, (shape, dtype) in once.items()}
    return pack(shapes, offset)


def rollout_views(layout: Layout, block: Any) -> Rollout:
    """Return a rollout whose arrays are views into ``block``; without trace or sequel if the layout has none."""
    arrays: dict[str, Any] = views(layout, block)
    trace = {name[6:]: arrays.pop(name) for name in list(arrays) if name.startswith("trace:")}
    sequel = {name[7:]: arrays.pop(name) for name in list(arrays) if name.startswith("sequel:")}
    rollout = Rollout(_observation(arrays, "obs:"), **arrays)
    if trace:
        rollout.trace = Trace(last_obs=_observation(trace, "last_obs:"), **trace)
    if sequel:
        final, last = (_observation(sequel, f"{name}:") for name in ("final_obs", "last_obs"))
        rollout.sequel = Sequel(final_obs=final, last_obs=last, **sequel)
    return rollout


def _observation(arrays: dict[str, Any], prefix: str) -> Observation:
    """Take the arrays of an observation out of a dict."""
    obs: dict[str, Array] = {name[len(prefix) :]: arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
    return obs[""] if list(obs) == [""] else obs


def new_rollout(
    observation: gym.Space[Any],
    action: gym.Space[Any],
    steps: int,
    envs: int,
    traced: PolicySpec | None = None,
    replayed: bool = False,
) -> Rollout:
    """Allocate a [T, B] rollout on the heap."""
    layout, size = rollout_layout(observation, action, steps, envs, traced, 0, replayed)
    return rollout_views(layout, np.zeros(size, dtype=np.uint8))
