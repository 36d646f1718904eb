"""The hand-derived gradients of critics and actor are those of PyTorch."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.learning.continuous_learner import ContinuousLearner
from understudy.learning.continuous_updates import AutogradUpdates, KernelUpdates, Nets
from understudy.learning.from_replay import replayed_policy, replayed_spec
from understudy.objectives import wide_layers
from understudy.objectives.continuous_halves import Order
from understudy.policies.policy import About
from understudy.rollouts.replay import ReplayBatch
from understudy.training import resolve_training

OBS, ACT, N = gym.spaces.Box(-1, 1, (5,)), gym.spaces.Box(-2, 2, (3,)), 33
CASES = [("sac", "relu", 2), ("sac", "tanh", 1), ("td3", "relu", 2), ("ddpg", "tanh", 1), ("sac", "relu", 3)]

EPS = {"update": {"eps": 1e-3}}  # with the usual one, a gradient that is zero but for rounding moves a weight a lot


def settings_of(name, activation="relu", critics=2, **more):
    given = {"env": {"id": "Pendulum-v1"}, "policy": {"hidden": [16, 12], "activation": activation}}
    given |= {"objective": {"critics": critics}} | more
    return resolve_training(given, name)


def policy_of(settings, seed=0):
    policy = replayed_policy(replayed_spec(settings, OBS, ACT), seed, About())
    if hasattr(policy, "log_std_head"):  # some deviations beyond their bounds
        with torch.no_grad():
            policy.log_std_head.bias.copy_(torch.tensor([2.0, -20.0, 0.0]))
    return policy


def batch_of(seed, weights=True):
    rng = np.random.default_rng(seed)
    obs, after = (rng.normal(size=(N, 5)).astype(np.float32) for _ in range(2))
    action = rng.uniform(-1, 1, (N, 3)).astype(np.float32)
    reward, weight = rng.normal(size=N).astype(np.float32), rng.uniform(0.1, 1, N).astype(np.float32)
    discount = rng.choice([0.0, 0.99], N).astype(np.float32)
    return ReplayBatch(obs, action, reward, discount, after, np.arange(N), weight)


def found_by(kind, settings, term=None, seed=1):
    """Return all that a learner finds out in an update that moves everything, as copies."""
    nets = Nets(policy_of(settings), settings)
    noise = np.random.default_rng(2).standard_normal((2, N, 3), dtype=np.float32)
    order = Order(lr=1e-3, alpha=0.3, std=0.2, clip=0.5, tau=0.1, moves=True, follows=True)
    updates = kind(nets, settings.method == "soft")
    loss, target, error, norm, log_prob, actor_norm = updates.update(batch_of(seed), order, *noise, term)
    ends = [part.vector.numpy() for part in (nets.critics_flat, nets.actor_flat, *nets.followers.values())]
    grads = nets.critics_flat.grad.numpy(), nets.actor_flat.grad.numpy()
    return [np.array(each) for each in (*ends, loss, target, error, norm, actor_norm, log_prob, *grads)]


@pytest.mark.parametrize("hidden", [[16, 12], [160, 144], [24]])
@pytest.mark.parametrize(("name", "activation", "critics"), CASES)
def test_gradients_and_values_are_those_of_autograd(name, activation, critics, hidden):
    settings = settings_of(name, activation, critics, policy={"hidden": hidden, "activation": activation}, **EPS)
    auto, kernel = (found_by(kind, settings) for kind in (AutogradUpdates, KernelUpdates))
    for theirs, ours in zip(auto, kernel, strict=True):
        assert np.abs(theirs).max() > 1e-4 or name != "sac"
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
    assert np.abs(auto[-1]).max() > 1e-4


def test_without_onednn_the_gradients_are_the_same(monkeypatch):
    settings = settings_of("sac", policy={"hidden": [160, 144]}, **EPS)
    fused = found_by(KernelUpdates, settings)
    monkeypatch.setattr(wide_layers, "_fused", None)
    for theirs, ours in zip(fused, found_by(KernelUpdates, settings), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize(("name", "activation", "critics"), CASES)
def test_thirty_updates_end_at_the_same_weights(name, activation, critics):
    ends = []
    for kernel in (False, True):
        settings = settings_of(name, activation, critics, update={"kernel": kernel, "lr": "1e-3", "tau": 0.05})
        learner = ContinuousLearner(policy_of(settings), settings)
        for seed in range(30):
            learner.update(batch_of(seed), 1e-3)
        arrays, _ = learner.state()
        assert learner.metrics()["loss"] > 0
        ends.append({key: array.copy() for key, array in (arrays | learner.weights()).items()})
    for key in ends[0]:
        np.testing.assert_allclose(ends[0][key], ends[1][key], rtol=2e-2, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(("name", "hidden"), [("sac", [16, 12]), ("sac", [160, 144]), ("td3", [160, 144])])
def test_batches_of_next_to_nothing(name, hidden, rows):
    """One half of a single row is empty."""
    ends = []
    for kernel in (False, True):
        settings = settings_of(name, policy={"hidden": hidden}, update={"kernel": kernel, "eps": 1e-3})
        learner = ContinuousLearner(policy_of(settings), settings)
        for seed in range(4):
            learner.update(ReplayBatch(*(part[:rows] for part in batch_of(seed))), 1e-3)
        ends.append({key: array.copy() for key, array in learner.state()[0].items()})
    for key in ends[0]:
        np.testing.assert_allclose(ends[0][key], ends[1][key], rtol=1e-3, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize(("hidden", "widths"), [([], 1), ([7], 2), (None, 3)])
def test_critics_have_the_layers_that_they_are_told(hidden, widths, kernel):
    """None at all, where the list is empty; as many as the actor, where there is no list."""
    settings = settings_of("td3", policy={"hidden": [16, 12], "critic_hidden": hidden}, update={"kernel": kernel})
    learner = ContinuousLearner(policy_of(settings), settings)
    assert len(learner._nets.critics.weights) == widths
    begin = learner._nets.critics_flat.vector.clone()
    for seed in range(2):
        learner.update(batch_of(seed), 1e-3)
    assert not torch.equal(learner._nets.critics_flat.vector, begin)


def test_the_target_is_followed_by_tau_and_the_actor_of_td3_every_second_time():
    settings = settings_of("td3", update={"tau": 0.25})
    learner = ContinuousLearner(policy_of(settings), settings)
    nets = learner._nets
    begin = {name: follower.vector.clone() for name, follower in nets.followers.items()}
    actor = nets.actor_flat.vector.clone()
    learner.update(batch_of(0), 1e-3)
    assert torch.equal(nets.actor_flat.vector, actor)
    assert torch.equal(nets.followers["critics"].vector, begin["critics"])
    learner.update(batch_of(1), 1e-3)
    assert not torch.equal(nets.actor_flat.vector, actor)
    for name, flat in (("critics", nets.critics_flat), ("actor", nets.actor_flat)):
        torch.testing.assert_close(nets.followers[name].vector, 0.75 * begin[name] + 0.25 * flat.vector)


@pytest.mark.parametrize(("entropy", "rises"), [(-1.1 + np.log(2), True), (-0.9 + np.log(2), False)])
def test_a_constant_action_component_takes_no_entropy_from_the_others(entropy, rises):
    """It comes to be uniform, of entropy log 2; the other one should have -1 as it has alone."""
    settings = settings_of("sac")
    actions = gym.spaces.Box(np.float32([-1, 0.3]), np.float32([1, 0.3]))
    learner = ContinuousLearner(replayed_policy(replayed_spec(settings, OBS, actions), 0, About()), settings)
    learner._move_temperature(np.float32(-entropy), 0.1)
    assert (learner._alpha.params[0] > 0) == rises


def test_a_temperature_that_is_not_learnt_is_what_the_settings_say_now():
    """A learnt one goes on from where it was."""
    for learnt in (True, False):
        settings = settings_of("sac", objective={"learn_temperature": learnt, "temperature": 0.2})
        before = ContinuousLearner(policy_of(settings), settings)
        before._alpha.params[0] = -3
        after = ContinuousLearner(policy_of(settings), settings)
        after.restore(*before.state())
        assert np.isclose(np.exp(after._alpha.params[0]), np.exp(-3) if learnt else 0.2)
