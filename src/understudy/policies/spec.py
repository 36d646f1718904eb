"""The description of a policy: everything but its numbers, as frozen data that goes through JSON.

A native policy is a ``PolicySpec`` and a dict of named arrays. The pair is our checkpoint, what travels to workers, and
what a Stable-Baselines3 zip is translated into; students and teachers are described alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.errors import UserError, suggest
from understudy.policies.family import Family, family_for
from understudy.policies.spaces import flat_size, is_image, members, picture_shape, space_from_json, space_to_json

ABSENT = -1e9
"""Logit of an action that a state's task does not have: its probability is exactly 0 in float32."""
ACTIVATIONS = ("tanh", "relu", "elu", "silu", "leaky_relu", "gelu", "sigmoid", "identity")
CELLS = ("lstm", "gru")
PICTURES = ("nature_cnn", "impala_small", "impala_resnet", "a3c_cnn", "grid_cnn", "grid_mlp")
TEXTS = ("text_bag", "text_lstm", "text_words")
ENCODERS = ("flatten", "one_hot", *PICTURES, *TEXTS)
"""Types of encoders; the networks of the last two rows are in ``policies.encoders``, which this list must not import:
workers read it without PyTorch."""
NATURE_LEAST = 36
"""Pixels that the convolutions of the Nature CNN need in height and width."""
_CATEGORIES = ("grid_cnn", "grid_mlp", *TEXTS)
"""Types that read integers as names of things, not as amounts."""
_TEXT_KEY, _TEXT_FEATURES = "mission", 128
"""The key of BabyAI's instructions, and the width that Chevalier-Boisvert 2019 (arXiv 1810.08272) read them with."""


@dataclass(frozen=True)
class Encoder:
    """How one observation key becomes features.

    Attributes:
        key: The observation key, ``""`` where observations are not a dict.
        type: One of ``ENCODERS``.
        features: Width of the network's last layer; unused by the types that have none (``flatten``, ``one_hot``,
            ``a3c_cnn``).
        scale: Observations are multiplied by it (1/255 for images); 1 for the types that read integers as categories.
    """

    key: str = ""
    type: str = "flatten"
    features: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        where = f" of the key {self.key!r}" if self.key else ""
        if self.type not in ENCODERS:
            known = f"{suggest(self.type, ENCODERS)} (there are {', '.join(ENCODERS)})"
            raise UserError(f"the encoder type {self.type!r}{where} is unknown{known}")
        if self.learned and self.type != "a3c_cnn" and self.features < 1:
            raise UserError(f"the encoder {self.type}{where} needs features of at least 1, not {self.features}")
        if self.type in _CATEGORIES and self.scale != 1.0:
            raise UserError(f"the encoder {self.type}{where} reads integers as categories: leave its scale at 1")

    @property
    def learned(self) -> bool:
        """Whether it is a network, with weights; otherwise features are a fixed function of the observation."""
        return self.type not in ("flatten", "one_hot")


