"""The hand-derived gradients of action values are those of PyTorch."""

import gymnasium as gym
import numpy as np
import pytest

from understudy.learning.from_replay import replayed_policy, replayed_spec
from understudy.learning.q_learner import QLearner
from understudy.policies.policy import About
from understudy.rollouts.replay import ReplayBatch
from understudy.training import resolve_training

OBS, ACT, N = gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(4), 33


def learner_of(kernel, name="dqn", hidden=(16, 12), activation="relu", **more):
    given = {"env": {"id": "CartPole-v1"}, "policy": {"hidden": list(hidden), "activation": activation}}
    given["update"] = {"kernel": kernel, "max_grad_norm": 0.0, "target_every": 4}
    settings = resolve_training(given | more, name)
    return QLearner(replayed_policy(replayed_spec(settings, OBS, ACT), 0, About()), settings)


def batch_of(seed):
    rng = np.random.default_rng(seed)
    obs, after = (rng.normal(size=(N, 5)).astype(np.float32) for _ in range(2))
    reward, weight = (3 * rng.normal(size=N)).astype(np.float32), rng.uniform(0.1, 1, N).astype(np.float32)
    discount = rng.choice([0.0, 0.99], N).astype(np.float32)
    return ReplayBatch(obs, rng.integers(0, 4, N), reward, discount, after, np.arange(N), weight)


@pytest.mark.parametrize("hidden", [(16, 12), (160, 144), (24,)])
@pytest.mark.parametrize(("name", "activation"), [("dqn", "relu"), ("double-dqn", "relu"), ("per", "tanh")])
def test_gradients_and_errors_are_those_of_autograd(name, activation, hidden):
    auto, kernel = (learner_of(flag, name, hidden, activation) for flag in (False, True))
    assert kernel._kernel is not None and auto._kernel is None
    errors = []
    for learner in (auto, kernel):
        learner._follower.vector.mul_(1.5)  # a target that differs
        step = learner._descend if learner is auto else lambda *a: kernel._descend_by_hand(kernel._kernel, *a)
        errors.append(step(batch_of(1), 0.0))
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-5, atol=1e-6)
    assert (errors[0] > 1).any() and (errors[0] < 1).any()
    theirs, ours = auto._flat.grad.numpy(), kernel._flat.grad.numpy()
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
    told, found = auto.metrics(), kernel.metrics()
    assert told.keys() == found.keys()
    for key in told:
        assert found[key] == pytest.approx(told[key], rel=1e-4)


def test_thirty_updates_end_at_the_same_weights():
    ends = []
    for kernel in (False, True):
        learner = learner_of(kernel)
        for seed in range(30):
            learner.update(batch_of(seed), 1e-3)
        arrays, _ = learner.state()
        ends.append({key: array.copy() for key, array in (arrays | learner.weights()).items()})
    for key in ends[0]:
        np.testing.assert_allclose(ends[0][key], ends[1][key], rtol=2e-2, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", ["dueling", "c51", "qr-dqn", "rainbow"])
def test_what_it_does_not_cover_is_left_to_autograd(name):
    assert learner_of(True, name)._kernel is None
