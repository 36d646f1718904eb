"""Shared by the tests of teachers: an environment that is only its spaces, and comparisons with Stable-Baselines3."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
ZOO = Path(os.environ.get("UNDERSTUDY_ZOO", ROOT.parent / "shared" / "zoo"))

VECTOR = spaces.Box(-1, 1, (5,), np.float32)
CHW = spaces.Box(0, 255, (3, 36, 36), np.uint8)
HWC = spaces.Box(0, 255, (36, 36, 3), np.uint8)
BOUNDS = spaces.Box(np.array([-1, -2.5], np.float32), np.array([1, 0.5], np.float32))


class SpacesOnly(gym.Env):
    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def random_weights(model: Any, scale: float = 1.5) -> Any:
    """Fresh policies have action layers near zero, which hides mistakes: make every weight count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 50
            noise = torch.randn(parameter.shape, generator=generator) * scale / np.sqrt(fan)
            parameter.copy_(noise - 1.0 if "log_std" in name and parameter.ndim < 3 else noise)
    return model


def observations(space: gym.Space, count: int, seed: int = 0) -> Any:
    """[count, ...] plausible observations: normal of several scales for unbounded numbers, samples otherwise."""
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        return {key: observations(sub, count, seed + i) for i, (key, sub) in enumerate(space.spaces.items())}
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        scales = rng.choice([0.1, 1.0, 10.0], size=(count, *[1] * len(space.shape)))
        return (rng.normal(size=(count, *space.shape)) * scales).astype(space.dtype)
    space.seed(seed)
    samples = np.stack([space.sample() for _ in range(count)])
    if samples.dtype == np.uint8:  # images of any brightness, or every one looks alike to a random network
        samples = (samples * rng.random((count, *[1] * len(space.shape)))).astype(np.uint8)
    return samples


def difference(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