@dataclass(frozen=True)
class PolicySpec:
    """A policy network: encoders -> concatenation -> (LSTM or GRU) -> hidden layers -> distribution parameters.

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
        support: Least and greatest return of categorical action values (C51): then the ``quantiles`` outputs of an
            action are logits of as many evenly spaced returns, whose expectation is its value. Empty for none.
        lstm: Width of the memory before the hidden layers, 0 for none.
        lstm_layers: How many layers it has.
        cell: What it consists of: ``lstm``, or ``gru`` (Cho 2014, arXiv 1406.1078). Its state is h and c in either
            case, so that nobody else has to tell them apart; a GRU leaves c at 0.
        value_hidden: Widths of the value function's own hidden layers on the same features; None for no value.
        tasks: Number of heads; above 1 the key ``task`` (one-hot) selects the head.
        task_actions: Of K tasks, how many actions (or action components) each has; empty for one task. The observation
            key ``task`` is then one-hot, input statistics are kept for each task ([K, ...]), and a discrete action that
            a state's task does not have gets the logit ``ABSENT``.
        mask: Observation key, [P], whose zeros say which discrete choices a state forbids: they get the logit
            ``ABSENT``. It need not be among the encoders. Empty for none.
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
    support: tuple[float, ...] = ()
    lstm: int = 0
    lstm_layers: int = 1
    cell: str = "lstm"
    value_hidden: tuple[int, ...] | None = None
    tasks: int = 1
    task_actions: tuple[int, ...] = ()
    mask: str = ""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown; there are {', '.join(ACTIVATIONS)}")
        if self.cell not in CELLS:
            raise UserError(f"the cell {self.cell!r} of the memory is unknown; there are {', '.join(CELLS)}")
        if self.std not in ("none", "constant", "state", "gsde"):
            raise UserError(f"std {self.std!r} is unknown; there are none, constant, state, gsde")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"hidden layers need at least one unit each, not {list(self.hidden)}")
        for encoder in self.encoders:
            if encoder.type in _CATEGORIES and encoder.key in self.normalized:
                raise UserError(f"the key {encoder.key!r} is read by {encoder.type}: categories cannot be normalised")

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
        more = {"task"} if self.tasks > 1 or self.task_actions else set()
        return {e.key for e in self.encoders} | more | ({self.mask} if self.mask else set())

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


def differences(saved: PolicySpec, wanted: PolicySpec) -> str:
    """Say in what two networks differ, empty for nothing; what bounds their spaces say is no part of a network."""
    apart = {"observation_space", "action_space"}
    names = [f.name for f in fields(PolicySpec) if f.name not in apart]
    pairs = [(name, getattr(saved, name), getattr(wanted, name)) for name in names]
    return ", ".join(f"{name} {was} instead of {now}" for name, was, now in pairs if was != now)


def stored(key: str) -> str:
    """Return an observation key as names of weights and statistics hold it: PyTorch lets no dot stand in them."""
    return key.replace(".", "%2E")


MASK = "action_mask"
"""The observation key under which environments say which choices are allowed: 1, or forbidden: 0."""


def mask_of(observations: gym.Space[Any], actions: gym.Space[Any]) -> str:
    """Return the key of the mask that observations hold for these actions, empty if they hold none."""
    mask = members(observations).get(MASK)
    discrete = isinstance(actions, gym.spaces.Discrete | gym.spaces.MultiDiscrete)
    return MASK if mask is not None and discrete and mask.shape == (flat_size(actions),) else ""


def default_encoders(
    space: gym.Space[Any],
    keys: tuple[str, ...] = (),
    cnn_features: int = 512,
    picture: str = "auto",
    text: str = "text_lstm",
) -> tuple[Encoder, ...]:
    """Return the encoders that fit a space: CNN for images, one-hot for integers, otherwise flattened numbers.

    Args:
        space: The observation space.
        keys: The keys to read; all by default.
        cnn_features: Width of the last layer of the networks that read images.
        picture: The encoder of images, where there are any; auto: ``nature_cnn``, or ``grid_cnn`` below its 36 pixels.
        text: The encoder of text, which is a vector of bytes under the key ``mission``.

    Raises:
        UserError: A key is asked for that the space has not, or an encoder that does not exist.
    """
    if picture not in ("auto", *PICTURES):
        known = f"{suggest(picture, PICTURES)} (there are {', '.join(PICTURES)})"
        raise UserError(f"the picture encoder {picture!r} is unknown{known}")
    spaces = members(space)
    encoders = []
    for key in keys or tuple(key for key in spaces if key != MASK):
        if key not in spaces:
            has = "it has " + ", ".join(map(repr, spaces)) if isinstance(space, gym.spaces.Dict) else "it has no keys"
            raise UserError(f"observation key {key!r} is not in the environment; {has}")
        sub = spaces[key]
        if is_image(sub):
            encoders.append(_picture_encoder(key, sub, cnn_features, picture))
        elif key == _TEXT_KEY and isinstance(sub, gym.spaces.Box) and sub.dtype == np.uint8 and len(sub.shape) == 1:
            # Bytes in order: a bag of them cannot tell "the key next to the ball" from "the ball next to the key".
            encoders.append(Encoder(key, text, _TEXT_FEATURES))
        elif isinstance(sub, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            encoders.append(Encoder(key, "one_hot"))
        else:
            encoders.append(Encoder(key, "flatten"))
    return tuple(encoders)


def vector_keys(encoders: Iterable[Encoder]) -> tuple[str, ...]:
    """Return the keys of vectors, which can be normalised."""
    return tuple(encoder.key for encoder in encoders if encoder.type == "flatten" and encoder.scale == 1.0)


def _picture_encoder(key: str, space: gym.Space[Any], features: int, picture: str) -> Encoder:
    large = min(picture_shape(space)[1:]) >= NATURE_LEAST
    kind = picture if picture != "auto" else "nature_cnn" if large else "grid_cnn"
    return Encoder(key, kind, 0 if kind == "a3c_cnn" else features, 1.0 if kind in _CATEGORIES else 1 / 255)


def encoded_size(spec: PolicySpec) -> int:
    """Return the number of features after the encoders."""
    return sum(feature_count(spec, encoder) for encoder in spec.encoders)


def feature_count(spec: PolicySpec, encoder: Encoder) -> int:
    """Return the number of features of one encoder."""
    return _size(encoder, members(spec.observations)[encoder.key])


def _size(encoder: Encoder, space: gym.Space[Any]) -> int:
    if encoder.type == "a3c_cnn":
        _, height, width = picture_shape(space)
        for _ in range(4):  # a 3x3 convolution of stride 2 and padding 1 halves, rounding up
            height, width = (height + 1) // 2, (width + 1) // 2
        return 32 * height * width
    return encoder.features if encoder.learned else flat_size(space)


__all__ = [
    "ABSENT",
    "ACTIVATIONS",
    "ENCODERS",
    "MASK",
    "NATURE_LEAST",
    "PICTURES",
    "TEXTS",
    "Encoder",
    "PolicySpec",
    "default_encoders",
    "differences",
    "encoded_size",
    "feature_count",
    "mask_of",
    "space_to_json",
    "stored",
    "vector_keys",
]
