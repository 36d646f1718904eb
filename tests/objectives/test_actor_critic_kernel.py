"""The kernel against the autograd path: same terms, same numbers."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from understudy.errors import UserError
from understudy.objectives import rl
from understudy.objectives.actor_critic_kernel import ActorCriticKernel, supports
from understudy.objectives.batch import Batch
from understudy.objectives.objective import Objective
from understudy.objectives.schedules import Constant
from understudy.policies import distributions
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec

FEATURES, N = 5, 24
ACTIONS = {
    "gaussian": gym.spaces.Box(-1, 1, (3,)),
    "categorical": gym.spaces.Discrete(4),
    "multi_categorical": gym.spaces.MultiDiscrete([3, 2, 4]),
}
PLAIN = {
    "clip": 0.2, "value_clip": None, "value_weight": 0.5, "max_grad_norm": 0.5, "normalize_advantage": True,
}  # fmt: skip


def student(family="gaussian", activation="tanh", hidden=(8, 7), value_hidden=(8, 7), seed=1, **options):
    torch.manual_seed(seed)
    options.setdefault("std", "constant" if family == "gaussian" else "none")
    spaces = space_to_json(gym.spaces.Box(-1, 1, (FEATURES,))), space_to_json(ACTIONS[family])
    policy = Policy(
        PolicySpec(*spaces, family, activation=activation, hidden=hidden, value_hidden=value_hidden, **options)
    )
    for parameter in policy.parameters():
        parameter.data.mul_(2)
    if family == "gaussian":
        policy.log_std.data.copy_(torch.tensor([0.3, -0.5, 0.1]))
    return policy


def data(policy, n=N, seed=0, spread=0.3):
    """States, actions of the policy, and log-probabilities and values of a policy not far from it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    with torch.no_grad():
        output = policy(x)
        action = distributions.sample(policy.family, output.params, generator)
        log_prob = distributions.log_prob(policy.family, output.params, action)
    log_prob = log_prob + spread * torch.randn(n, generator=generator)
    old_value = output.value + spread * torch.randn(n, generator=generator)
    advantage, target = 2 * torch.randn(2, n, generator=generator) + 0.5
    return x, action, log_prob, advantage, target, old_value


def arrays(columns):
    return [column.numpy() for column in columns]


def objective(options, entropy_weight):
    return Objective([
        rl.PolicyGradient(clip=options["clip"], normalize=options["normalize_advantage"]),
        rl.ValueRegression(Constant(options["value_weight"]), clip=options["value_clip"]),
        rl.EntropyBonus(Constant(entropy_weight)),
    ])  # fmt: skip


def autograd(policy, columns, options, entropy_weight):
    batch = Batch(columns[0], None, None, None, None, None, *columns[1:])
    return objective(options, entropy_weight)(policy, batch, 0)


def assert_same_gradient(kernel, policy, columns, options, entropy_weight):
    loss, parts = autograd(policy, columns, options, entropy_weight)
    names, parameters = zip(*policy.named_parameters(), strict=True)
    theirs = dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
    ours = kernel.named(kernel.gradient(*arrays(columns), entropy_weight))
    assert set(ours) == set(theirs)
    scale = max(g.abs().max().item() for g in theirs.values())
    for name, gradient in theirs.items():
        assert np.abs(ours[name] - gradient.numpy()).max() < 1e-5 * scale, name
    return parts


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value_clip", [None, 0.2])
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("family", ACTIONS)
def test_gradient_and_metrics_equal_autograd(family, clip, value_clip, normalize, entropy_weight):
    options = PLAIN | {"clip": clip, "value_clip": value_clip, "normalize_advantage": normalize}
    policy = student(family)
    columns = data(policy)
    assert supports(policy.spec)
    kernel = ActorCriticKernel.from_policy(policy, N, **options)
    parts = assert_same_gradient(kernel, policy, columns, options, entropy_weight)
    if clip:
        assert 0.1 < parts["clip_fraction"] < 0.9  # both branches were seen
    assert kernel.metrics() == {}
    kernel.step(*arrays(columns), lr=0.0, entropy_weight=entropy_weight)
    assert kernel.approx_kl == pytest.approx(parts["approx_kl"].item(), rel=1e-4)
    metrics = kernel.metrics()
    expected = {name: part.item() for name, part in parts.items()} | {"grad_norm": metrics["grad_norm"]}
    for name, number in metrics.items():
        assert number == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    assert ("clip_fraction" in metrics) == (clip is not None)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(kernel.gradient(*arrays(columns), entropy_weight)))


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("hidden,value_hidden", [((8,), (8,)), ((8, 7), (6,)), ((4,), (9, 3, 5)), ((6, 9, 4),) * 2])
def test_gradient_for_every_activation_and_shape(activation, hidden, value_hidden):
    policy = student(activation=activation, hidden=hidden, value_hidden=value_hidden)
    kernel = ActorCriticKernel.from_policy(policy, 2 * N, **PLAIN)
    for n in (1, N, 2 * N):  # also batches smaller than the buffers
        assert_same_gradient(kernel, policy, data(policy, n), PLAIN, 0.01)


