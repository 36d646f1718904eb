"""The probes do what they promise."""

import time

import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.make import make


def play(env, act, episodes=60):
    """Mean return per step-ended episode, and the lengths."""
    obs, total, length, returns, lengths = env.reset([3]), 0.0, 0, [], []
    while len(returns) < episodes:
        step = env.step(np.array([act(obs, length)]))
        total, length = total + step.reward[0], length + 1
        if step.terminated[0] or step.truncated[0]:
            returns.append(total)
            lengths.append(length)
            total, length = 0.0, 0
        obs = step.obs
    return np.array(returns), np.array(lengths)


def test_identity():
    right, lengths = play(make("understudy/IdentityDiscrete-v0", 1), lambda o, t: o[0].argmax())
    assert np.all(right == 1) and np.all(lengths == 1)
    right, _ = play(make("understudy/IdentityMultiDiscrete-v0", 1), lambda o, t: (o[0, :3].argmax(), o[0, 3:].argmax()))
    assert np.all(right == 1)
    wrong, _ = play(make("understudy/IdentityMultiDiscrete-v0", 1), lambda o, t: (o[0, :3].argmax(), 0))
    assert 0 < wrong.mean() < 1
    assert np.all(play(make("understudy/IdentityBox-v0", 1), lambda o, t: o[0])[0] == 0)


def test_constant_action_and_privileged():
    returns, lengths = play(make("understudy/ConstantAction-v0", 1), lambda o, t: 1, 2)
    assert np.all(returns == 10) and np.all(lengths == 10)
    returns, _ = play(make("understudy/Privileged-v0", 1), lambda o, t: int(o["privileged"][0, 0]), 5)
    assert np.all(returns == 10)


def test_memory_needs_the_cue():
    cue = {}

    def remember(obs, t):
        if t == 0:
            cue["is"] = int(obs[0, 0] > 0)
        return cue["is"]

    returns, lengths = play(make("understudy/Memory-v0", 1), remember)
    assert np.all(returns == 1) and np.all(lengths == 4)
    forgetful, _ = play(make("understudy/Memory-v0", 1), lambda o, t: int(o[0, 0] > 0))
    assert 0.2 < forgetful.mean() < 0.8


def test_length_bias():
    returns, lengths = play(make("understudy/LengthBias-v0", 1), lambda o, t: 0, 200)
    assert 0.35 < returns.mean() < 0.65
    assert set(lengths[returns == 1]) == {100} and set(lengths[returns == 0]) == {1}


def test_hanging():
    env = make(EnvSpec("understudy/Hanging-v0", {"after": 1, "seconds": 0.05}), 1)
    env.reset([0])
    start = time.perf_counter()
    env.step(np.array([0]))
    assert time.perf_counter() - start >= 0.05


def test_by_module():
    assert make("understudy.envs.probes:understudy/Memory-v0", 1).reset([0]).shape == (1, 2)


def test_raising():
    env = make("understudy/Raising-v0", 1)
    env.reset([0])
    with pytest.raises(RuntimeError, match="step 3"):
        for _ in range(3):
            env.step(np.array([0]))
