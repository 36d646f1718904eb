"""``act`` and ``value_of``: NumPy equals PyTorch, log-probabilities are those of the distributions, memory resets."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.policies import distributions
from understudy.policies.arrays import ArrayPolicy, supports
from understudy.policies.initialisation import orthogonal_init
from understudy.policies.policy import Policy
from understudy.policies.spec import Encoder, PolicySpec, default_encoders, space_to_json
from understudy.policies.weights import named_arrays

VECTOR = gym.spaces.Box(-np.inf, np.inf, (5,), np.float64)
BOX = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
DICT = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2, 2)), "b": gym.spaces.Discrete(3)})


def policy(family, observations=VECTOR, actions=BOX, encoders=(), **options):
    torch.manual_seed(0)
    encoders = encoders or default_encoders(observations)
    built = Policy(PolicySpec(space_to_json(observations), space_to_json(actions), family, encoders, **options)).eval()
    with torch.no_grad():
        for name, buffer in built.named_buffers():
            buffer.copy_(torch.rand(buffer.shape) + ("var" in name))
        for name, parameter in built.named_parameters():
            if name.endswith("bias") or name == "log_std":  # what is 0 at first would hide mistakes
                parameter.normal_(std=0.5)
    return built


CASES = {
    "gaussian": policy("gaussian", std="constant", normalized=("",), value_hidden=(64, 64)),
    "gaussian, one vector": policy("gaussian", std="constant", value_hidden=(), hidden=()),
    "gaussian, other depths": policy("gaussian", std="constant", value_hidden=(16,)),
    "gaussian, wide": policy("gaussian", std="constant", hidden=(128, 128), value_hidden=(128, 128)),
    "gaussian in env units": policy("gaussian", std="constant", unit_actions=False, value_hidden=(64, 64)),
    "gaussian without value": policy("gaussian", std="constant"),
    "gaussian, state std": policy("gaussian", std="state", activation="relu", value_hidden=(8, 8), hidden=(8, 8)),
    "gsde": policy("gaussian", std="gsde", value_hidden=(64, 64)),
    "squashed": policy("squashed_gaussian", std="state", activation="elu", value_hidden=(64, 64)),
    "deterministic": policy("deterministic", value_hidden=(64, 64), head_activation="tanh"),
    "deterministic in env units": policy("deterministic", value_hidden=(64, 64), unit_actions=False),
    "categorical": policy("categorical", actions=gym.spaces.Discrete(4, start=2), value_hidden=(64, 64)),
    "multi categorical": policy("multi_categorical", actions=gym.spaces.MultiDiscrete([2, 3]), value_hidden=(64, 64)),
    "q values": policy("q_values", actions=gym.spaces.Discrete(3), quantiles=5),
    "dict": policy("categorical", DICT, gym.spaces.Discrete(4), normalized=("a",), value_hidden=(64, 64)),
}


def observations(space, n):
    rng = np.random.default_rng(0)
    if isinstance(space, gym.spaces.Dict):
        return {"a": rng.uniform(-1, 1, (n, 2, 2)).astype(np.float32), "b": rng.integers(0, 3, n)}
    return rng.normal(0, 2, (n, 5))


def noise_for(one, n):
    rng, family = np.random.default_rng(1), one.family
    if family.continuous:
        return rng.standard_normal((n, sum(family.sizes)), dtype=np.float32)
    return rng.gumbel(size=(n, family.param_size)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_numpy_equals_torch(name):
    one = CASES[name]
    twin, start = ArrayPolicy(one.spec, named_arrays(one)), np.zeros(32, bool)
    obs, noise = observations(one.observation_space, 32), noise_for(one, 32)
    expected, actual = one.act(obs, None, start, noise), twin.act(obs, None, start, noise)
    for ours, theirs in zip(actual[:3], expected[:3], strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)
    assert actual[3] is expected[3] is None
    for each in (one, twin):
        value = each.value_of(obs, None, start)
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_log_probability_is_that_of_the_choice(name):
    one = CASES[name]
    obs, noise = observations(one.observation_space, 32), noise_for(one, 32)
    choice, log_prob, value, _ = one.act(obs, None, np.zeros(32, bool), noise)
    target, _ = one.label(obs)
    if one.family.stochastic:
        expected = distributions.log_prob(one.family, target.params, torch.as_tensor(choice))
        np.testing.assert_allclose(log_prob, expected.numpy(), rtol=1e-3, atol=1e-3)
    else:
        assert not log_prob.any()
        np.testing.assert_allclose(choice, distributions.mode(one.family, target.params).numpy(), atol=1e-6)
    np.testing.assert_allclose(value, np.zeros(32) if target.value is None else target.value.numpy(), atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 6.0, 9.0])
@pytest.mark.parametrize("std", ["state", "constant"])
def test_a_policy_that_has_not_changed_has_a_ratio_of_1_where_the_tanh_saturates(mean, std):
    """What learning finds of the stored action is what acting stored, though the tanh rounds most of them to 1."""
    one = policy("squashed_gaussian", std=std, value_hidden=(64, 64))
    with torch.no_grad():
        one.head.bias.fill_(mean)
    obs, start, noise = observations(VECTOR, 256), np.zeros(256, bool), noise_for(one, 256)
    for each in (one, ArrayPolicy(one.spec, named_arrays(one))):
        choice, log_prob, _, _ = each.act(obs, None, start, noise)
        known = distributions.log_prob(one.family, one.label(obs)[0].params, torch.as_tensor(choice))
        np.testing.assert_allclose(np.exp(known.numpy() - log_prob), 1, atol=1e-3)
        assert choice.dtype == log_prob.dtype == np.float32
    if mean == 9:  # the samples' own density is another
        _, exact = distributions.choose(one.family, one.label(obs)[0].params, torch.as_tensor(noise))
        assert np.abs(exact.numpy() - log_prob).max() > 1


def test_gumbel_noise_samples_the_softmax():
    one = CASES["categorical"]
    obs = np.repeat(observations(VECTOR, 1), 20_000, axis=0)
    choice, _, _, _ = one.act(obs, None, np.zeros(len(obs), bool), noise_for(one, len(obs)))
    expected = one.label(obs[:1])[0].params.softmax(-1)[0].numpy()
    # 4 standard deviations of a share of 20000 are at most 0.0142
    np.testing.assert_allclose(np.bincount(choice, minlength=4) / len(choice), expected, atol=0.0142)


def test_new_weights_are_copied():
    one = policy("gaussian", actions=gym.spaces.Box(-1, 1, (1,)), std="constant", value_hidden=(64, 64))
    twin = ArrayPolicy(one.spec, named_arrays(one))
    obs, start, noise = observations(VECTOR, 4), np.zeros(4, bool), noise_for(one, 4)
    before = [
        a.copy() for a in (*twin.act(obs, None, start, noise)[:3], twin.params(obs), twin.value_of(obs, None, start))
    ]
    orthogonal_init(one)
    after = [*twin.act(obs, None, start, noise)[:3], twin.params(obs), twin.value_of(obs, None, start)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    twin.update(named_arrays(one))
    np.testing.assert_allclose(twin.act(obs, None, start, noise)[2], one.value_of(obs, None, start), atol=1e-6)


def test_memory_step_by_step_is_the_whole_sequence():
    one = policy("categorical", actions=gym.spaces.Discrete(4), lstm=8, lstm_layers=2, value_hidden=(16,))
    obs = np.random.default_rng(0).normal(size=(6, 3, 5))
    start = np.zeros((6, 3), bool)
    start[0] = start[2, 1] = start[4, 0] = start[4, 2] = True
    whole = one(torch.as_tensor(obs), one.initial_state(3), torch.as_tensor(start))
    logs = whole.params.log_softmax(-1).detach().numpy()
    state = None
    for t in range(6):
        value = one.value_of(obs[t], state, start[t])
        choice, log_prob, acted_value, state = one.act(obs[t], state, start[t], noise_for(one, 3))
        np.testing.assert_allclose(log_prob, logs[t, np.arange(3), choice], atol=1e-6)
        np.testing.assert_allclose(acted_value, whole.value[t].detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(value, acted_value, atol=1e-6)
    np.testing.assert_allclose(state[0], whole.state[0].detach().numpy(), atol=1e-6)
    # What came before the start of an episode does not matter.
    wild = tuple(100 * np.ones_like(s) for s in state)
    fresh = one.act(obs[0], None, np.ones(3, bool), noise_for(one, 3))
    np.testing.assert_array_equal(one.act(obs[0], wild, np.ones(3, bool), noise_for(one, 3))[2], fresh[2])


def orthogonal_gain(weight):
    """The one singular value of all, or nan."""
    singular = torch.linalg.svdvals(weight.flatten(1))
    return float(singular[0]) if torch.allclose(singular, singular[0], rtol=1e-4) else float("nan")


def test_orthogonal_weights_do_not_depend_on_the_cores():
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            one = policy("gaussian", gym.spaces.Box(-1, 1, (3000,)), hidden=(512,))
            orthogonal_init(one)
            found.append(named_arrays(one)["body.0.weight"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_orthogonal_init():
    space = gym.spaces.Dict({"eye": gym.spaces.Box(0, 255, (42, 42, 3), np.uint8), "x": gym.spaces.Box(-1, 1, (3,))})

    def fresh(seed):
        torch.manual_seed(seed)
        encoders = default_encoders(space, picture="impala_small", cnn_features=16)
        spec = PolicySpec(
            space_to_json(space), space_to_json(BOX), "gaussian", encoders, std="constant", lstm=8, value_hidden=(8,)
        )
        one = Policy(spec)
        orthogonal_init(one, head_gain=0.02, value_gain=0.5)
        return one

    one = fresh(0)
    for name, parameter in one.named_parameters():
        if name == "log_std" or "bias" in name:
            assert not parameter.any(), name
            continue
        expected = {"head.weight": 0.02, "value_head.weight": 0.5}.get(name, 1.0 if "lstm" in name else np.sqrt(2))
        assert orthogonal_gain(parameter.detach()) == pytest.approx(expected, rel=1e-4), name
    again, other = fresh(0), fresh(1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


PICTURE, PICTURE_LAST = gym.spaces.Box(0, 255, (2, 13, 13), np.uint8), gym.spaces.Box(0, 255, (9, 12, 1), np.uint8)
WITH_MEMORY = {
    "two layers": (VECTOR, (), {"lstm": 8, "lstm_layers": 2, "normalized": ("",)}),
    "wide": (VECTOR, (), {"lstm": 256}),
    "gru": (VECTOR, (), {"lstm": 8, "lstm_layers": 2, "cell": "gru", "normalized": ("",)}),
    "pictures": (PICTURE, (Encoder("", "a3c_cnn", 0, 1 / 255),), {"lstm": 16}),
    "channels last": (PICTURE_LAST, (Encoder("", "a3c_cnn", 0, 1.0),), {"lstm": 4, "hidden": (8,)}),
    "pictures without memory": (PICTURE, (Encoder("", "a3c_cnn", 0, 1 / 255),), {}),
}


@pytest.mark.parametrize("name", WITH_MEMORY)
@pytest.mark.parametrize("batch", [1, 3])
def test_numpy_remembers_and_sees_what_torch_does(name, batch):
    space, encoders, options = WITH_MEMORY[name]
    one = policy("categorical", space, gym.spaces.Discrete(4), encoders, **{"value_hidden": (16,), **options})
    twin = ArrayPolicy(one.spec, named_arrays(one))
    assert supports(one.spec)
    states, predicted = [None, None], [None, None]
    space.seed(0)
    for t in range(5):
        obs, noise = np.stack([space.sample() for _ in range(batch)]), noise_for(one, batch)
        start = np.array([t in (0, 3), t == 2, False][:batch])
        for who, each in enumerate((one, twin)):
            value = each.value_of(obs, states[who], start)
            choice, log_prob, acted, states[who] = each.act(obs, states[who], start, noise)
            action, predicted[who] = each.predict(obs, predicted[who], start, True)
            np.testing.assert_allclose(value, acted, atol=1e-6)
            if who == 0:
                expected = (choice, log_prob, acted, action)
        for ours, theirs in zip((choice, log_prob, acted, action), expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(states[1] or (), states[0] or (), strict=True):
            assert ours.dtype == np.float32 and ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
