"""Pictures that have most of their pixels in common go through convolutions once; nothing changes but the time."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from understudy.policies import background
from understudy.policies.encoders import NETWORKS
from understudy.policies.spec import Encoder


def scene(count, shape, size=3, seed=0):
    """[N, H, W, C] bytes: noise that all pictures have in common, and a small square somewhere in each."""
    rng = np.random.default_rng(seed)
    pictures = np.repeat(rng.integers(0, 256, (1, *shape), np.uint8), count, axis=0)
    for picture in pictures:
        row, column = rng.integers(0, shape[0] - size), rng.integers(0, shape[1] - size)
        picture[row : row + size, column : column + size] = rng.integers(0, 256, (size, size, shape[2]))
    return torch.from_numpy(pictures)


def as_floats(x):
    return x.float() / 255


def layers(channels):
    return nn.Sequential(nn.Conv2d(channels, 5, 4, 2), nn.ReLU(), nn.Conv2d(5, 6, 3, 2), nn.ReLU(), nn.Flatten())


@pytest.mark.parametrize("shape", [(36, 36, 1), (31, 44, 3), (40, 33, 4)], ids=str)
@pytest.mark.parametrize("share", [0.05, 1.0], ids=["one layer", "all layers"])
def test_equals_convolutions(shape, share, monkeypatch):
    """Outputs and gradients, of pictures with and without whole windows, for every number of layers."""
    monkeypatch.setattr(background, "FIRST_SHARE", 1.0)
    monkeypatch.setattr(background, "SHARE", share)
    network, pictures = layers(shape[2]), scene(40, shape)
    found = background.convolve(network, pictures, as_floats)
    assert found is not None
    out, done = found
    assert done == (2 if share < 1 else 4)
    plain = network[:done](as_floats(pictures).permute(0, 3, 1, 2))
    assert out.shape == plain.shape
    torch.testing.assert_close(out, plain)
    slope, used = torch.randn(plain.shape), list(network[:done].parameters())
    for gradient, expected in zip(
        torch.autograd.grad(out, used, slope), torch.autograd.grad(plain, used, slope), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_pictures_that_are_the_same_and_that_differ():
    """Where nothing differs the common picture stands for all; where everything does there is nothing to gain."""
    network, rng = layers(4), np.random.default_rng(0)
    same = scene(1, (30, 30, 4)).repeat(32, 1, 1, 1)
    found = background.convolve(network, same, as_floats)
    assert found is not None
    assert found[1] == 4
    torch.testing.assert_close(found[0], network[:4](as_floats(same).permute(0, 3, 1, 2)))
    noise = torch.from_numpy(rng.integers(0, 256, (32, 30, 30, 4), np.uint8))
    assert background.convolve(network, noise, as_floats) is None


def test_common_picture_is_what_most_show():
    """A square that moves is in none of it."""
    pictures = scene(90, (36, 36, 4), size=4)
    assert float((pictures == background.common_picture(pictures)).float().mean()) > 0.98


@pytest.mark.parametrize("kind", ["nature_cnn", "impala_small"])
@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 3)], ids=["channels first", "channels last"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_encoders_learn_the_same(kind, shape, precision, monkeypatch):
    """The encoders with the search and without have the same features and gradients, to the last digits."""
    last = shape[-1] < 8
    encoder = NETWORKS[kind](gym.spaces.Box(0, 255, shape, np.uint8), Encoder(type=kind, features=16))
    pictures = scene(32, shape if last else (84, 84, 4), size=9)
    pictures = pictures if last else pictures.permute(0, 3, 1, 2).contiguous()
    through = []
    convolve = background.convolve

    def watched(*arguments):
        found = convolve(*arguments)
        through.append(found is not None)
        return found

    def learnt():
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            out = encoder(pictures)
        slope = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
        return [out.detach(), *torch.autograd.grad(out, list(encoder.parameters()), slope)]

    monkeypatch.setattr(background, "convolve", watched)
    found = learnt()
    assert through == [True]
    monkeypatch.setattr(background, "LEAST", 33)
    for one, other in zip(found, learnt(), strict=True):
        assert float((one - other).norm()) <= (1e-4 if precision == torch.float32 else 0.02) * float(other.norm())
    assert through == [True]


def test_acting_and_floats_are_left_alone(monkeypatch):
    """To act, and of pictures that are no bytes, everything is computed: as ever, to the bit."""

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(background, "convolve", never)
    space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    encoder = NETWORKS["nature_cnn"](space, Encoder(type="nature_cnn", features=8))
    pictures = scene(32, (84, 84, 4)).permute(0, 3, 1, 2)
    with torch.no_grad():
        acted = encoder(pictures)
    torch.testing.assert_close(encoder(pictures.float()).detach(), acted)
