"""Environments with unusual spaces, which check what they are given, as ``EnvSpec`` names them."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-1, 1, (3,), np.float32)


class Odd(gym.Env):
    """Random observations, episodes of 5 steps, reward 1; an action that is not of its space is an error."""

    observation_space: gym.Space = VECTOR
    action_space: gym.Space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.see(), {}

    def see(self):
        return self.observation_space.sample()

    def step(self, action):
        if not self.action_space.contains(action):
            raise AssertionError(f"{action!r} is not in {self.action_space}")
        self.steps += 1
        return self.see(), 1.0, self.steps >= 5, False, {}


class Whole(Odd):
    """Actions of whole numbers."""

    action_space = spaces.Box(np.array([0, -2]), np.array([4, 2]), dtype=np.int64)


class Fine(Odd):
    """Actions of float64, whose bounds float32 does not have."""

    action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)


class Constant(Odd):
    """One action component has no choice."""

    action_space = spaces.Box(np.array([0, 1], np.float32), np.array([1, 1], np.float32))


class Narrow(Odd):
    """Numbers within bounds that other environments do not have."""

    action_space = spaces.Box(-1, 2, (2,), np.float32)


class Grid(Odd):
    """Choices on two axes, seen and made."""

    observation_space = spaces.Dict(many=spaces.MultiDiscrete([[2, 3], [4, 5]]), bits=spaces.MultiBinary((2, 2)))
    action_space = spaces.MultiDiscrete([[2, 3], [4, 5]])


class GridActions(Odd):
    """Choices on two axes to make."""

    action_space = Grid.action_space


class Bits(Odd):
    """Bits on two axes to set, and one number without an axis to see."""

    observation_space = spaces.Box(-5, 5, (), np.float32)
    action_space = spaces.MultiBinary((2, 2))


class Number(Bits):
    """One number without an axis to see, and one choice."""

    action_space = spaces.Discrete(2)


class Masked(Odd):
    """Another choice is forbidden in every step; only choice 2 is worth something."""

    observation_space = spaces.Dict(x=VECTOR, action_mask=spaces.Box(0, 1, (3,), np.int8))
    action_space = spaces.Discrete(3, start=-1)

    def see(self):
        self.mask = np.ones(3, np.int8)
        self.mask[self.steps % 3] = 0
        return {"x": self.np_random.uniform(-1, 1, 3).astype(np.float32), "action_mask": self.mask}

    def step(self, action):
        if not self.mask[action + 1]:
            raise AssertionError(f"{action} is forbidden")
        obs, _, *rest = super().step(action)
        return obs, float(action == 1), *rest
