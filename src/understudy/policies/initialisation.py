"""Weights for learning by reinforcement from nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from understudy.policies.devices import one_thread
from understudy.policies.policy import Policy
from understudy.policies.spec import PICTURES, stored

_CONSTANT = 1e-6
"""Deviation below which an output says nothing."""


def orthogonal_init(policy: Policy, head_gain: float = 0.01, value_gain: float = 1.0) -> None:
    """Draw orthogonal weights and set biases to 0, in place; what is drawn depends on PyTorch's seed alone.

    Hidden layers and convolutions have gain sqrt(2), LSTMs (and GRUs) 1, as PPO's first implementation (Dhariwal 2017,
    OpenAI Baselines) and its successors. A small last layer makes the first actions nearly alike in all states, which
    Andrychowicz 2021 (arXiv 2006.05990, section 3.2) found to matter more than most choices. Embeddings keep the normal
    distribution that they were made with.

    Args:
        policy: The policy; weights alone change, not a constant log standard deviation or the statistics.
        head_gain: Of the layer that gives the distribution's parameters (and of a second one for the deviations).
        value_gain: Of the layer that gives the value.
    """
    gains = {"head": head_gain, "log_std_head": head_gain, "value_head": value_gain}
    # Several threads sum in another order: the last bits would depend on the machine's cores.
    with torch.no_grad(), one_thread():
        for name, module in policy.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                _orthogonal(module.weight, gains.get(name, math.sqrt(2)))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LSTM | nn.GRU):
                for kind, parameter in module.named_parameters():
                    if kind.startswith("weight"):
                        _orthogonal(parameter, 1.0)
                    else:
                        parameter.zero_()


def picture_layers(policy: Policy) -> list[nn.Module]:
    """Return the convolutions and linear layers of the networks that see pictures."""
    networks = [policy.cnns[stored(e.key) or "_"] for e in policy.spec.encoders if e.type in PICTURES]
    return [layer for network in networks for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def scale_to_data(policy: Policy, obs: Any) -> None:
    """Scale and shift the layers that see pictures: over these observations, outputs have mean 0 and deviation 1.

    Data-dependent initialisation (Salimans 2016, arXiv 1602.07868, section 3), after orthogonal weights (Mishkin 2016,
    arXiv 1511.06422): of every output w x + b, the mean m and deviation s over the data, w <- w / s and
    b <- (b - m) / s, layer by layer from the first to the last; of convolutions over all places of a channel. Most of a
    game's picture never changes: without it the features of two states of Pong differ by a twentieth of what they have
    in common, every gradient step moves the common part most, and ReLUs that it moves below 0 learn nothing any more.

    Args:
        policy: Changed in place.
        obs: [N, ...] tensors of its observation space.
    """

    def scale(layer: nn.Module, _: Any, out: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
        others = [dim for dim in range(out.ndim) if dim != 1]
        deviation, mean = torch.std_mean(out, others)
        deviation[deviation < _CONSTANT] = 1.0  # what shows nothing is not made to show noise
        layer.weight /= deviation.view(-1, *(1,) * (layer.weight.ndim - 1))
        layer.bias.copy_((layer.bias - mean) / deviation)
        wide = (1, -1, *(1,) * (out.ndim - 2))
        return (out - mean.view(wide)) / deviation.view(wide)

    hooks = [layer.register_forward_hook(scale) for layer in picture_layers(policy)]
    try:
        with torch.no_grad(), one_thread():
            policy.encode(obs)
    finally:
        for hook in hooks:
            hook.remove()


def _orthogonal(weight: Tensor, gain: float) -> None:
    """Fill [out, ...] of any memory layout and any device; drawn on the CPU, so that every device draws the same."""
    weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), gain))
