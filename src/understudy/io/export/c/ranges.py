"""How large the numbers inside a student become in its own states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array, map_obs
from understudy.io.export.c.quantise import MARGIN
from understudy.io.export.states import States
from understudy.policies.policy import Policy, as_tensors
from understudy.policies.recurrence import remember
from understudy.policies.spec import feature_count, stored

_BOUNDED = ("tanh", "sigmoid")


@dataclass
class Ranges:
    """Largest magnitudes.

    Attributes:
        features: [F] of the features, with a margin.
        hidden: Of each hidden layer's output, with a margin; 1 where the activation is bounded.
        pictures: Of each picture key: ``in``, and the outputs of the activations by their index, without a margin.
    """

    features: Array
    hidden: list[float]
    pictures: dict[str, dict[str, float]]


@torch.no_grad()
def calibrate(policy: Policy, states: States) -> Ranges:
    """Measure a policy in states that it met."""
    seen: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(_watch(seen, name))
        for name, module in policy.named_modules()
        if isinstance(module, nn.ReLU | nn.ELU) or name.startswith("body.")
    ]
    try:
        tensors = as_tensors(states.whole())
        features = torch.cat([policy.encode(_rows(tensors, i)) for i in range(0, len(states), 64)])
        latent = features
        if policy.lstm is not None:
            start = torch.as_tensor(states.start)[:, None]
            latent, _ = remember(policy.lstm, features[:, None], policy.initial_state(1), start)
        policy.body(latent)
    finally:
        for hook in hooks:
            hook.remove()
    spec = policy.spec
    bounded = spec.activation in _BOUNDED
    hidden = [1.0 if bounded else max(MARGIN * seen[f"body.{2 * i + 1}"], 1e-6) for i in range(len(spec.hidden))]
    pictures = {}
    for encoder in (e for e in spec.encoders if e.learned):
        prefix = f"cnns.{stored(encoder.key) or '_'}.cnn."
        found = {name.removeprefix(prefix): max(v, 1e-6) for name, v in seen.items() if name.startswith(prefix)}
        pictures[encoder.key] = {"in": _largest_input(policy, states, encoder.key), **found}
    return Ranges(_features(policy, features.abs().amax(dim=0).double().numpy()), hidden, pictures)


def _rows(tensors: Any, begin: int) -> Any:
    return map_obs(lambda a: a[begin : begin + 64], tensors)


def _watch(seen: dict[str, float], name: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[name] = max(seen.get(name, 0.0), float(output.abs().max()))

    return note


def _features(policy: Policy, largest: Array) -> Array:
    """A feature that hardly moved in these states may move later, and is given some room.

    Normalised features stay within the normaliser's clip, and have a deviation of 1 in the long run: four of them.
    """
    spec, offset = policy.spec, 0
    spread: Array = np.maximum(MARGIN * largest, 0.02 * largest.max() + 1e-6)
    for encoder in spec.encoders:
        width = feature_count(spec, encoder)
        if encoder.key in spec.normalized and not encoder.learned:
            part = slice(offset, offset + width)
            bound = spec.normalizer_clip * encoder.scale
            spread[part] = np.clip(spread[part], min(4.0, bound), bound)
        offset += width
    return spread


def _largest_input(policy: Policy, states: States, key: str) -> float:
    """Of a picture of real numbers; bytes enter as they are."""
    if key in policy.spec.normalized:
        return float(policy.spec.normalizer_clip)
    return float(max(np.abs(states.obs[key].astype(np.float64)).max(), 1e-6))
