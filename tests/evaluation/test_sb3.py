"""Stable-Baselines3's own tools run on our policies, unchanged."""

import gymnasium as gym
import numpy as np
import pytest
from evaluation_helpers import new_policy

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402


@pytest.mark.parametrize("kwargs", [{}, {"lstm": 8}])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluate_policy(env_id, kwargs, deterministic):
    policy = new_policy(env_id, **kwargs)
    vec = make_vec_env(env_id, n_envs=3, seed=0)
    returns, lengths = evaluate_policy(policy, vec, 5, deterministic=deterministic, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 5 and np.isfinite(returns).all()
    vec.close()


def test_evaluate_policy_agrees_with_ours():
    from understudy.evaluation.evaluate import evaluate

    policy = new_policy(lstm=8)
    ours = evaluate(policy, episodes=1, seed=11).returns
    theirs = []
    for _ in range(2):
        env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))])
        env.seed(11)
        theirs.append(evaluate_policy(policy, env, 1, return_episode_rewards=True)[0])
    assert theirs[0] == theirs[1] == ours.tolist()


def test_single_environment_and_vec_normalize():
    policy = new_policy("Pendulum-v1", family="gaussian")
    mean, _ = evaluate_policy(policy, Monitor(gym.make("Pendulum-v1")), 1)
    assert mean < 0
    vec = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2), training=False, norm_reward=False)
    assert evaluate_policy(policy, vec, 2, warn=False)[0] < 0


def test_states_are_carried_by_evaluate_policy():
    policy, seen = new_policy(lstm=8), []
    predict = policy.predict

    def spy(observation, state=None, episode_start=None, deterministic=False):
        seen.append((state is None, np.array(episode_start)))
        return predict(observation, state, episode_start, deterministic)

    policy.predict = spy
    evaluate_policy(policy, make_vec_env("CartPole-v1", n_envs=2), 4)
    assert seen[0][0] and seen[0][1].all()
    assert not any(empty for empty, _ in seen[1:]) and any(start.any() for _, start in seen[1:])


def test_image_observations_with_channels_first():
    """VecTransposeImage turns HWC into CHW; predict takes both."""
    from understudy.policies.policy import Policy
    from understudy.policies.spaces import space_to_json
    from understudy.policies.spec import PolicySpec, default_encoders

    space = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    spec = PolicySpec(
        space_to_json(space), space_to_json(gym.spaces.Discrete(2)), "categorical",
        default_encoders(space, cnn_features=8), hidden=(),
    )  # fmt: skip
    policy = Policy(spec).eval()
    images = np.random.default_rng(0).integers(0, 255, (4, 36, 36, 3), dtype=np.uint8)
    last, _ = policy.predict(images, deterministic=True)
    first, _ = policy.predict(images.transpose(0, 3, 1, 2), deterministic=True)
    assert (last == first).all() and last.shape == (4,)
