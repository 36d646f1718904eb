"""The kernel against the autograd path: same distance object, same numbers."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from understudy.errors import UserError
from understudy.objectives.distances import Distance
from understudy.objectives.mlp_kernel import MLPKernel, supports
from understudy.policies.family import Family
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec

FEATURES, ACTIONS, N = 5, 3, 24
CONTINUOUS = [
    ("deterministic", Distance("mse")),
    ("gaussian", Distance("mse", saturate=False)),
    ("squashed_gaussian", Distance("mse")),
    ("deterministic", Distance("huber", delta=0.3)),
    ("gaussian", Distance("huber", delta=0.3, saturate=False)),
]
DISCRETE = [
    ("categorical", Distance("forward_kl")),
    ("categorical", Distance("forward_kl", temperature=0.5)),
    ("categorical", Distance("cross_entropy", temperature=2.0, temperature_of="both")),
    ("q_values", Distance("forward_kl")),
    ("q_values", Distance("nll")),
    ("categorical", Distance("mse")),
]


def student(family="deterministic", activation="tanh", hidden=(8, 7)):
    torch.manual_seed(1)
    obs = gym.spaces.Box(-1, 1, (FEATURES,))
    actions = gym.spaces.Box(-1, 1, (ACTIONS,)) if family == "deterministic" else gym.spaces.Discrete(ACTIONS)
    spec = PolicySpec(space_to_json(obs), space_to_json(actions), family, hidden=hidden, activation=activation)
    policy = Policy(spec)
    for parameter in policy.parameters():  # large enough for outputs beyond the bounds
        parameter.data.mul_(2)
    return policy


def data(family, n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    params = 1.2 * torch.randn(n, family.param_size, generator=generator)
    return x, params, (torch.rand(n, generator=generator) > 0.3).float()


def autograd_loss(policy, teacher, distance, x, params, weight):
    d = distance(teacher, params, policy.family, policy(x).params)
    return d.mean() if weight is None else (d * weight).sum() / weight.sum()


def flat_gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def teacher_family(name):
    return Family(name, (ACTIONS,))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("teacher,distance", CONTINUOUS + DISCRETE)
def test_gradient_and_loss_equal_autograd(teacher, distance, weighted):
    discrete = (teacher, distance) in DISCRETE
    policy, teacher = student("categorical" if discrete else "deterministic"), teacher_family(teacher)
    x, params, weight = data(teacher)
    weight = weight if weighted else None
    loss = autograd_loss(policy, teacher, distance, x, params, weight)
    loss.backward()
    assert supports(policy.spec, teacher, distance)
    kernel = MLPKernel.from_policy(policy, teacher, distance, N)
    ours, theirs = kernel.gradient(x, kernel.prepare(params), weight), flat_gradient(policy)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert kernel.loss() == pytest.approx(loss.item(), rel=1e-5)
    assert kernel.loss() == 0.0


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu", "identity"])
@pytest.mark.parametrize("hidden", [(), (8,), (6, 9, 4)])
def test_gradient_for_every_activation_and_depth(activation, hidden):
    policy, teacher, distance = (
        student(activation=activation, hidden=hidden),
        teacher_family("gaussian"),
        Distance("mse"),
    )
    x, params, _ = data(teacher)
    autograd_loss(policy, teacher, distance, x, params, None).backward()
    kernel = MLPKernel.from_policy(policy, teacher, distance, 2 * N)  # a batch smaller than the buffers
    ours, theirs = kernel.gradient(x, kernel.prepare(params)), flat_gradient(policy)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_gradient_of_one_linear_unit_by_hand():
    # y = 2 * 0.5 + 0.25 = 1.25, target 0.5: D = 0.75^2, dD/dw = 2 * 0.75 * 0.5, dD/db = 2 * 0.75.
    one = Family("deterministic", (1,))
    kernel = MLPKernel([np.full((1, 1), 2.0)], [np.full(1, 0.25)], "tanh", Distance("mse"), one, one, 1)
    gradient = kernel.gradient(torch.tensor([[0.5]]), kernel.prepare(torch.tensor([[0.5]])))
    assert gradient.tolist() == [0.75, 1.5]
    assert kernel.loss() == 0.5625
    # The teacher's action 3 is executed as 1; the student's 1.25 is too: nothing to learn.
    assert kernel.gradient(torch.tensor([[0.5]]), kernel.prepare(torch.tensor([[3.0]]))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("max_norm", [None, 0.05, 100.0])
def test_hundred_steps_equal_torch_adam(max_norm):
    teacher, distance = teacher_family("deterministic"), Distance("mse")
    reference, policy = student(), student()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    kernel = MLPKernel.from_policy(policy, teacher, distance, N, max_grad_norm=max_norm)
    for step in range(100):
        x, params, _ = data(teacher, seed=step)
        lr = optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 100)
        optimizer.zero_grad()
        autograd_loss(reference, teacher, distance, x, params, None).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), max_norm)
        optimizer.step()
        kernel.step(x, kernel.prepare(params), lr)
    for ours, theirs in zip(policy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=1e-5)


def test_adam_first_step_by_hand():
    # After one step m = (1 - b1) g, v = (1 - b2) g^2; corrected, the step is lr * g / (|g| + eps) = lr * sign(g).
    one = Family("deterministic", (1,))
    kernel = MLPKernel([np.full((1, 1), 2.0)], [np.full(1, 0.25)], "tanh", Distance("mse"), one, one, 1)
    kernel.step(torch.tensor([[0.5]]), kernel.prepare(torch.tensor([[0.5]])), lr=0.1)
    assert kernel.weights[0].item() == pytest.approx(1.9) and kernel.biases[0].item() == pytest.approx(0.15)


def test_resume_is_exact_and_the_policy_follows():
    teacher, distance = teacher_family("deterministic"), Distance("huber")
    first, second = student(), student()
    a, b = (MLPKernel.from_policy(p, teacher, distance, N) for p in (first, second))
    x, params, weight = data(teacher)
    target = a.prepare(params)
    before = first(x).params.detach().clone()
    for _ in range(3):
        a.step(x, target, 1e-2, weight)
    b.restore(*a.state())
    for kernel in (a, b):
        kernel.step(x, target, 1e-2, weight)
    assert torch.equal(first(x).params, second(x).params) and not torch.equal(first(x).params, before)
    with pytest.raises(UserError, match="same network"):
        b.restore({**a.state()[0], "m": np.zeros(1)}, {"steps": 1})
    named = a.named(a.parameters)
    assert all(np.array_equal(array, first.state_dict()[name].numpy()) for name, array in named.items())
    assert len(named) == len(first.state_dict())


def test_refusals():
    policy, q = student("categorical"), teacher_family("q_values")
    assert not supports(policy.spec, q, Distance("reverse_kl"))
    with pytest.raises(UserError, match="use autograd"):
        MLPKernel.from_policy(policy, q, Distance("reverse_kl"), N)
    with pytest.raises(UserError, match="no activation 'gelu'"):
        MLPKernel([np.ones((ACTIONS, 2))], [np.ones(ACTIONS)], "gelu", Distance("nll"), q, policy.family, N)
