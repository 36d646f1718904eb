"""Critics of continuous actions: K networks q_i(s, a) side by side, so that each layer is one batched product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from understudy.policies.networks import activation


class Critics(nn.Module):
    """K MLPs of the same widths on features and unit actions.

    Attributes:
        weights: [K, out, in] of every layer.
        biases: [K, 1, out] of every layer.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], count: int, name: str) -> None:
        """Draw weights as ``nn.Linear`` does: uniform within 1 / sqrt(inputs)."""
        super().__init__()
        widths = [inputs, *hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for below, width in zip(widths[:-1], widths[1:], strict=True):
            bound = 1 / math.sqrt(below)
            self.weights.append(nn.Parameter(torch.empty(count, width, below).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(count, 1, width).uniform_(-bound, bound)))
        self.activation = activation(name)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """[N, F] and [N, A] -> [K, N]."""
        x = torch.cat((features, action), dim=1).expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            x = x if i == last else self.activation(x)
        return x.squeeze(-1)
