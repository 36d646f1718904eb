"""Models of Stable-Baselines3 in memory are teachers as their files are."""

import numpy as np
import pytest

import understudy
from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.policy import Policy

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.policies import ActorCriticPolicy  # noqa: E402
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize  # noqa: E402


class Odd(ActorCriticPolicy):
    """A policy class of a user's own, whose network cannot be told."""


class Mine(sb3.PPO):
    """An algorithm of a user's own."""


def ppo(env, kind="MlpPolicy", algorithm=sb3.PPO):
    return algorithm(kind, env, n_steps=64, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [("PPO", "CartPole-v1"), ("A2C", "Pendulum-v1"), ("DQN", "CartPole-v1"), ("SAC", "Pendulum-v1")],
)
def test_the_policy_is_the_models(algorithm, env_id):
    model = getattr(sb3, algorithm)("MlpPolicy", env_id, seed=1, device="cpu")
    teacher = understudy.load(model)
    assert isinstance(teacher, Policy) and teacher.about.algorithm == algorithm
    assert teacher.about.env == EnvSpec(env_id) and teacher.about.source == f"{algorithm} model"
    obs = np.random.default_rng(0).normal(size=(16, *model.observation_space.shape)).astype(np.float32)
    mine, theirs = teacher.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_what_normalises_its_observations_comes_along():
    envs = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = ppo(envs)
    model.learn(256)
    model.policy.action_net.weight.data *= 100  # so that it matters what it sees
    teacher = understudy.load(model)
    obs = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    theirs = model.predict(envs.normalize_obs(obs), deterministic=True)[0]
    np.testing.assert_allclose(teacher.predict(obs, deterministic=True)[0], theirs, atol=1e-5)
    assert np.abs(theirs - model.predict(obs, deterministic=True)[0]).max() > 0.1
    found = understudy.evaluate(model, episodes=3)
    np.testing.assert_array_equal(found.returns, understudy.evaluate(teacher, episodes=3).returns)


def test_a_normaliser_of_rewards_alone_leaves_no_doubt():
    model = ppo(VecNormalize(make_vec_env("CartPole-v1", 1), norm_obs=False))
    model.learn(64)
    teacher = understudy.load(model)
    assert not teacher.spec.normalized and not any("VecNormalize" in note for note in teacher.about.notes)
    both = ppo(VecNormalize(VecNormalize(make_vec_env("CartPole-v1", 1)), norm_obs=False))
    assert understudy.load(both).spec.normalized == ("",)


def test_normalisers_that_are_not_one_around_everything_are_refused():
    envs = VecNormalize(make_vec_env("CartPole-v1", 1))
    with pytest.raises(UserError, match="the PPO model sees observations that 2 VecNormalize changed one after the"):
        understudy.load(ppo(VecNormalize(envs)))
    with pytest.raises(UserError, match=r"^its VecNormalize normalises .* shape \(4,\), but the PPO model sees \(8,\)"):
        understudy.load(ppo(VecFrameStack(envs, 2)))


def test_environments_that_cannot_be_built_again_are_asked_for():
    model = ppo(VecFrameStack(make_vec_env("CartPole-v1", 1), 2))
    assert understudy.load(model).about.env is None
    with pytest.raises(UserError, match="the policy PPO model does not say which environment it is for"):
        understudy.evaluate(model, episodes=1)
    assert understudy.load(ppo(make_vec_env("CartPole-v1", 2), algorithm=Mine)).about.env == EnvSpec("CartPole-v1")


def test_a_network_that_cannot_be_told_only_acts():
    model = ppo("CartPole-v1", Odd)
    teacher = understudy.load(model)
    assert not isinstance(teacher, Policy) and "only its actions are known" in teacher.about.notes[0]
    obs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        teacher.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    with pytest.raises(UserError, match="the PPO model: the policy class .* is custom or unknown"):
        understudy.load(ppo(VecNormalize(make_vec_env("CartPole-v1", 1)), Odd))


def test_a_model_that_cannot_be_saved_is_named():
    model = ppo("CartPole-v1")
    model.save = lambda file: 1 / 0
    teacher = understudy.load(model)
    assert "the PPO model cannot be saved (ZeroDivisionError" in teacher.about.notes[0]


def test_a_memory_is_not_lost_silently():
    """A function of observations alone cannot stand for a recurrent network."""
    contrib, torch = pytest.importorskip("sb3_contrib"), pytest.importorskip("torch")
    kwargs = {"activation_fn": torch.nn.Mish, "lstm_hidden_size": 4}
    model = contrib.RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", device="cpu", policy_kwargs=kwargs)
    with pytest.raises(UserError, match="the RecurrentPPO model: the activation .*Mish is not one of"):
        understudy.load(model)

    class Holder:
        observation_space, action_space = model.observation_space, model.action_space

        def predict(self, obs, state=None, episode_start=None, deterministic=False):
            return model.predict(obs, state, episode_start, deterministic)

    with pytest.raises(UserError, match="answers a state beside its actions"):
        understudy.load(Holder()).predict(np.zeros((2, 3), np.float32))
