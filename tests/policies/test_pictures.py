"""Pictures in memory and in threads: the same numbers, whoever computes them."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.policies.initialisation import picture_layers, scale_to_data
from understudy.policies.pictures import in_threads, laid_out, rows
from understudy.policies.policy import Policy
from understudy.policies.spec import PICTURES, Encoder, PolicySpec, space_to_json

SPACE = gym.spaces.Dict({"eye": gym.spaces.Box(0, 255, (3, 40, 40), np.uint8), "x": gym.spaces.Box(-1, 1, (2,))})
NETWORKS = [name for name in PICTURES if name not in ("grid_cnn", "grid_mlp")]


def student(kind="nature_cnn", space=SPACE, key="eye"):
    torch.manual_seed(0)
    encoders = (
        Encoder(key, kind, 16, 1.0 if kind.startswith("grid_") else 1 / 255),
        *((Encoder("x", "flatten"),) if key else ()),
    )
    kwargs = {"hidden": (), "value_hidden": ()}
    return Policy(
        PolicySpec(space_to_json(space), space_to_json(gym.spaces.Discrete(3)), "categorical", encoders, **kwargs)
    )


def observations(n):
    rng = np.random.default_rng(0)
    eye = torch.from_numpy(rng.integers(0, 256, (n, 3, 40, 40), dtype=np.uint8))
    return {"eye": eye, "x": torch.from_numpy(rng.uniform(-1, 1, (n, 2)).astype(np.float32))}


def answers(one, obs, weights):
    """Outputs, and the gradient of a weighted sum of them."""
    one.zero_grad()
    out = one(obs)
    ((out.params * weights).sum() + out.value.square().sum()).backward()
    return [out.params.detach(), out.value.detach(), *(p.grad.clone() for p in one.parameters())]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("n", [19, 32])
def test_threads_change_nothing_but_the_order_of_sums(kind, n):
    one, obs, weights = student(kind), observations(n), torch.randn(n, 3)
    expected = answers(one, obs, weights)
    one.threads = 2
    for ours, theirs in zip(answers(one, obs, weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(one(obs).params, expected[0], rtol=1e-4, atol=1e-5)


def test_threads_work_in_the_callers_precision():
    one, obs = student(), observations(32)
    x = obs["eye"]
    plain = in_threads(one.cnns["eye"], x, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = in_threads(one.cnns["eye"], x, 2)
        alone = in_threads(one.cnns["eye"], x, 1)
    assert half.dtype == alone.dtype == torch.bfloat16
    torch.testing.assert_close(half, alone)
    # bfloat16 keeps 8 bits
    assert 0 < (half.float() - plain).abs().max() < 0.05 * plain.abs().max()


@pytest.mark.parametrize("kind", PICTURES)
def test_a_policy_that_sees_in_half_acts_as_before_but_for_the_last_bits(kind):
    whole, half, rng = student(kind), student(kind), np.random.default_rng(1)
    half.see_in_half()
    obs, start = {key: x.numpy() for key, x in observations(8).items()}, np.zeros(8, bool)
    noise = rng.gumbel(size=(8, 3)).astype(np.float32)
    found = []
    for scale in (1.0, 1.5):  # weights are loaded later, too
        weights = {name: scale * tensor for name, tensor in whole.state_dict().items()}
        for policy in (whole, half):
            policy.load_state_dict(weights)
        (_, expected, value, _), (_, log_prob, rounded, _) = (p.act(obs, None, start, noise) for p in (whole, half))
        assert log_prob.dtype == rounded.dtype == np.float32
        np.testing.assert_allclose(log_prob, expected, atol=0.02)
        np.testing.assert_allclose(rounded, value, atol=0.02)
        np.testing.assert_array_equal(half.value_of(obs, None, start), rounded)
        assert (np.abs(rounded - value).max() > 0) == (kind != "grid_mlp"), "which has no convolutions"
        found.append(rounded)
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("kind", NETWORKS)
def test_layers_are_scaled_to_what_the_data_show(kind):
    """A grey picture on which little moves: afterwards no layer is occupied with the grey."""
    one, obs, seen = student(kind), observations(64), []
    obs["eye"] = torch.where(obs["eye"] < 250, torch.tensor(87, dtype=torch.uint8), obs["eye"])
    rest = {name: tensor.clone() for name, tensor in one.state_dict().items() if not name.startswith("cnns.")}
    scale_to_data(one, obs)
    layers = picture_layers(one)
    assert len(layers) == {"nature_cnn": 4, "impala_small": 3, "impala_resnet": 16, "a3c_cnn": 4}[kind]
    for layer in layers:
        layer.register_forward_hook(lambda _, inputs, out: seen.append(out.clone()))
    with torch.no_grad():
        features = one(obs)
    assert torch.isfinite(features.params).all()
    for out in seen:
        deviation, mean = torch.std_mean(out, [dim for dim in range(out.ndim) if dim != 1])
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
        torch.testing.assert_close(deviation, torch.ones_like(mean), atol=1e-3, rtol=0)
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in rest.items())


def test_a_layer_that_shows_nothing_stays_finite():
    one, obs = student(), observations(8)
    obs["eye"].fill_(87)
    scale_to_data(one, obs)
    assert all(torch.isfinite(tensor).all() and tensor.abs().max() < 1e3 for tensor in one.state_dict().values())


def test_an_error_in_a_thread_is_an_error():
    with pytest.raises(RuntimeError, match="shapes"):
        in_threads(torch.nn.Linear(3, 1), torch.zeros(16, 4), 2)


@pytest.mark.parametrize("kind", PICTURES)
def test_the_layout_changes_nothing(kind):
    one, obs = student(kind), observations(6)
    laid = laid_out(one.spec, obs)
    assert laid["x"] is obs["x"] and torch.equal(laid["eye"], obs["eye"])
    assert laid["eye"].is_contiguous(memory_format=torch.channels_last)
    index = torch.tensor([4, 0, 5])
    for x in (laid["eye"], laid["x"]):
        assert torch.equal(rows(x, 0, index), x[index])
    assert rows(laid["eye"], 0, index).is_contiguous(memory_format=torch.channels_last)
    whole, part = (answers(one, each, torch.ones(6, 3)) for each in (laid, obs))
    for ours, theirs in zip(whole, part, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_sequences_keep_the_layout_too():
    spec = student().spec
    obs = {"eye": torch.randint(0, 256, (4, 5, 3, 40, 40), dtype=torch.uint8), "x": torch.zeros(4, 5, 2)}
    laid = laid_out(spec, obs)["eye"]
    taken = rows(laid, 1, torch.tensor([3, 1]))
    assert torch.equal(taken, obs["eye"][:, [3, 1]])
    assert taken.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_pictures_whose_channels_are_last_stay_as_they_are():
    space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
    one = student("nature_cnn", space, "")
    obs = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
    assert laid_out(one.spec, obs) is obs
