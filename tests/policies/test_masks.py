"""Action masks: what a state forbids has no probability, in both forward passes, in losses, and over a whole run."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.envs.unity_helpers import scene

from understudy.data import Target
from understudy.envs.make import make
from understudy.learning.from_replay import replayed_policy, replayed_spec
from understudy.learning.q_learner import QLearner
from understudy.learning.teaching import Guide, distance_reward
from understudy.objectives import actor_critic_kernel
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.objective import unit_output
from understudy.objectives.schedules import Constant
from understudy.objectives.teaching import FromTeacher
from understudy.policies.arrays import ArrayPolicy
from understudy.policies.family import Family
from understudy.policies.policy import About, Policy, as_tensors
from understudy.policies.spec import ABSENT, mask_of
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Behaviour, Mixture
from understudy.rollouts.episodes import random_policy
from understudy.rollouts.replay import ReplayBatch
from understudy.settings.train import NetworkSettings
from understudy.training import resolve_training, train
from understudy.training_parts import new_policy, policy_spec

BRANCHES = gym.spaces.MultiDiscrete([3, 2])
SEEN = gym.spaces.Dict(
    {"x": gym.spaces.Box(-1, 1, (4,), np.float32), "action_mask": gym.spaces.Box(0, 1, (5,), np.float32)}
)


def policy(lstm=0, actions=BRANCHES):
    settings = NetworkSettings(hidden=(8,), lstm=lstm)
    return new_policy(policy_spec(settings, SEEN, actions, True), settings, 0, About())


def observations(*shape):
    rng = np.random.default_rng(0)
    mask = np.ones((*shape, 5), np.float32)
    mask[..., 1] = mask[..., 4] = 0
    return {"x": rng.standard_normal((*shape, 4)).astype(np.float32), "action_mask": mask}


def test_a_mask_is_found_where_it_fits_the_actions():
    assert mask_of(SEEN, BRANCHES) == mask_of(SEEN, gym.spaces.Discrete(5)) == "action_mask"
    assert mask_of(SEEN, gym.spaces.Discrete(4)) == mask_of(SEEN["x"], BRANCHES) == ""
    assert mask_of(SEEN, gym.spaces.Box(-1, 1, (5,))) == ""
    spec = policy().spec
    assert spec.mask == "action_mask" and [e.key for e in spec.encoders] == ["x"]
    assert spec.needed_keys == {"x", "action_mask"} and not actor_critic_kernel.supports(spec)


def test_both_forward_passes_forbid_the_same():
    net, obs = policy(), observations(64)
    arrays = ArrayPolicy(net.spec, named_arrays(net))
    params = net(as_tensors(obs)).params.detach().numpy()
    assert (params[:, [1, 4]] == ABSENT).all() and (np.abs(params[:, [0, 2, 3]]) < 10).all()
    np.testing.assert_allclose(arrays.params(obs), params, rtol=1e-5, atol=1e-5)
    noise = np.random.default_rng(1).gumbel(size=(64, 5)).astype(np.float32)
    choices, log_prob, _, _ = arrays.act(obs, None, np.ones(64, bool), noise)
    same, same_log_prob, _, _ = net.act(obs, None, np.ones(64, bool), noise)
    assert np.array_equal(choices, same) and np.allclose(log_prob, same_log_prob, atol=1e-5)
    assert set(choices[:, 0]) == {0, 2} and set(choices[:, 1]) == {0}


@pytest.mark.parametrize("lstm", [0, 6])
def test_gradients_are_finite_and_do_not_reach_what_is_forbidden(lstm):
    net, obs = policy(lstm), observations(3, 4) if lstm else observations(12)
    state = net.initial_state(4) if lstm else None
    params = net(as_tensors(obs), state, torch.zeros(3, 4, dtype=torch.bool) if lstm else None).params
    first, second = params.flatten(0, -2).split([3, 2], dim=1)
    entropy = sum(torch.distributions.Categorical(logits=part).entropy().sum() for part in (first, second))
    entropy.backward()
    grad = net.head.weight.grad
    assert torch.isfinite(grad).all() and (grad[[1, 4]] == 0).all() and grad[[0, 2]].abs().sum() > 0


def test_a_saved_policy_keeps_its_mask(tmp_path):
    from understudy.policies.files import load_policy, save_policy

    net = policy()
    save_policy(net, tmp_path / "p.safetensors", {})
    loaded = load_policy(tmp_path / "p.safetensors")
    assert isinstance(loaded, Policy) and loaded.spec == net.spec


def test_a_scene_with_masks_is_trained_without_a_forbidden_choice(tmp_path):
    spec = scene("--scene", "chooser", "--agents", 4, "--limit", 10)
    settings = {
        "env": spec.to_json(), "rollout": {"num_envs": 1, "steps": 32}, "update": {"minibatch": 64},
        "policy": {"hidden": [16], "features": 16}, "evaluation": {"every": 0, "final": 0}, "stop": {"env_steps": 384},
        "execution": {"learner_threads": 1},
    }  # fmt: skip
    result = train(settings=resolve_training(settings, "ppo-3dball"), run=tmp_path)
    assert result.policy.spec.mask == "action_mask"
    env = make(spec, 4)
    obs = env.reset(range(4))
    for _ in range(25):
        action, _ = result.policy.predict(obs, None, None, deterministic=False)
        assert (obs["action_mask"][np.arange(4), action[:, 0]] == 1).all()
        obs = env.step(action).obs
    env.close()


MASKED = {"env": {"id": "tests.odd_environments:Masked"}, "rollout": {"num_envs": 2, "steps": 16}}


@pytest.mark.parametrize("preset", ["dqn", "double-dqn", "dueling", "c51", "qr-dqn", "rainbow", "ape-x", "ppo"])
def test_no_forbidden_choice_is_ever_played(tmp_path, preset):
    """The environment raises at one: in acting, exploring, warming up, and in the random policy of a floor."""
    replayed = {"warm_up": 64, "capacity": 2000, "batch_size": 16}
    more = {"update": {"minibatch": 16}} if preset == "ppo" else {"replay": replayed}
    settings = {
        **MASKED, **more, "policy": {"hidden": [8]}, "stop": {"env_steps": 192},
        "evaluation": {"every": 0, "final": 2, "num_envs": 2}, "execution": {"type": "single"},
    }  # fmt: skip
    result = train(settings=resolve_training(settings, preset), run=tmp_path)
    assert result.policy.spec.mask == "action_mask"


@pytest.mark.parametrize("mixture", [Mixture(0.0, uniform=True), Mixture(0.0, noise=1.0)])
@pytest.mark.parametrize("actions", [gym.spaces.Discrete(5, start=2), BRANCHES])
def test_random_choices_are_allowed_and_equally_likely(mixture, actions):
    class First:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros((4, *actions.shape), np.int64) + getattr(actions, "start", 0), state

    behaviour, obs, start = Behaviour(actions, range(4)), observations(4), np.zeros(4, bool)
    behaviour.begin(mixture, First(), None, 1000)
    played = np.concatenate([behaviour.act(t, obs, start)[0] for t in range(1000)])
    policy = random_policy(actions, 0)
    floor = np.concatenate([policy.predict(obs, episode_start=start)[0] for _ in range(1000)])
    single = policy.predict({key: array[0] for key, array in obs.items()})[0]
    assert single.shape == actions.shape
    for found in (played, floor):
        choices = found if found.ndim == 2 else found[:, None] - 2
        shares = [np.bincount(column, minlength=n) / 4000 for column, n in zip(choices.T, np.atleast_1d(
            getattr(actions, "nvec", 5)), strict=True)]  # fmt: skip
        expected = [[1 / 2, 0, 1 / 2], [1, 0]] if actions is BRANCHES else [[1 / 3, 0, 1 / 3, 1 / 3, 0]]
        for share, exact in zip(shares, expected, strict=True):
            np.testing.assert_allclose(share, exact, atol=0.03)


@pytest.mark.parametrize("preset", ["dqn", "double-dqn", "c51", "qr-dqn"])
def test_targets_do_not_take_a_forbidden_action_for_the_best(preset):
    settings = resolve_training({**MASKED, "policy": {"hidden": [4]}}, preset)
    seen, actions = gym.spaces.Dict({**SEEN.spaces, "action_mask": gym.spaces.Box(0, 1, (2,))}), gym.spaces.Discrete(2)
    net = replayed_policy(replayed_spec(settings, seen, actions), 0, About())
    with torch.no_grad():  # action 1 is worth far more than action 0
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([0.0, 5.0]).repeat(len(net.head.bias) // 2))
        if preset == "c51":
            net.head.bias.view(-1, 2)[-1, 1] = 50.0
    learner, ones = QLearner(net, settings), np.ones(2, np.float32)
    after = {"x": np.zeros((2, 4), np.float32), "action_mask": np.array([[1, 0], [1, 1]], np.float32)}
    batch = ReplayBatch(after, np.zeros(2, np.int64), 0 * ones, ones, after, np.arange(2), ones)
    first, second = learner._targets(batch)
    assert not torch.allclose(first, second)
    if preset != "c51":
        assert first.abs().max() < 1e-6 and torch.allclose(second, torch.tensor(5.0))
    learner.update(batch, 1e-3)
    assert all(np.isfinite(value) and abs(value) < 100 for value in learner.metrics().values())


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "cross_entropy", "jsd", "nll", "mse", "huber"])
def test_a_teacher_without_a_mask_teaches_what_is_allowed(name):
    """Its probability of a forbidden choice is shared out over the others, in losses and in rewards."""
    net, obs = policy(actions=gym.spaces.Discrete(5)), as_tensors(observations(6))
    discrete = Family("categorical", (5,))
    theirs = torch.log(torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]])).repeat(6, 1)
    batch = Batch(obs, targets=(Target(theirs),))
    term = FromTeacher(Distance(name), discrete)
    ours = unit_output(net, batch)
    loss, diagnostics = term.diagnosed_loss(net, batch, ours)
    assert 0 < loss < 10 and all(0 <= value < 10 for value in diagnostics.values())
    loss.backward()
    assert torch.isfinite(net.head.weight.grad).all()
    if name not in ("mse", "huber"):
        rest = [0, 2, 3]
        alone = Distance(name)(Family("categorical", (3,)), theirs[:, rest], Family("categorical", (3,)),
                               ours.params[:, rest])  # fmt: skip
        torch.testing.assert_close(loss, alone.mean())

    class Teacher:
        family = discrete

        def initial_state(self, batch):
            return None

    guide = Guide("teacher", Teacher(), Distance(name), Constant(1.0))
    reward = distance_reward(guide, {"params": theirs.numpy()}, discrete, ours.params.detach().numpy())
    assert np.isclose(-reward.mean(), loss.item(), rtol=1e-4)
