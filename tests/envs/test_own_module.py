"""``module:Name-v0`` finds a module in the current directory, whatever started Python."""

import sys
from pathlib import Path

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.envs.make import make

MODULE = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

gym.register("OwnPole-v0", CartPoleEnv, max_episode_steps=7)
"""


def test_a_module_in_the_current_directory_is_imported(tmp_path, monkeypatch):
    (tmp_path / "own_pole.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p and Path(p) != tmp_path])  # as the console script has it
    before = list(sys.path)
    env = make(EnvSpec("own_pole:OwnPole-v0"), 2)
    try:
        assert env.reset([0, 1]).shape == (2, 4) and sys.path == before
    finally:
        env.close()
        gym.registry.pop("OwnPole-v0")
        del sys.modules["own_pole"]
