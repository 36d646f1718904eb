"""What is learnt and what acts are the same function."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.policies.arrays import ArrayPolicy
from understudy.policies.policy import Policy
from understudy.policies.q_network import QNetwork
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.policies.weights import named_arrays

OBS, ACTIONS = gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(3)


def policy(seed=0, **fields):
    torch.manual_seed(seed)
    return Policy(PolicySpec(space_to_json(OBS), space_to_json(ACTIONS), "q_values", hidden=(8, 6), **fields))


def seen(n=7):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 5)).astype(np.float32))


def test_dueling_is_value_plus_centred_advantage():
    net = QNetwork(policy(quantiles=4), True, 0.0)
    p = net.parameters
    latent = net.policy.body(seen())
    value = latent[:, :3] @ p["value.weight"].T + p["value.bias"]  # [N, K]
    advantage = (latent[:, 3:] @ p["advantage.weight"].T + p["advantage.bias"]).view(-1, 4, 3)
    expected = value.unsqueeze(2) + advantage - advantage.mean(dim=2, keepdim=True)
    torch.testing.assert_close(net(p, seen()), expected)


def test_noise_is_mu_plus_sigma_times_the_factorised_noise():
    net = QNetwork(policy(), False, 0.5)
    noise = net.noise(np.random.default_rng(3))
    p, x = net.parameters, seen()
    for i, name in enumerate(("body.0", "body.2", "head")):
        e = np.random.default_rng(3)
        drawn = [[e.standard_normal(n, dtype=np.float32) for n in p[f"{m}.weight"].shape] for m in net._layers]
        out, into = (torch.from_numpy(np.sign(v) * np.sqrt(np.abs(v))) for v in drawn[net._layers.index(name)])
        weight = p[f"{name}.weight"] + p[f"{name}.weight_sigma"] * torch.outer(out, into)
        x = x @ weight.T + p[f"{name}.bias"] + p[f"{name}.bias_sigma"] * out
        x = torch.tanh(x) if i < 2 else x
    torch.testing.assert_close(net(p, seen(), noise)[:, 0], x)
    assert float(p["body.2.weight_sigma"].detach()[0, 0]) == pytest.approx(0.5 / np.sqrt(8))


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("fields", [{}, {"quantiles": 5}, {"quantiles": 5, "support": (-2.0, 3.0)}])
def test_the_policy_that_acts_is_what_is_learnt(dueling, sigma, fields):
    """With and without PyTorch; after the learnt parameters have changed."""
    net = QNetwork(policy(**fields), dueling, sigma)
    with torch.no_grad():
        for tensor in net.parameters.values():
            tensor.add_(0.1 * torch.randn(tensor.shape))
    net.write()
    out = net(net.parameters, seen())
    if "support" in fields:
        expected = (out.softmax(1) * torch.linspace(-2, 3, 5)[:, None]).sum(1)
    else:
        expected = out.mean(1)
    torch.testing.assert_close(net.policy.label(seen().numpy())[0].params, expected.detach())
    plain = ArrayPolicy(net.policy.spec, named_arrays(net.policy))
    np.testing.assert_allclose(plain.params(seen().numpy()), expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_writing_noise_leaves_what_is_learnt():
    net = QNetwork(policy(), True, 0.5)
    before = {name: tensor.detach().clone() for name, tensor in net.parameters.items()}
    plain = net.policy.label(seen().numpy())[0].params
    net.write()
    quiet = net.policy.label(seen().numpy())[0].params
    net.write(net.noise(np.random.default_rng(0)))
    assert not torch.equal(net.policy.label(seen().numpy())[0].params, quiet)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.parameters.items())
    assert plain.shape == quiet.shape
