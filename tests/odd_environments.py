"""Environments with unusual spaces, which check what they are given, as ``EnvSpec`` names them."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


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


class Pictures(Odd):
    """Noise in colours."""

    observation_space = PICTURE


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


NAMES = spaces.Dict(a=spaces.Discrete(2), b=VECTOR)
WRONG = {
    "picture": (PICTURE, np.full((36, 36, 3), 0.5, np.float32), "the dtype float32, but its space says uint8"),
    "short": (VECTOR, np.ones(1, np.float32), r"the shape \(1,\), but its space says \(3,\)"),
    "scalar": (VECTOR, 0.3, r"the shape \(\), but"),
    "row": (VECTOR, np.ones((1, 3), np.float32), r"the shape \(1, 3\), but"),
    "nan": (spaces.Box(-5, 5, (2,), np.int64), np.array([np.nan, 0.5]), "the dtype float64, but its space says int64"),
    "bytes": (spaces.Box(0, 255, (2,), np.uint8), np.array([300, -1]), "numbers that uint8 cannot hold"),
    "nothing": (VECTOR, None, r"the shape \(\), but"),
    "text": (spaces.Discrete(3), "1", "the dtype <U1"),
    "no dict": (NAMES, np.ones(3), "shows ndarray, but its observation space is a dict"),
    "lacking": (NAMES, {"a": 1}, "shows nothing under the key 'b'"),
    "key": (NAMES, {"a": 0.5, "b": np.ones(3)}, "under the key 'a' has the dtype float64, but"),
}
"""Spaces, observations that are not of them, and what is said of those."""


class Wrong(Odd):
    """Shows what its space does not say."""

    def __init__(self, case):
        self.observation_space, self.shown, _ = WRONG[case]

    def see(self):
        return self.shown


class Lists(Odd):
    """Shows plain lists of Python's numbers and float64, which its space can hold."""

    observation_space = spaces.Dict(a=spaces.Discrete(2), b=VECTOR, c=spaces.MultiBinary(2))

    def see(self):
        return {"a": True, "b": np.zeros(3), "c": [0, 1]}


class Outside(Odd):
    """From its second step on it shows a choice that its space has not."""

    observation_space = spaces.Discrete(4)

    def __init__(self, choice):
        self.choice = choice

    def see(self):
        return self.choice if self.steps > 1 else 0


class Small(Odd):
    """Shows small pictures that are not square."""

    observation_space = spaces.Box(0, 255, (10, 8, 3), np.uint8)


class Old(Odd):
    """Breaks Gymnasium's interface in one way, or has an error of its own."""

    def __init__(self, what):
        self.what = what
        if what == "seed":
            self.reset = lambda: (self.see(), {})

    def step(self, action):
        obs, reward, *rest = super().step(action)
        if self.what == "inside":
            raise ValueError("my own")
        if self.what == "four":
            return obs, reward, *rest[1:]
        return obs, np.array([reward]) if self.what == "array" else reward, *rest
