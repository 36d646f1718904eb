"""Weights for learning by reinforcement from nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from understudy.policies.devices import one_thread
from understudy.policies.policy import Policy


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


def _orthogonal(weight: Tensor, gain: float) -> None:
    """Fill [out, ...] of any memory layout and any device; drawn on the CPU, so that every device draws the same."""
    weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), gain))
