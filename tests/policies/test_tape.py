"""Learning from what acting computed gives the gradients of learning that computes it again."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.data import EnvSpec
from understudy.envs.base import Step
from understudy.execution import station as stations
from understudy.execution.base import Setup
from understudy.learning.actor_critic import ActorCritic
from understudy.policies import tape as tapes
from understudy.policies.arrays import ArrayPolicy, keeps
from understudy.policies.spec import Encoder
from understudy.policies.tape import Tape
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.collect import Collector
from understudy.settings.train import NetworkSettings
from understudy.training import resolve_training
from understudy.training_parts import new_policy, policy_spec

T = 12


class Pictures:
    """Two environments of noise whose episodes end at different steps."""

    num_envs, spec = 2, EnvSpec("Pictures-v0")
    observation_space = gym.spaces.Box(0, 255, (1, 42, 42), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def __init__(self):
        self._rng, self._step = np.random.default_rng(0), 0

    def _seen(self):
        return self._rng.integers(0, 256, (2, 1, 42, 42), dtype=np.uint8)

    def reset(self, seeds):
        return self._seen()

    def step(self, actions, active=None):
        self._step += 1
        terminated = np.array([self._step % 5 == 0, self._step % 7 == 0])
        reward = actions.astype(np.float32)
        return Step(self._seen(), reward, terminated, np.zeros(2, bool), self._seen())


def gathered(lstm):
    """A policy, a rollout that it made, and what it computed meanwhile."""
    settings = NetworkSettings(encoder="a3c_cnn", lstm=lstm, hidden=(), value_hidden=(), normalize=False)
    spec = policy_spec(settings, Pictures.observation_space, Pictures.action_space, True)
    policy = new_policy(spec, settings, 0, None)
    actor, env, tape = ArrayPolicy(spec, named_arrays(policy)), Pictures(), Tape()
    rollout = new_rollout(env.observation_space, env.action_space, T, 2, spec)
    collector = Collector(env, [0, 1])
    for _ in range(2):  # the second one begins in the middle of episodes
        tape.begin(T)
        actor.tape = tape
        collector.collect(T, Mixture(0.0, sample=True), actor, None, rollout)
    assert tape.whole and rollout.episode_start[1:].any() and not rollout.episode_start[0].any()
    return policy, rollout, tape


def gradient(policy, rollout, tape):
    given = {"env": {"id": "ALE/Pong-v5"}, "rollout": {"num_envs": 2, "steps": T}, "update": {"lr": "0"}}
    learner = ActorCritic(policy, resolve_training(given, "a3c"), 2)
    metrics = learner.update(rollout, 0, tape=tape)
    assert metrics["updates"] == 1
    return {name: p.grad.clone() for name, p in policy.named_parameters()}, metrics


@pytest.mark.parametrize("lstm", [0, 32, 256])
def test_gradients_are_those_of_a_second_forward_pass(lstm):
    policy, rollout, tape = gathered(lstm)
    again, metrics = gradient(policy, rollout, None)
    known, same = gradient(policy, rollout, tape)
    for name, theirs in again.items():
        assert theirs.abs().max() > 0, name
        assert (known[name] - theirs).norm() <= 2e-5 * theirs.norm(), name
    assert {k: pytest.approx(v, rel=1e-4, abs=1e-6) for k, v in metrics.items()} == same


def test_the_forward_pass_is_not_made_again(monkeypatch):
    policy, rollout, tape = gathered(256)
    monkeypatch.setattr(torch.nn.functional, "conv2d", None)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", None)
    gradient(policy, rollout, tape)
    with pytest.raises(TypeError):
        gradient(policy, rollout, None)


class Ragged(Pictures):
    """Pictures whose rows have their own clocks: row 1 is answered in every second call, or never."""

    own_clocks, restarts, lost_episodes = True, 0, 0

    def __init__(self, silent):
        super().__init__()
        self._silent = silent
        self.asks, self.stepped, self.cut = np.ones(2, bool), np.zeros(2, bool), np.zeros(2, bool)

    def step(self, actions, active=None):
        step = super().step(actions)
        self.stepped = self.asks = np.array([True, not self._silent and self._step % 2 == 0])
        return step._replace(terminated=step.terminated & self.stepped)

    def take_stats(self):
        return {}


@pytest.mark.parametrize("silent", [False, True])
def test_nothing_is_kept_where_rows_have_their_own_clocks(silent, monkeypatch):
    """Calls are not steps there, and some columns are copies."""
    monkeypatch.setattr(stations, "make", lambda *args, **options: Ragged(silent))
    policy, rollout, _ = gathered(32)
    station = stations.Station(Setup(Pictures.spec, (0, 1), T, policy.spec, None, traced=True), range(2), 2)
    station.tape = Tape()
    for _ in range(2):
        info = station.collect(Mixture(0.0, sample=True), named_arrays(policy), T, rollout)
        assert not station.tape.whole
    assert info.env_steps == (T if silent else 2 * T)


def test_what_is_not_kept_whole_is_not_used():
    tape = Tape()
    assert not tape.whole
    tape.begin(2)
    tape.length = 1
    assert not tape.whole
    tape.length = 2
    assert tape.whole
    assert tape.begin(2)
    assert not tape.whole
    assert not tape.begin(tapes.LONGEST + 1)
    assert not tape.whole


def test_only_small_convolutions_are_worth_it():
    def spec(*types):
        space = gym.spaces.Dict({str(i): Pictures.observation_space for i in range(len(types))})
        settings = NetworkSettings()
        made = policy_spec(settings, space, Pictures.action_space, True)
        encoders = tuple(Encoder(str(i), kind, features=8) for i, kind in enumerate(types))
        return type(made)(**{**made.__dict__, "encoders": encoders})

    assert keeps(spec("a3c_cnn"))
    assert not keeps(spec("nature_cnn"))
    assert not keeps(spec("a3c_cnn", "nature_cnn"))
    assert not keeps(spec("flatten"))
