"""MinAtar's games are registered when they are asked for."""

import importlib.util

import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.make import make
from understudy.errors import UserError


def test_breakout_is_registered_and_plays():
    pytest.importorskip("minatar")
    env = make(EnvSpec("MinAtar/Breakout-v1"), 2)
    obs = env.reset([1, 2])
    assert obs.shape == (2, 10, 10, 4) and obs.dtype == bool and env.action_space.n == 3
    rng, ends = np.random.default_rng(0), 0
    for _ in range(200):
        step = env.step(rng.integers(0, 3, 2))
        ends += int(step.terminated.sum())
    env.close()
    assert ends > 2


def test_without_the_package_the_message_names_it(monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minatar" else known(name))
    with pytest.raises(UserError, match="needs the package 'MinAtar'"):
        make(EnvSpec("MinAtar/Breakout-v1"), 1)
