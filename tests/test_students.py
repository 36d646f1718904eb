"""Students of other shapes, end to end: images, value functions, Gaussian heads, aggregation off."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.teachers_for_tests import swing_up

from understudy.config import nest
from understudy.distillation import distill
from understudy.policies.policy import About, Policy
from understudy.policies.spec import PolicySpec, default_encoders, space_to_json

IMAGE = gym.spaces.Box(0, 255, (40, 40, 1), np.uint8)


class Spot(gym.Env):
    """A bright half, left or right; reward for naming it. Ten steps."""

    observation_space, action_space = IMAGE, gym.spaces.Discrete(2)

    def _see(self):
        self.side = int(self.np_random.integers(2))
        image = self.np_random.integers(0, 120, IMAGE.shape, dtype=np.uint8)
        image[:, 20 * self.side : 20 * self.side + 20] += 100
        return image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def step(self, action):
        self.t += 1
        reward = float(action == self.side)
        return self._see(), reward, self.t == 10, False, {}


if "Spot-v0" not in gym.registry:
    gym.register("Spot-v0", Spot)


def settings(**dotted):
    base = {
        "execution.type": "single", "data.num_envs": 2, "data.steps": 200, "data.first_steps": 0,
        "learning.update_to_data": 0.2, "learning.batch_size": 64, "evaluation.episodes": 6, "evaluation.num_envs": 3,
        "evaluation.screen": 3, "stop.env_steps": 2400,
    }  # fmt: skip
    return nest({**base, **dotted})


def test_an_image_student_of_an_image_teacher(tmp_path):
    def teacher(obs):
        halves = np.asarray(obs, float).reshape(len(obs), 40, 2, 20).mean(axis=(1, 3))
        return halves.argmax(axis=1)

    result = distill(teacher, "Spot-v0", settings(**{"student.cnn_features": 32, "learning.lr": "1e-3"}), run=tmp_path)
    assert result.student.spec.encoders[0].type == "nature_cnn"
    assert result.stopped == "parity"


def valued_teacher():
    """A small random network with a value function, on the pendulum."""
    torch.manual_seed(0)
    env = gym.make("Pendulum-v1")
    spaces = space_to_json(env.observation_space), space_to_json(env.action_space)
    spec = PolicySpec(*spaces, "gaussian", default_encoders(env.observation_space), std="constant", value_hidden=(8,))
    teacher = Policy(spec, About("PPO", "random")).eval()
    from understudy.data import EnvSpec

    teacher.about.env = EnvSpec("Pendulum-v1")
    return teacher


@pytest.mark.parametrize("distance", ["forward_kl", "reverse_kl", "wasserstein2", "nll", "mse"])
def test_gaussian_students_learn_distribution_and_value(tmp_path, distance, monkeypatch):
    # A random teacher is no better than a random policy; what is tested here is learning, not judging.
    monkeypatch.setattr("understudy.learning.from_dataset.ParityExaminer._judge", lambda self, metrics: False)
    rounds = []
    result = distill(
        valued_teacher(), None,
        settings(**{
            "student.family": "gaussian", "student.value": True, "distance.name": distance, "stop.env_steps": 2000,
            "stop.ratio": 1.99, "learning.lr": "3e-3", "learning.update_to_data": 0.05,
        }),
        run=tmp_path, report=rounds.append,
    )  # fmt: skip
    assert rounds[-1]["distance"] < rounds[0]["distance"]
    assert rounds[-1]["value"] < rounds[0]["value"]
    teacher, _ = valued_teacher().label(np.zeros((1, 3), np.float32))
    student, _ = result.student.label(np.zeros((1, 3), np.float32))
    assert student.value is not None and teacher.value is not None
    if "kl" in distance or distance == "wasserstein2":
        assert abs(float(student.params[0, 1] - teacher.params[0, 1])) < 0.6  # both log deviations near 0


def test_without_aggregation_only_the_last_round_is_kept(tmp_path):
    rounds = []
    distill(
        swing_up, "Pendulum-v1", settings(**{"data.aggregate": False, "stop.ratio": 1.9, "stop.env_steps": 1200}),
        run=tmp_path, report=rounds.append,
    )  # fmt: skip
    assert [r["samples"] for r in rounds] == [400, 400, 400]


def test_a_mixture_is_logged_as_it_is_scheduled(tmp_path):
    rounds = []
    distill(
        swing_up, "Pendulum-v1",
        settings(**{"behaviour.beta": "linear(1, 0, 800)", "stop.ratio": 1.9, "stop.env_steps": 1200}),
        run=tmp_path, report=rounds.append,
    )  # fmt: skip
    assert [r["beta"] for r in rounds] == [1.0, 0.5, 0.0]
