"""The wrapper ``mission``: texts become bytes that a vector environment holds and a policy reads."""

import gymnasium as gym
import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.make import make
from understudy.errors import UserError
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec, default_encoders, space_to_json

TEXTS = ("go to the red ball", "pick up a key", "öffne")


class MissionSpace(gym.spaces.Space):
    """As MiniGrid's: a space of strings that is no gymnasium Text."""

    def __init__(self):
        super().__init__(dtype=str)


class Babyish(gym.Env):
    """Looks as BabyAI's environments do; every episode has the next mission."""

    action_space = gym.spaces.Discrete(7)

    def __init__(self, text):
        spaces = {"own": MissionSpace(), "gymnasium": gym.spaces.Text(40)}
        self.observation_space = gym.spaces.Dict({
            "direction": gym.spaces.Discrete(4),
            "image": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8),
            "mission": spaces[text],
        })  # fmt: skip
        self.episode = -1

    def observe(self):
        return {"direction": 2, "image": np.full((7, 7, 3), 5, np.uint8), "mission": TEXTS[self.episode % 3]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        return self.observe(), {}

    def step(self, action):
        return self.observe(), 0.0, True, False, {}


@pytest.fixture(params=["own", "gymnasium"])
def babyish(request):
    gym.register("Babyish-v0", lambda: Babyish(request.param))
    yield lambda length: EnvSpec("Babyish-v0", wrappers=({"type": "mission", "length": length},))
    del gym.registry["Babyish-v0"]


def read(row):
    return bytes(row).rstrip(b"\0").decode()


def test_missions_are_bytes(babyish):
    env = make(babyish(20), 2)
    obs = env.reset([0, 1])
    assert obs["mission"].shape == (2, 20) and obs["mission"].dtype == np.uint8
    assert [read(row) for row in obs["mission"]] == [TEXTS[0]] * 2
    step = env.step(np.zeros(2, int))
    assert [read(row) for row in step.final_obs["mission"]] == [TEXTS[0]] * 2
    assert [read(row) for row in step.obs["mission"]] == [TEXTS[1]] * 2
    assert read(env.step(np.zeros(2, int)).obs["mission"][0]) == "öffne"
    spec = PolicySpec(
        space_to_json(env.observation_space), space_to_json(env.action_space), "categorical",
        default_encoders(env.observation_space, cnn_features=16),
    )  # fmt: skip
    actions, _ = Policy(spec).predict(env.reset([0, 1]))
    assert actions.shape == (2,)


def test_too_long_a_mission_is_refused(babyish):
    with pytest.raises(UserError, match="'go to the red ball' needs 18 bytes: .* not 17"):
        make(babyish(17), 1).reset([0])
    assert make(babyish(18), 1).reset([0])["mission"].all()


def test_without_the_wrapper_the_message_names_it(babyish):
    with pytest.raises(UserError, match=r"key 'mission'.*\"type\": \"mission\""):
        make("Babyish-v0", 1)


def test_babyai_itself(capfd):
    """The real thing: the mission as bytes beside the picture, and no chatter of the levels that it draws anew."""
    pytest.importorskip("minigrid")
    env = make(EnvSpec("BabyAI-GoToLocal-v0", wrappers=({"type": "mission", "length": 64},), backend="gymnasium"), 2)
    obs = env.reset([1, 2])
    assert sorted(obs) == ["direction", "image", "mission"] and obs["mission"].shape == (2, 64)
    assert bytes(obs["mission"][0]).rstrip(b"\0").startswith(b"go to")
    for _ in range(200):
        env.step(np.array([0, 1]))
    env.close()
    assert "rejected" not in capfd.readouterr().out
