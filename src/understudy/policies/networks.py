"""Network building blocks, with weights orthogonal or uniform as their sources have them."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import torch
from torch import Tensor, nn

from understudy.errors import UserError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """Return a fresh activation layer."""
    return _ACTIVATIONS[name]()


def mlp(inputs: int, hidden: Sequence[int], name: str) -> nn.Sequential:
    """[N, inputs] -> [N, hidden[-1]], an activation after every layer; empty for no hidden layers."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), activation(name)]
        inputs = width
    return nn.Sequential(*layers)


class NatureCNN(nn.Module):
    """[N, C, H, W] or [N, H, W, C] floats -> [N, features]: three convolutions, one linear layer (Mnih 2015, Methods).

    The shortest axis of the space is taken for the channels, as Stable-Baselines3 does.
    """

    def __init__(self, space: gym.spaces.Box, features: int) -> None:
        super().__init__()
        self.channels_last = space.shape[2] < space.shape[0]
        channels, height, width = (space.shape[i] for i in ((2, 0, 1) if self.channels_last else (0, 1, 2)))
        if min(height, width) < 36:
            raise UserError(f"the Nature CNN needs images of at least 36x36 pixels, not {height}x{width}")
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            flat = self.cnn(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Sequential(nn.Linear(flat, features), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """[N, *space.shape] -> [N, features]."""
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        features: Tensor = self.linear(self.cnn(images))
        return features
