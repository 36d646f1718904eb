"""Action masks: what a state forbids has no probability, in both forward passes, in losses, and over a whole run."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.envs.unity_helpers import scene

from understudy.envs.make import make
from understudy.objectives import actor_critic_kernel
from understudy.policies.arrays import ArrayPolicy
from understudy.policies.policy import About, Policy, as_tensors
from understudy.policies.spec import ABSENT, mask_of
from understudy.policies.weights import named_arrays
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
