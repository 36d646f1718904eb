"""Action-value networks that are learnt: each is an ordinary policy whose weights are a function of what is learnt.

Acting, saving and evaluating therefore need to know nothing of dueling streams or of noise in the weights:

| variant | what is learnt                                | the policy's weights                                      |
|---------|-----------------------------------------------|-----------------------------------------------------------|
| plain   | the policy's weights                          | themselves                                                |
| dueling | a value and an advantage layer, each on half  | one last layer, since V + A - mean A is linear in both    |
|         | of the last hidden layer's units (Wang 2016)  |                                                           |
| noisy   | mu and sigma of every linear layer            | mu + sigma * f(e_out) f(e_in)', f(x) = sign(x) abs(x)^0.5 |
|         | (Fortunato 2018, factorised noise)            | (mu alone where no noise is asked for)                    |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from understudy.errors import UserError
from understudy.policies.policy import Policy

Tensors = dict[str, Tensor]


class _Outputs(nn.Module):
    """A policy's [N, K, n] outputs before they become action values."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Any) -> Tensor:
        """[N, ...] -> [N, K, n]."""
        policy = self.policy
        out: Tensor = policy.head(policy.body(policy.encode(obs)))
        return out.view(len(out), policy.spec.quantiles, -1)


class QNetwork:
    """Outputs of a ``q_values`` policy as a function of learnt parameters.

    Attributes:
        parameters: What is learnt, by name.
    """

    def __init__(self, policy: Policy, dueling: bool, sigma: float) -> None:
        """Take the policy's weights as the beginning.

        Args:
            policy: Of the family ``q_values``, without memory; plain networks learn its own weights in place.
            dueling: Whether the last layer is that of two streams.
            sigma: Initial noise, times 1 / sqrt(inputs); 0 for none.

        Raises:
            UserError: A dueling network without a last hidden layer that can be halved.
        """
        spec = policy.spec
        if dueling and (not spec.hidden or spec.hidden[-1] % 2):
            raise UserError("policy.dueling shares the last of policy.hidden between two streams: it must be even")
        self.policy, self._dueling, self._noisy = policy, dueling, sigma > 0
        self._outputs = _Outputs(policy)
        self.parameters: Tensors = {name: p for name, p in policy.named_parameters() if not name.startswith("value_")}
        if self.changed:  # the policy's own weights follow from these: see ``write``
            self.parameters = {name: p.detach().clone().requires_grad_() for name, p in self.parameters.items()}
        if dueling:
            self.parameters |= self._streams(self.parameters.pop("head.weight"), self.parameters.pop("head.bias"))
        self._layers = [n.removesuffix(".weight") for n, p in self.parameters.items() if n.endswith("weight")]
        self._layers = [n for n in self._layers if not n.startswith("cnns.")] if self._noisy else []
        for name in self._layers:
            scale = sigma / math.sqrt(self.parameters[f"{name}.weight"].shape[1])
            for part in ("weight", "bias"):
                mean = self.parameters[f"{name}.{part}"]
                self.parameters[f"{name}.{part}_sigma"] = torch.full_like(mean, scale).requires_grad_()

    @property
    def changed(self) -> bool:
        """Whether the policy's weights are not the learnt parameters themselves."""
        return self._dueling or self._noisy

    def _streams(self, weight: Tensor, bias: Tensor) -> Tensors:
        """Return the two last layers, as freshly drawn as the policy's own."""
        atoms, half = self.policy.spec.quantiles, self.policy.spec.hidden[-1] // 2
        found = {
            "value.weight": weight[:atoms, :half], "value.bias": bias[:atoms],
            "advantage.weight": weight[:, half:], "advantage.bias": bias,
        }  # fmt: skip
        return {name: tensor.detach().clone().requires_grad_() for name, tensor in found.items()}

    def noise(self, rng: np.random.Generator) -> Tensors:
        """Draw f(e) for the inputs and outputs of every noisy layer."""
        drawn: Tensors = {}
        for name in self._layers:
            for part, size in zip(("out", "in"), self.parameters[f"{name}.weight"].shape, strict=True):
                e = torch.from_numpy(rng.standard_normal(size, dtype=np.float32))
                drawn[f"{name}.{part}"] = e.sign() * e.abs().sqrt()
        return drawn

    def weights(self, parameters: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None = None) -> Tensors:
        """Return the policy's weights by name; differentiable in the parameters."""
        found = {name: tensor for name, tensor in parameters.items() if not name.endswith("_sigma")}
        if noise:
            for name in self._layers:
                out, into = noise[f"{name}.out"], noise[f"{name}.in"]
                sigma = parameters[f"{name}.weight_sigma"]
                found[f"{name}.weight"] = found[f"{name}.weight"] + sigma * out.unsqueeze(1) * into
                found[f"{name}.bias"] = found[f"{name}.bias"] + parameters[f"{name}.bias_sigma"] * out
        if self._dueling:
            found["head.weight"], found["head.bias"] = self._fold(
                found.pop("value.weight"), found.pop("value.bias"),
                found.pop("advantage.weight"), found.pop("advantage.bias"),
            )  # fmt: skip
        return found

    def _fold(self, value: Tensor, value_bias: Tensor, advantage: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """V + A - mean_a A (Wang 2016, eq. 9) as one layer [K * n, H] and its bias [K * n]."""
        atoms, half = value.shape
        each = advantage.view(atoms, -1, half)
        each = each - each.mean(dim=1, keepdim=True)
        weight = torch.cat((value.unsqueeze(1).expand_as(each), each), dim=2)
        centred = bias.view(atoms, -1)
        centred = centred - centred.mean(dim=1, keepdim=True) + value_bias.unsqueeze(1)
        return weight.flatten(0, 1), centred.flatten()

    def __call__(self, parameters: Mapping[str, Tensor], obs: Any, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """[N, ...] -> [N, K, n]: K atoms or quantiles (1 without) of n actions."""
        named = {f"policy.{name}": tensor for name, tensor in self.weights(parameters, noise).items()}
        out: Tensor = functional_call(self._outputs, named, (obs,))
        return out

    def write(self, noise: Mapping[str, Tensor] | None = None) -> None:
        """Bring the policy's own weights up to date, with this noise or without."""
        if self.changed:
            with torch.no_grad():
                own = dict(self.policy.named_parameters())
                for name, tensor in self.weights(self.parameters, noise).items():
                    own[name].copy_(tensor)
