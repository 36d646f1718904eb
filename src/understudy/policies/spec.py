"""The description of a policy: everything but its numbers, as frozen data that goes through JSON.

A native policy is a ``PolicySpec`` and a dict of named arrays. The pair is our checkpoint, what travels to workers, and
what a Stable-Baselines3 zip is translated into; students and teachers are described alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.family import Family, family_for
from understudy.policies.spaces import flat_size, is_image, members, space_from_json, space_to_json

ABSENT = -1e9
"""Logit of an action that a state's task does not have: its probability is exactly 0 in float32."""
ACTIVATIONS = ("tanh", "relu", "elu", "silu", "leaky_relu", "gelu", "sigmoid", "identity")


@dataclass(frozen=True)
class Encoder:
    """How one observation key becomes features.

    Attributes:
        key: The observation key, ``""`` where observations are not a dict.
        type: ``flatten``, ``one_hot`` or ``nature_cnn``.
        features: Width of the last CNN layer; unused otherwise.
        scale: Observations are multiplied by it (1/255 for images).
    """

    key: str = ""
    type: str = "flatten"
    features: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class PolicySpec:
    """A policy network: encoders -> concatenation -> (LSTM) -> hidden layers -> distribution parameters.

    Attributes:
        observation_space: As ``space_to_json`` writes it.
        action_space: As ``space_to_json`` writes it.
        family: Distribution family, see ``policies.family``.
        encoders: One per observation key that the policy sees, in the order of concatenation.
        normalized: Keys whose observations are normalised by stored running statistics.
        normalizer_clip: Normalised observations are clipped to plus or minus this.
        normalizer_epsilon: Added to the variance.
        hidden: Widths of the hidden layers of the policy.
        activation: Of the hidden layers.
        head_bias: Whether the last layer has a bias (linear ARS policies have none).
        head_activation: ``tanh`` for deterministic actors that end in one, else ``identity``.
        mean_clip: Means pass a hard tanh of this range (gSDE of SAC and TQC); 0 for none.
        std: Where log standard deviations come from: ``none``, ``constant`` (one vector), ``state`` (a second head) or
            ``gsde`` (features times an exploration matrix; Raffin 2021, arXiv 2005.05719).
        unit_actions: Whether the network speaks in unit actions; otherwise in the environment's own units.
        quantiles: Quantiles per action whose mean is the action value (QR-DQN), 1 for none.
        lstm: Width of the LSTM before the hidden layers, 0 for none.
        lstm_layers: How many layers it has.
        value_hidden: Widths of the value function's own hidden layers on the same features; None for no value.
        tasks: Number of heads; above 1 the key ``task`` (one-hot) selects the head.
        task_actions: Of K tasks, how many actions (or action components) each has; empty for one task. The observation
            key ``task`` is then one-hot, input statistics are kept for each task ([K, ...]), and a discrete action that
            a state's task does not have gets the logit ``ABSENT``.
    """

    observation_space: Mapping[str, Any]
    action_space: Mapping[str, Any]
    family: str
    encoders: tuple[Encoder, ...] = (Encoder(),)
    normalized: tuple[str, ...] = ()
    normalizer_clip: float = 10.0
    normalizer_epsilon: float = 1e-8
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    head_bias: bool = True
    head_activation: str = "identity"
    mean_clip: float = 0.0
    std: str = "none"
    unit_actions: bool = True
    quantiles: int = 1
    lstm: int = 0
    lstm_layers: int = 1
    value_hidden: tuple[int, ...] | None = None
    tasks: int = 1
    task_actions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown; there are {', '.join(ACTIVATIONS)}")
        if self.std not in ("none", "constant", "state", "gsde"):
            raise UserError(f"std {self.std!r} is unknown; there are none, constant, state, gsde")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"hidden layers need at least one unit each, not {list(self.hidden)}")

    @property
    def observations(self) -> gym.Space[Any]:
        """The observation space."""
        return space_from_json(self.observation_space)

    @property
    def actions(self) -> gym.Space[Any]:
        """The action space."""
        return space_from_json(self.action_space)

    @property
    def needed_keys(self) -> set[str]:
        """The observation keys that the network reads."""
        return {e.key for e in self.encoders} | ({"task"} if self.tasks > 1 or self.task_actions else set())

    @property
    def absent(self) -> Array | None:
        """[K, n] bool, which discrete actions each task does not have; None where every task has all."""
        family = self.distribution
        if family.continuous or not self.task_actions:
            return None
        return np.arange(family.param_size) >= np.array(self.task_actions)[:, None]

    @property
    def distribution(self) -> Family:
        """The family with its sizes."""
        return family_for(self.family, self.actions)

    def to_json(self) -> dict[str, Any]:
        """Return a plain description that ``from_json`` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PolicySpec:
        """Build the description that ``to_json`` wrote; keys that are not known raise ``UserError``."""
        unknown = set(data) - {f.name for f in fields(PolicySpec)}
        if unknown:
            raise UserError(f"policy description has unknown keys: {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        values["encoders"] = tuple(Encoder(**e) for e in data["encoders"])
        return PolicySpec(**values)


def default_encoders(
    space: gym.Space[Any], keys: tuple[str, ...] | None = None, cnn_features: int = 512
) -> tuple[Encoder, ...]:
    """Return the encoders that fit a space: CNN for images, one-hot for integers, otherwise flattened numbers.

    Raises:
        UserError: A key is asked for that the space has not.
    """
    spaces = members(space)
    encoders = []
    for key in keys or tuple(spaces):
        if key not in spaces:
            raise UserError(f"observation key {key!r} is not in the environment; it has {', '.join(map(repr, spaces))}")
        sub = spaces[key]
        if is_image(sub):
            encoders.append(Encoder(key, "nature_cnn", cnn_features, 1 / 255))
        elif isinstance(sub, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            encoders.append(Encoder(key, "one_hot"))
        else:
            encoders.append(Encoder(key, "flatten"))
    return tuple(encoders)


def encoded_size(spec: PolicySpec) -> int:
    """Return the number of features after the encoders."""
    spaces = members(spec.observations)
    return sum(e.features if e.type == "nature_cnn" else flat_size(spaces[e.key]) for e in spec.encoders)


__all__ = ["ABSENT", "ACTIVATIONS", "Encoder", "PolicySpec", "default_encoders", "encoded_size", "space_to_json"]
