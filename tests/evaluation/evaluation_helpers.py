"""Environments of known outcome and policies without training."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from understudy.data import EnvSpec
from understudy.envs.base import Step
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec, default_encoders


class CountingEnv:
    """Episode of seed s lasts ``length(s)`` steps with reward 1 each; the observation is (step, seed)."""

    def __init__(self, num_envs, length=lambda seed: 1 + seed % 7):
        self.spec, self.num_envs, self.length = EnvSpec("Counting-v0"), num_envs, length
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.stepped, self.resets = 0, []

    def _obs(self):
        return np.stack([self.t, self.seeds], axis=1).astype(np.float32)

    def reset(self, seeds):
        assert len(seeds) == self.num_envs
        self.resets.append(list(seeds))
        self.seeds, self.t = np.array(seeds), np.zeros(self.num_envs)
        self.lengths = np.array([self.length(s) for s in seeds])
        return self._obs()

    def step(self, actions, active=None):
        active = np.ones(self.num_envs, bool) if active is None else active
        self.stepped += int(active.sum())
        self.t += active
        over = active & (self.t >= self.lengths)
        obs, reward = self._obs(), np.where(active, 1.0, np.nan).astype(np.float32)
        self.t[over] = 0
        return Step(self._obs(), reward, over, np.zeros_like(over), obs)

    def render(self):
        return None

    def close(self):
        pass


def new_policy(env_id="CartPole-v1", family=None, seed=0, **kwargs):
    """A policy with random weights for a gymnasium environment."""
    env = gym.make(env_id)
    family = family or ("categorical" if isinstance(env.action_space, gym.spaces.Discrete) else "deterministic")
    spec = PolicySpec(
        space_to_json(env.observation_space),
        space_to_json(env.action_space),
        family,
        default_encoders(env.observation_space),
        **{"hidden": (16,), "std": "constant" if family == "gaussian" else "none"} | kwargs,
    )
    env.close()
    torch.manual_seed(seed)
    return Policy(spec, About(source=f"runs/policy{seed}.safetensors", env=EnvSpec(env_id, backend="gymnasium"))).eval()
