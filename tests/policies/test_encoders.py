"""Encoders: sizes against the papers, gradients, padding, layouts, files, and what is refused."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.errors import UserError
from understudy.policies.arrays import supports
from understudy.policies.encoders import NETWORKS
from understudy.policies.files import load_policy, save_policy
from understudy.policies.policy import Policy
from understudy.policies.spaces import has_channels_last
from understudy.policies.spec import (
    ENCODERS,
    PICTURES,
    TEXTS,
    Encoder,
    PolicySpec,
    default_encoders,
    encoded_size,
    space_to_json,
)
from understudy.teachers.inspect import network_text

ACTIONS = gym.spaces.Discrete(3)


def image(*shape):
    return gym.spaces.Box(0, 255, shape, np.uint8)


def text(length=8):
    return gym.spaces.Box(0, 255, (length,), np.uint8)


def policy(space, *encoders, **options):
    torch.manual_seed(0)
    return Policy(
        PolicySpec(space_to_json(space), space_to_json(ACTIONS), "categorical", encoders, hidden=(), **options)
    ).eval()


def weights(one):
    return sum(p.numel() for p in one.cnns.parameters())


# Space, encoder, its features, its weights by hand.
SIZES = {
    # 84 -> (84-8)/4+1 = 20 -> (20-4)/2+1 = 9 -> 9-3+1 = 7
    "nature": (
        image(4, 84, 84), Encoder("", "nature_cnn", 512, 1 / 255), 512,
        (8 * 8 * 4 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64) + (7 * 7 * 64 * 512 + 512),
    ),
    "small IMPALA": (
        image(4, 84, 84), Encoder("", "impala_small", 256, 1 / 255), 256,
        (8 * 8 * 4 * 16 + 16) + (4 * 4 * 16 * 32 + 32) + (9 * 9 * 32 * 256 + 256),
    ),
    # DMLab's 72x96 pictures: halved three times, rounding up, 9x12. Every section has 1 + 2 * 2 convolutions.
    "large IMPALA": (
        image(72, 96, 3), Encoder("", "impala_resnet", 256, 1 / 255), 256,
        (9 * 3 * 16 + 16) + 4 * (9 * 16 * 16 + 16) + (9 * 16 * 32 + 32) + 9 * (9 * 32 * 32 + 32)
        + (9 * 12 * 32 * 256 + 256),
    ),
    # 42 -> 21 -> 11 -> 6 -> 3
    "A3C": (image(1, 42, 42), Encoder("", "a3c_cnn", 0, 1 / 255), 288, (9 * 32 + 32) + 3 * (9 * 32 * 32 + 32)),
    # 7 -> 6 -> 5 -> 4; a vector of 16 for every number of every channel
    "grid": (
        image(7, 7, 3), Encoder("", "grid_cnn", 64), 64,
        3 * 256 * 16 + (4 * 16 * 32 + 32) + 2 * (4 * 32 * 32 + 32) + (4 * 4 * 32 * 64 + 64),
    ),
    # 16 names for every number of the view
    "grid MLP": (image(7, 7, 3), Encoder("", "grid_mlp", 64), 64, 7 * 7 * 3 * 16 * 64 + 64),
    "words": (text(), Encoder("", "text_words", 16), 16, 2049 * 16),
    "bag": (text(), Encoder("", "text_bag", 16), 16, 256 * 16),
    "text LSTM": (
        gym.spaces.MultiDiscrete([5, 9, 9]), Encoder("", "text_lstm", 4), 4, 9 * 4 + 4 * (4 * 4 + 4 * 4 + 4 + 4),
    ),
}  # fmt: skip


def test_every_type_has_a_network():
    assert set(NETWORKS) == {*PICTURES, *TEXTS} < set(ENCODERS)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_papers(name):
    space, encoder, features, parameters = SIZES[name]
    one = policy(space, encoder)
    assert encoded_size(one.spec) == features and weights(one) == parameters
    space.seed(0)
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(5)]))
    encoded = one.encode(obs)
    assert encoded.shape == (5, features) and encoded.dtype == torch.float32
    assert supports(one.spec) == (encoder.type == "a3c_cnn") and network_text(one.spec)


def test_the_large_network_has_15_convolutions():
    one = policy(*SIZES["large IMPALA"][:2])
    assert sum(isinstance(m, torch.nn.Conv2d) for m in one.modules()) == 15


@pytest.mark.parametrize("name", SIZES)
def test_every_weight_learns(name):
    space, encoder, _, _ = SIZES[name]
    one = policy(space, encoder)
    space.seed(0)
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(3)]))
    one(obs).params.square().sum().backward()
    for key, parameter in one.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


@pytest.mark.parametrize("name", SIZES)
def test_round_trips(name, tmp_path):
    space, encoder, _, _ = SIZES[name]
    one = policy(space, encoder)
    assert PolicySpec.from_json(json.loads(json.dumps(one.spec.to_json()))) == one.spec
    loaded = load_policy(save_policy(one, tmp_path / "p.safetensors"))
    obs = np.stack([space.sample() for _ in range(3)])
    assert loaded.spec == one.spec
    torch.testing.assert_close(loaded.encode(torch.as_tensor(obs)), one.encode(torch.as_tensor(obs)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["nature", "small IMPALA", "large IMPALA", "A3C", "grid"])
def test_either_layout(name):
    """The same weights on the same picture, stored channels first and last."""
    space, encoder, _, _ = SIZES[name]
    shape = space.shape if not has_channels_last(space) else np.moveaxis(np.empty(space.shape), -1, 0).shape
    first, last = policy(image(*shape), encoder), policy(image(*shape[1:], shape[0]), encoder)
    last.load_state_dict(first.state_dict())
    obs = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    expected = first.encode(torch.as_tensor(obs))
    actual = last.encode(torch.as_tensor(np.moveaxis(obs, 1, -1)))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_scaling_is_a_division_and_leaves_the_observation_alone():
    one = policy(*SIZES["A3C"][:2])
    pictures = torch.arange(256, dtype=torch.uint8).repeat(42 * 42)[: 2 * 42 * 42].view(2, 1, 42, 42)
    network = one.cnns["_"]
    assert torch.equal(network.floats(pictures), pictures.float() / 255)
    floats = pictures.float()
    assert torch.equal(network.floats(floats), pictures.float() / 255) and torch.equal(floats, pictures.float())


@pytest.mark.parametrize("name", ["nature", "small IMPALA", "large IMPALA", "A3C"])
def test_acting_equals_learning(name):
    """The memory layout differs, the features do not."""
    space, encoder, _, _ = SIZES[name]
    one = policy(space, encoder)
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(4)]))
    with torch.no_grad():
        acting = one.encode(obs)
    torch.testing.assert_close(one.encode(obs), acting, rtol=1e-5, atol=1e-6)


def test_channels_of_square_pictures_are_the_odd_axis():
    # 12 = 4 stacked frames of MiniGrid's 3 channels
    assert [has_channels_last(image(*s)) for s in ((12, 7, 7), (7, 7, 12), (3, 40, 44), (40, 44, 3))] == [
        False, True, False, True,
    ]  # fmt: skip


def test_grids_hold_names_not_amounts():
    """A change of an object's number changes the features as much as that of a colour's, whatever the numbers."""
    one = policy(*SIZES["grid"][:2])
    grid = torch.zeros(1, 7, 7, 3, dtype=torch.uint8)
    other = grid.clone()
    other[0, 3, 3] = torch.tensor([10, 5, 255], dtype=torch.uint8)
    assert (one.encode(grid) - one.encode(other)).abs().max() > 1e-3


BABYAI = gym.spaces.Dict({"direction": gym.spaces.Discrete(4), "image": image(7, 7, 3), "mission": text(20)})


def test_defaults():
    def kinds(space, **options):
        return [(e.key, e.type, e.features, e.scale) for e in default_encoders(space, **options)]

    assert kinds(image(36, 36, 3)) == [("", "nature_cnn", 512, 1 / 255)]
    assert kinds(image(35, 40, 3), cnn_features=64) == [("", "grid_cnn", 64, 1.0)]
    assert kinds(image(1, 42, 42), picture="a3c_cnn") == [("", "a3c_cnn", 0, 1 / 255)]
    assert kinds(image(4, 84, 84), picture="impala_resnet", cnn_features=256)[0][1:3] == ("impala_resnet", 256)
    assert kinds(text(), picture="a3c_cnn") == kinds(text()) == [("", "flatten", 0, 1.0)]
    assert kinds(BABYAI, text="text_bag")[2] == ("mission", "text_bag", 128, 1.0)
    assert kinds(BABYAI, cnn_features=32) == [
        ("direction", "one_hot", 0, 1.0), ("image", "grid_cnn", 32, 1.0), ("mission", "text_lstm", 128, 1.0),
    ]  # fmt: skip
    assert kinds(text(128)) == [("", "flatten", 0, 1.0)]  # the memory of an Atari, not text


def test_the_grid_mlp_is_a_linear_layer_over_one_hot_codes():
    """Values and gradients, written down with the codes; a picture laid out in another way is the same picture."""
    one = policy(image(7, 7, 3), Encoder("", "grid_mlp", 8))
    network = one.cnns["_"]
    pictures = torch.randint(0, 20, (5, 7, 7, 3), dtype=torch.uint8)
    codes = torch.nn.functional.one_hot(pictures.long().clamp_max(15), 16).float().view(5, -1)
    by_hand = torch.relu(codes @ network.embedding.weight + network.bias)
    torch.testing.assert_close(network(pictures), by_hand)
    slope = torch.randn(5, 8)
    expected = torch.autograd.grad(by_hand, network.parameters(), slope)
    torch.testing.assert_close(torch.autograd.grad(network(pictures), list(network.parameters()), slope), expected)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures), by_hand)


def test_features_of_all_keys_are_joined():
    spec = PolicySpec(
        space_to_json(BABYAI), space_to_json(ACTIONS), "categorical", default_encoders(BABYAI, cnn_features=32)
    )
    one = Policy(spec)
    assert encoded_size(spec) == 4 + 32 + 128
    assert set(one.cnns) == {"image", "mission"}
    action, _ = one.predict(BABYAI.sample())
    assert 0 <= action < 3


def test_refusals():
    with pytest.raises(UserError, match="'impala_smal' of the key 'x' is unknown; did you mean impala_small"):
        Encoder("x", "impala_smal", 8)
    with pytest.raises(UserError, match="unknown; did you mean nature_cnn"):
        PolicySpec.from_json(
            policy(*SIZES["nature"][:2]).spec.to_json() | {"encoders": [{"key": "", "type": "nature"}]}
        )
    with pytest.raises(UserError, match="nature_cnn needs features of at least 1, not 0"):
        Encoder("", "nature_cnn")
    with pytest.raises(UserError, match="text_bag reads integers as categories: leave its scale at 1"):
        Encoder("", "text_bag", 8, 1 / 255)
    with pytest.raises(UserError, match="categories cannot be normalised"):
        policy(text(), Encoder("", "text_bag", 8), normalized=("",))
    with pytest.raises(UserError, match="at least 36x36 pixels, not 35x40"):
        policy(image(35, 40, 3), Encoder("", "nature_cnn", 8, 1 / 255))
    with pytest.raises(UserError, match="at least 20x20 pixels"):
        policy(image(19, 40, 3), Encoder("", "impala_small", 8, 1 / 255))
    with pytest.raises(UserError, match="grid_cnn reads whole numbers from 0"):
        policy(gym.spaces.Box(0, 1, (7, 7, 3)), Encoder("", "grid_cnn", 8))
    with pytest.raises(UserError, match="grid_mlp reads whole numbers from 0"):
        policy(gym.spaces.Box(0, 1, (7, 7, 3)), Encoder("", "grid_mlp", 8))
    with pytest.raises(UserError, match="text_lstm reads a MultiDiscrete or a vector of uint8"):
        policy(image(7, 7, 3), Encoder("", "text_lstm", 8))
    with pytest.raises(UserError, match="a picture has three axes"):
        policy(text(), Encoder("", "impala_resnet", 8, 1 / 255))
    for space in (image(36, 36, 3), text()):
        with pytest.raises(UserError, match="'resnet' is unknown; did you mean impala_resnet"):
            default_encoders(space, picture="resnet")


def test_names_of_saved_policies_stay():
    one = policy(gym.spaces.Dict({"eye": image(36, 36, 3)}), replace(SIZES["nature"][1], key="eye"))
    names = {
        f"cnns.eye.{layer}.{kind}" for layer in ("cnn.0", "cnn.2", "cnn.4", "linear.0") for kind in ("weight", "bias")
    }
    assert set(one.state_dict()) == names | {"head.weight", "head.bias"}
