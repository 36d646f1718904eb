"""How students explore: noise per action component that begins anew with every episode, epsilons per environment."""

import gymnasium as gym
import numpy as np

from understudy.data import EnvSpec
from understudy.envs.make import make
from understudy.rollouts.behaviour import Behaviour, Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.collect import Collector

BOX = gym.spaces.Box(np.float32([-1, -10]), np.float32([1, 10]))


class Still:
    """Does nothing."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation), 2), np.float32), state


class Values:
    """Knows two actions; the first one is the better by half of what is seen."""

    def params(self, obs):
        return np.stack([obs[:, 0], 0.5 * obs[:, 0]], axis=1).astype(np.float32)


def noise_of(memory, starts, steps=300, envs=2):
    behaviour = Behaviour(BOX, [3, 4][:envs])
    behaviour.begin(Mixture(0.0, noise=0.05, memory=memory), Still(), None, steps)
    obs, found = np.zeros((envs, 1), np.float32), []
    for t in range(steps):
        action, _ = behaviour.act(t, obs, starts[t])
        found.append(action / BOX.high)
    return np.stack(found)


def test_ou_noise_is_a_process_of_each_component_that_begins_at_every_episode():
    starts = np.zeros((300, 2), bool)
    starts[0] = starts[100, 0] = starts[101, 0] = True
    fresh, process = noise_of(0.0, starts), noise_of(0.85, starts)
    expected = np.zeros_like(fresh)
    for t in range(300):
        before = np.zeros((2, 2)) if t == 0 else np.where(starts[t][:, None], 0, expected[t - 1])
        expected[t] = 0.85 * before + fresh[t]
    np.testing.assert_allclose(process, expected, atol=1e-5)
    assert abs(np.corrcoef(fresh[:, 0, 0], fresh[:, 0, 1])[0, 1]) < 0.2  # components have noise of their own
    assert 0.03 < fresh.std() < 0.07


def test_the_process_goes_on_from_one_rollout_to_the_next():
    behaviour, start = Behaviour(BOX, [3]), np.ones(1, bool)
    mixture, obs = Mixture(0.0, noise=0.01, memory=0.5), np.zeros((1, 1), np.float32)
    behaviour.begin(mixture, Still(), None, 1)
    first = behaviour.act(0, obs, start)[0]
    behaviour.begin(mixture, Still(), None, 1)
    noise = behaviour._draws.noise[0].copy()
    np.testing.assert_allclose(behaviour.act(0, obs, ~start)[0], 0.5 * first + noise, rtol=1e-5)


def test_every_environment_has_its_own_epsilon_wherever_it_is_stepped():
    mixture = Mixture(0.0, noise=(0.0, 1.0, 0.0, 1.0))
    assert mixture.share(range(1, 3)).noise == (1.0, 0.0)
    env = make(EnvSpec("understudy/ConstantAction-v0"), 4)
    out = new_rollout(env.observation_space, env.action_space, 200, 4, replayed=True)
    mixture = Mixture(0.0, noise=mixture.noise, values=True)
    Collector(env, range(4)).collect(200, mixture, Values(), None, out)
    shares = out.action.mean(axis=0)
    assert shares[0] == shares[2] == 0 and all(0.35 < shares[i] < 0.65 for i in (1, 3))


def test_actors_write_down_what_they_thought():
    env = make(EnvSpec("understudy/ConstantAction-v0"), 2)
    out = new_rollout(env.observation_space, env.action_space, 25, 2, replayed=True)
    Collector(env, range(2)).collect(25, Mixture(0.0, noise=0.5, values=True), Values(), None, out)
    sequel, seen = out.sequel, out.obs[..., 0]
    np.testing.assert_allclose(sequel.value, seen)
    np.testing.assert_allclose(sequel.chosen, np.where(out.action == 0, seen, 0.5 * seen))
    late = out.truncated
    assert late.sum() == 4 and (sequel.final_obs[late] == 10).all() and (sequel.final_value[late] == 10).all()
    np.testing.assert_allclose(sequel.last_value, sequel.last_obs[:, 0])


def test_uniform_actions_fill_the_bounds_and_nobody_is_asked():
    env = make(EnvSpec("Pendulum-v1", backend="gymnasium"), 2)
    out = new_rollout(env.observation_space, env.action_space, 300, 2, replayed=True)
    Collector(env, range(2)).collect(300, Mixture(0.0, uniform=True, values=True), object(), None, out)
    assert out.action.min() < -1.9 and out.action.max() > 1.9 and abs(out.action.mean()) < 0.2
    assert np.isnan(out.sequel.chosen).all()