@pytest.mark.parametrize("family", ACTIONS)
@pytest.mark.parametrize("max_norm", [None, 0.5, 100.0])
def test_fifty_steps_equal_torch_adam(family, max_norm):
    reference, policy = student(family), student(family)
    options = PLAIN | {"max_grad_norm": max_norm, "value_clip": 0.2}
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, eps=1e-5)
    kernel = ActorCriticKernel.from_policy(policy, N, **options)
    for step in range(50):
        columns = data(reference, seed=step)
        lr = optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 100)
        optimizer.zero_grad()
        autograd(reference, columns, options, 0.01)[0].backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), max_norm)
        optimizer.step()
        kernel.step(*arrays(columns), lr=lr, entropy_weight=0.01)
    for ours, theirs in zip(policy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=2e-5)
    assert not torch.equal(policy.head.weight, student(family).head.weight)  # the policy itself was trained


@pytest.mark.parametrize("family", ACTIONS)
def test_evaluate_in_chunks(family):
    policy = student(family)
    kernel = ActorCriticKernel.from_policy(policy, 10, **PLAIN)
    x, action, *_ = data(policy)
    log_prob, value = kernel.evaluate(x.numpy(), action.numpy())
    output = policy(x)
    expected = distributions.log_prob(policy.family, output.params, action).detach().numpy()
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, output.value.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kernel.values(x.numpy()), value)
    assert len(kernel.values(x.numpy()[:0])) == 0
    if family != "gaussian":
        with pytest.raises(ValueError, match="outside of its"):
            kernel.evaluate(x.numpy(), action.numpy() + 4)


def test_first_step_of_adam_by_hand():
    # After one step m / (sqrt(v) + eps), corrected, is g / (|g| + eps): the step is lr, against the gradient's sign.
    policy = student()
    kernel = ActorCriticKernel.from_policy(policy, N, **PLAIN)
    columns, before = arrays(data(policy)), kernel.parameters.copy()
    gradient = kernel.gradient(*columns).copy()
    gradient *= 0.5 / np.linalg.norm(gradient)  # it is longer than max_grad_norm
    kernel.step(*columns, lr=0.1)
    np.testing.assert_allclose(before - kernel.parameters, 0.1 * gradient / (np.abs(gradient) + 1e-5), atol=2e-4)


def test_resume_is_exact():
    first, second = student(), student(seed=2)
    a, b = (ActorCriticKernel.from_policy(p, N, **PLAIN) for p in (first, second))
    columns = arrays(data(first))
    for _ in range(3):
        a.step(*columns, lr=1e-2, entropy_weight=0.01)
    b.restore(*a.state())
    for kernel in (a, b):
        kernel.step(*columns, lr=1e-2, entropy_weight=0.01)
    for (name, ours), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    with pytest.raises(UserError, match="same network"):
        b.restore({**a.state()[0], "m": np.zeros(1)}, {"steps": 1})


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("family", ACTIONS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_is_not_hidden(family, column):
    if column == 1 and family != "gaussian":
        pytest.skip("indices are integers")
    policy = student(family, activation="relu")
    kernel = ActorCriticKernel.from_policy(policy, N, **PLAIN | {"value_clip": 0.2})
    columns = [c.copy() for c in arrays(data(policy))]
    columns[column][3] = np.nan
    kernel.step(*columns, lr=1e-3, entropy_weight=0.01)
    metrics = kernel.metrics()
    assert not np.isfinite(metrics["loss"])
    if column < 5:  # old values only choose between errors; the gradient leaves the state out
        assert not np.isfinite(metrics["grad_norm"]) and not np.isfinite(kernel.parameters).all()


def test_refusals():
    for options in (
        {"std": "state"}, {"value_hidden": None}, {"hidden": ()}, {"activation": "gelu"}, {"unit_actions": False},
        {"lstm": 4}, {"mean_clip": 2.0},
    ):  # fmt: skip
        policy = student(**options) if options.get("std") != "state" else None
        spec = policy.spec if policy else PolicySpec(*[space_to_json(ACTIONS["gaussian"])] * 2, "gaussian", std="state")
        assert not supports(spec), options
    with pytest.raises(UserError, match="does not cover this gaussian student; use autograd"):
        ActorCriticKernel.from_policy(student(activation="gelu"), N, **PLAIN)
    assert supports(student("categorical", unit_actions=False).spec)
    kernel = ActorCriticKernel.from_policy(student(), N, **PLAIN)
    with pytest.raises(ValueError, match="built for 1 to 24"):
        kernel.step(*arrays(data(student(), N + 1)), lr=1e-3)


@pytest.mark.parametrize("kind", ["nature_cnn", "impala_small", "impala_resnet", "a3c_cnn", "grid_cnn", "grid_mlp"])
def test_networks_that_read_pictures_are_refused(kind):
    """The kernel would leave them as they were initialised: only layers after the encoders learn in it."""
    spaces = gym.spaces.Box(0, 255, (3, 40, 40), np.uint8), ACTIONS["categorical"]
    encoder = Encoder("", kind, 0 if kind == "a3c_cnn" else 8)
    assert not supports(PolicySpec(*map(space_to_json, spaces), "categorical", (encoder,), value_hidden=(4,)))
