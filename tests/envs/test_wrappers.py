"""Wrappers give what policies of Stable-Baselines3 were trained with."""

import copy
import importlib.util

import gymnasium as gym
import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.build import build
from understudy.envs.make import env_backend, make

sb3 = pytest.importorskip("stable_baselines3.common.vec_env")
TimeFeatureWrapper = pytest.importorskip("sb3_contrib.common.wrappers").TimeFeatureWrapper


class Seen(gym.Env):
    """Shows noise of any space, ten steps long."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, gym.spaces.Discrete(2)
        self.samples = copy.deepcopy(space)  # sb3-contrib writes into the space of a dict

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.samples.seed(seed)
        self.t = 0
        return self.samples.sample(), {}

    def step(self, action):
        self.t += 1
        return self.samples.sample(), 0.0, self.t == 10, False, {}


SPACES = {
    "vector": lambda: gym.spaces.Box(-1, 1, (3,)),
    "double": lambda: gym.spaces.Box(-1, 1, (3,), np.float64),
    "image last": lambda: gym.spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "image first": lambda: gym.spaces.Box(0, 255, (1, 36, 40), np.uint8),
    "dict": lambda: gym.spaces.Dict({"observation": SPACES["vector"](), "goal": SPACES["vector"]()}),
}


@pytest.fixture
def seen(request):
    gym.register("Seen-v0", lambda name: Seen(SPACES[name]()))
    yield
    del gym.registry["Seen-v0"]


def same(a, b):
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("name", ["vector", "double", "dict"])
@pytest.mark.parametrize("limit", [None, 25])
def test_time_feature_is_sb3s(seen, name, limit):
    spec = EnvSpec(
        "Seen-v0",
        {"name": name, **({"max_episode_steps": limit} if limit else {})},
        ({"type": "time_feature", "max_steps": 40},),
    )
    ours = make(spec, 1)
    theirs = sb3.DummyVecEnv(
        [lambda: TimeFeatureWrapper(gym.make("Seen-v0", max_episode_steps=limit, name=name), max_steps=40)]
    )
    assert ours.observation_space == theirs.observation_space
    theirs.seed(5)
    assert same(ours.reset([5]), theirs.reset())
    for _ in range(23):
        step, (obs, _, done, infos) = ours.step(np.zeros(1, int)), theirs.step(np.zeros(1, int))
        assert same(step.obs, obs) and done[0] == step.terminated[0]
        if done[0]:
            final = infos[0]["terminal_observation"]
            assert same({k: v[0] for k, v in step.final_obs.items()} if name == "dict" else step.final_obs[0], final)


@pytest.mark.parametrize("name", [*SPACES])
def test_frame_stack_is_sb3s(seen, name):
    ours = make(EnvSpec("Seen-v0", {"name": name}, ({"type": "frame_stack", "n": 3},)), 1)
    theirs = sb3.VecFrameStack(sb3.DummyVecEnv([lambda: gym.make("Seen-v0", name=name)]), 3)
    if name == "image last":
        theirs = sb3.VecTransposeImage(theirs)
    assert ours.observation_space == theirs.observation_space
    theirs.seed(5)
    assert same(ours.reset([5]), theirs.reset())
    for _ in range(23):
        step, (obs, _, done, infos) = ours.step(np.zeros(1, int)), theirs.step(np.zeros(1, int))
        assert same(step.obs, obs)
        if done[0]:
            final = infos[0]["terminal_observation"]
            assert same({k: v[0] for k, v in step.final_obs.items()} if name == "dict" else step.final_obs[0], final)


def test_time_feature_counts_1000_steps_where_nothing_says_otherwise(seen):
    env = build(EnvSpec("Seen-v0", {"name": "vector"}, ({"type": "time_feature"},)))
    env.reset(seed=0)
    assert env.step(0)[0][-1] == np.float32(1 - 1 / 1000)


def test_pad_and_flatten(seen):
    env = make(EnvSpec("Seen-v0", {"name": "vector"}, ({"type": "pad_observation", "size": 5},)), 1)
    obs = env.reset([0])
    assert obs.shape == (1, 5) and np.all(obs[0, 3:] == 0) and np.any(obs[0, :3] != 0)
    assert env.observation_space.contains(obs[0])
    env = make(EnvSpec("Seen-v0", {"name": "dict"}, ({"type": "flatten_observation"},)), 1)
    assert env.reset([0]).shape == (1, 6)


def test_order_is_from_the_inside_out(seen):
    wrappers = ({"type": "time_feature"}, {"type": "pad_observation", "size": 6})
    obs = make(EnvSpec("Seen-v0", {"name": "vector"}, wrappers), 1).reset([0])
    assert obs[0, 3] == 1 and np.all(obs[0, 4:] == 0)


@pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")
def test_atari_options():
    zoo = EnvSpec(  # as the loader of zoo agents describes them
        "ALE/Pong-v5",
        {"frameskip": 1, "repeat_action_probability": 0.0},
        ({"type": "atari", "terminal_on_life_loss": False}, {"type": "frame_stack", "n": 2}),
    )
    assert env_backend(zoo) == "ale"
    env = make(zoo, 2)
    obs = env.reset([1, 2])
    assert obs.shape == (2, 2, 84, 84) and obs.dtype == np.uint8
    # As VecFrameStack: nothing before the first picture.
    assert not obs[:, 0].any() and obs[:, 1].any()
    second = env.step(np.array([0, 0])).obs
    assert np.array_equal(second[:, 0], obs[:, 1])
    assert env_backend(EnvSpec("ALE/Pong-v5", {"mode": 1}, ({"type": "atari"},))) == "gymnasium"
    env = make(EnvSpec("ALE/Breakout-v5", wrappers=({"type": "atari", "episodic_life": True},)), 1)
    env.reset([0])
    lost = next(t for t in range(500) if env.step(np.array([0])).terminated[0])
    assert lost < 200  # one life of five
