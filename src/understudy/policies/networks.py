"""Networks of linear layers; encoders of pictures and text are in ``policies.encoders``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

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
