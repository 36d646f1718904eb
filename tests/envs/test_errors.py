"""Mistakes are told in one line: what, where, what to do."""

import importlib.util
import re

import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs import build as building
from understudy.envs.make import make
from understudy.errors import UserError


def wrapped(**options):
    return EnvSpec("CartPole-v1", wrappers=(options,))


CASES = [
    ("LunarLander-v2", r"use `LunarLander-v3` instead"),
    ("HalfCheetah-v3", r"Use HalfCheetah-v4 or HalfCheetah-v5 instead"),
    ("Cartpole-v1", r"no environment 'Cartpole-v1'; did you mean CartPole-v1"),
    ("Zzzzzzzzzzz-v0", r"no environment 'Zzzzzzzzzzz-v0'; give the module that registers it"),
    ("no_such_module:Bar-v0", r"No module named 'no_such_module'"),
    ("understudy/Memry-v0", r"did you mean understudy/Memory-v0"),
    (EnvSpec("CartPole-v1", {"gravitty": 1}), r"CartPole-v1.*unexpected keyword argument 'gravitty'"),
    (EnvSpec("CartPole-v1", backend="gymnasum"), r"backend 'gymnasum' is not known; did you mean gymnasium"),
    (EnvSpec("CartPole-v1", {"max_episode_steps": 0}), r"max_episode_steps is 0; it must be at least 1, or -1"),
    (EnvSpec("CartPole-v1", {"max_episode_steps": "9"}), r"max_episode_steps is '9'; it must be"),
    (wrapped(type="tme_feature"), r"CartPole-v1: the wrapper 'tme_feature' is not known; did you mean time_feature"),
    (wrapped(type="frame_stack"), r"'frame_stack': missing a required argument: 'n'"),
    (wrapped(type="frame_stack", n=0), r"needs n >= 1"),
    (
        EnvSpec("tests.odd_environments:Small", wrappers=({"type": "frame_stack", "n": 4},)),
        r"Small: .* makes pictures \[12, 10, 8\] of \[10, 8, 3\], .* stack fewer",
    ),
    (wrapped(type="pad_observation", size=2), r"CartPole-v1: .* at most 2 numbers"),
    (wrapped(type="time_limit", max_steps=0), r"max_steps >= 1"),
    (wrapped(type="mission", length=0), r"needs length >= 1"),
    (wrapped(type="mission", length=9), r"CartPole-v1: .* needs a text under the observation key 'mission'"),
    (wrapped(type="atari"), r"is for Atari games"),
    (wrapped(type="atari", screensize=3), r"no argument 'screensize'; did you mean screen_size"),
    (EnvSpec("understudy/Privileged-v0", wrappers=({"type": "pad_observation", "size": 9},)), r"needs a vector"),
    (EnvSpec("multitask"), r"kwargs need 'tasks'"),
    (EnvSpec("multitask", {"tasks": ["CartPole-v1", "Pendulum-v1"]}), r"all continuous or all discrete"),
    (EnvSpec("multitask", {"tasks": ["CartPole-v1", 7]}), r"must be an id or a mapping with 'id', not 7"),
]


@pytest.mark.parametrize(("spec", "message"), CASES, ids=[m for _, m in CASES])
def test_messages(spec, message):
    with pytest.raises(UserError, match=f"(?i){message}") as caught:
        make(spec, 2)
    assert "\n" not in str(caught.value)


def test_number_of_environments():
    with pytest.raises(UserError, match="at least 1"):
        make("CartPole-v1", 0)
    with pytest.raises(UserError, match="7 environments do not divide among 2 tasks; take 8"):
        make(EnvSpec("multitask", {"tasks": ["CartPole-v1", "CartPole-v0"]}), 7)
    with pytest.raises(ValueError, match="1 seeds for 2"):
        make("understudy/Memory-v0", 2).reset([0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("what", ["obs", "reward"])
@pytest.mark.parametrize("last", [False, True])
def test_numbers_that_are_none(value, what, last):
    limit = 3 if last else 50  # in the last step of an episode only final_obs has it
    spec = EnvSpec("understudy/Bad-v0", {"what": what, "after": 3, "value": value, "max_episode_steps": limit})
    env = make(spec, 3)
    env.reset([0, 1, 2])
    for _ in range(2):
        env.step(np.zeros(3, int))
    words = rf"understudy/Bad-v0: the {what if what == 'reward' else 'observation'} of environment 1 is {value}"
    with pytest.raises(UserError, match=f"{re.escape(words)}.*step 3"):
        env.step(np.zeros(3, int), np.array([False, True, False]))


@pytest.mark.filterwarnings("ignore:overflow")
def test_huge_numbers_are_numbers():
    env = make(EnvSpec("understudy/Bad-v0", {"value": 1e30}), 1)
    env.reset([0])
    assert [env.step(np.zeros(1, int)).obs[0, 0] for _ in range(3)][2] == np.float32(1e30)


def test_missing_packages(monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        building.importlib.util,
        "find_spec",
        lambda name: None if name in ("pybullet_envs_gymnasium", "panda_gym", "minigrid", "envpool") else known(name),
    )
    with pytest.raises(UserError, match=r"AntBulletEnv-v0 needs .* pip install 'understudy\[pybullet\]'"):
        make("AntBulletEnv-v0", 1)
    with pytest.raises(UserError, match="pip install panda-gym"):
        make("PandaReach-v3", 1)
    with pytest.raises(UserError, match=r"pip install 'understudy\[minigrid\]'"):
        make("MiniGrid-DoorKey-5x5-v0", 1)
    with pytest.raises(UserError, match=r"pip install 'understudy\[envpool\]'"):
        make(EnvSpec("CartPole-v1", backend="envpool"), 1)


def test_envpool_says_what_it_cannot_do():
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match="EnvPool does not take the wrapper 'time_feature'"):
        make(EnvSpec("CartPole-v1", wrappers=({"type": "time_feature"},), backend="envpool"), 1)
    with pytest.raises(UserError, match="EnvPool has no environment 'AntBulletEnv-v0'"):
        make(EnvSpec("AntBulletEnv-v0", backend="envpool"), 1)
