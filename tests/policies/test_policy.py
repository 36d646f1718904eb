"""Policies: NumPy equals PyTorch, predict's conventions, memory, files."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.errors import UserError
from understudy.policies.arrays import ArrayPolicy, supports
from understudy.policies.files import load_policy, save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spec import PolicySpec, default_encoders, space_to_json
from understudy.policies.weights import named_arrays

VECTOR = gym.spaces.Box(-np.inf, np.inf, (5,), np.float64)
BOX = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
DICT = gym.spaces.Dict(
    {"a": gym.spaces.Box(-1, 1, (2, 2)), "b": gym.spaces.Discrete(3), "c": gym.spaces.MultiDiscrete([2, 4])}
)
TRUTHS = gym.spaces.Dict({"x.y": gym.spaces.Box(0, 1, (3,), np.bool_), "x": gym.spaces.Box(0, 1, (2,), np.bool_)})

LATE = gym.spaces.Dict({"a": DICT["a"], "c": gym.spaces.MultiDiscrete([2, 4], start=[-1, 3])})


def spec(family, observations=VECTOR, actions=BOX, **options):
    return PolicySpec(
        space_to_json(observations), space_to_json(actions), family, default_encoders(observations), **options
    )


def policy(*args, **options):
    torch.manual_seed(0)
    built = Policy(spec(*args, **options)).eval()
    for name, buffer in built.named_buffers():
        with torch.no_grad():
            buffer.copy_(torch.rand(buffer.shape) + ("var" in name))
    return built


CASES = {
    "gaussian": policy("gaussian", std="constant", normalized=("",)),
    "gaussian gsde": policy("gaussian", std="gsde", unit_actions=False),
    "squashed": policy("squashed_gaussian", std="state", activation="relu", mean_clip=2.0),
    "deterministic": policy("deterministic", hidden=(16,), activation="elu", head_activation="tanh"),
    "linear": policy("deterministic", hidden=(), head_bias=False),
    "silu": policy("deterministic", activation="silu", normalized=("",), normalizer_clip=1.0),
    "categorical": policy("categorical", actions=gym.spaces.Discrete(4, start=2)),
    "q values": policy("q_values", actions=gym.spaces.Discrete(3), quantiles=5),
    "multi discrete": policy("multi_categorical", actions=gym.spaces.MultiDiscrete([2, 3])),
    "late parts": policy("multi_categorical", LATE, gym.spaces.MultiDiscrete([3, 2], start=[1, -1])),
    "dict": policy("categorical", DICT, gym.spaces.Discrete(4), normalized=("a",)),
    "true or false": policy("categorical", TRUTHS, gym.spaces.Discrete(4), normalized=("x.y",)),
}


def observations(space, n, seed=0):
    space.seed(seed)
    if isinstance(space, gym.spaces.Dict):
        rows = [space.sample() for _ in range(n)]
        return {key: np.stack([row[key] for row in rows]) for key in space.spaces}
    return np.random.default_rng(seed).normal(0, 3, (n, *space.shape))


@pytest.mark.parametrize("name", CASES)
def test_numpy_equals_torch(name):
    torch_policy = CASES[name]
    assert supports(torch_policy.spec)
    numpy_policy = ArrayPolicy(torch_policy.spec, named_arrays(torch_policy))
    obs = observations(torch_policy.observation_space, 64)
    expected, _ = torch_policy.predict(obs, deterministic=True)
    actual, _ = numpy_policy.predict(obs, deterministic=True)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert all(torch_policy.action_space.contains(a) for a in actual)
    np.testing.assert_allclose(
        numpy_policy.params(obs),
        torch_policy(
            torch.as_tensor(obs) if not isinstance(obs, dict) else {k: torch.as_tensor(v) for k, v in obs.items()}
        )
        .params.detach()
        .numpy(),
        atol=1e-4,
    )


@pytest.mark.parametrize("name", CASES)
def test_one_observation_has_no_batch_axis(name):
    one = CASES[name]
    batch = observations(one.observation_space, 1)
    single = {k: v[0] for k, v in batch.items()} if isinstance(batch, dict) else batch[0]
    for each in (one, ArrayPolicy(one.spec, named_arrays(one))):
        action, _ = each.predict(single, deterministic=True)
        np.testing.assert_allclose(action, each.predict(batch, deterministic=True)[0][0], atol=1e-6)
        assert one.action_space.contains(np.asarray(action))


def test_label_speaks_in_unit_actions():
    # In environment units the mean of action 0 is 1.0 with bounds -2..2: half way up, with half the deviation.
    network = policy("gaussian", std="constant", unit_actions=False, hidden=())
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([1.0, 0.75]))
        network.log_std.copy_(torch.log(torch.tensor([0.5, 0.5])))
    target, _ = network.label(np.zeros((1, 5)))
    np.testing.assert_allclose(target.params[0], [0.5, 0.5, np.log(0.25), np.log(1.0)], atol=1e-6)
    np.testing.assert_allclose(network.predict(np.zeros(5), deterministic=True)[0], [1.0, 0.75], atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_memory_is_reset_where_an_episode_starts(cell):
    recurrent = policy("deterministic", lstm=8, lstm_layers=2, cell=cell)
    obs = torch.randn(6, 3, 5, dtype=torch.float64)
    start = torch.zeros(6, 3, dtype=torch.bool)
    start[0] = True
    start[2, 1] = start[4, 0] = start[4, 2] = True
    whole = recurrent(obs, recurrent.initial_state(3), start).params.detach().numpy()
    for column, begin, end in ((1, 2, 6), (0, 4, 6), (1, 0, 2), (0, 0, 4)):
        part = recurrent(obs[begin:end, column : column + 1], recurrent.initial_state(1), None).params
        np.testing.assert_allclose(whole[begin:end, column], part.detach().numpy()[:, 0], atol=1e-6)
    state = None
    for t in range(6):
        action, state = recurrent.predict(obs[t].numpy(), state, start[t].numpy(), deterministic=True)
        np.testing.assert_allclose(np.clip(whole[t], -1, 1) * [2, 0.5] + [0, 0.5], action, atol=1e-5)


def test_a_gru_is_the_textbook_s():
    one = policy("deterministic", lstm=3, cell="gru", hidden=())
    weights = {name: tensor.detach().double().numpy() for name, tensor in one.lstm.named_parameters()}
    obs, h = torch.randn(4, 1, 5, dtype=torch.float64), np.zeros(3)
    for x in one.encode(obs[:, 0]).double().numpy():
        new = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
        old = weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
        r, z = (1 / (1 + np.exp(-(new[i : i + 3] + old[i : i + 3]))) for i in (0, 3))
        h = (1 - z) * np.tanh(new[6:] + r * old[6:]) + z * h
    with torch.no_grad():
        _, _, state = one(obs, one.initial_state(1), torch.zeros(4, 1, dtype=torch.bool))
    np.testing.assert_allclose(state[0].numpy().ravel(), h, atol=1e-6)
    assert not state[1].any()


def test_images_in_either_layout():
    space = gym.spaces.Box(0, 255, (3, 40, 44), np.uint8)
    cnn = policy("categorical", space, gym.spaces.Discrete(3))
    image = space.sample()
    first, _ = cnn.predict(image, deterministic=True)
    last, _ = cnn.predict(np.moveaxis(image, 0, -1), deterministic=True)
    assert first == last and first.shape == ()


def test_wrong_observations_are_refused():
    with pytest.raises(UserError, match=r"shape \(4,\), the policy expects \(5,\)"):
        CASES["gaussian"].predict(np.zeros(4))
    with pytest.raises(UserError, match="pass the observation"):
        CASES["gaussian"].predict((np.zeros(5), {}))
    with pytest.raises(UserError, match="lacks the keys b"):
        CASES["dict"].predict({"a": np.zeros((2, 2)), "c": np.zeros(2)})


@pytest.mark.parametrize("name", CASES)
def test_file_round_trip(name, tmp_path):
    saved = CASES[name]
    saved.about = About("PPO", notes=["a note"])
    loaded = load_policy(save_policy(saved, tmp_path / "p.safetensors"))
    assert loaded.spec == saved.spec and loaded.about.notes == ["a note"]
    obs = observations(saved.observation_space, 4)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], saved.predict(obs, deterministic=True)[0])


def test_damaged_files_are_refused(tmp_path):
    path = save_policy(CASES["gaussian"], tmp_path / "p.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        load_policy(path)
    with pytest.raises(UserError, match="does not exist"):
        load_policy(tmp_path / "nothing.safetensors")


def test_nan_is_never_saved(tmp_path):
    broken = policy("deterministic")
    path = save_policy(broken, tmp_path / "p.safetensors")
    before = path.read_bytes()
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    with pytest.raises(UserError, match="head.bias holds NaN"):
        save_policy(broken, path)
    assert path.read_bytes() == before
