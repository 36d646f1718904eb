"""Small students with random weights, of every kind that can be exported."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec, default_encoders

torch.set_num_threads(1)

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float64)
BOUNDS = spaces.Box(np.array([-1, -2.5], np.float32), np.array([1, 0.5], np.float32))
HALF_OPEN = spaces.Box(np.array([0, -1], np.float32), np.array([np.inf, 1], np.float32))
D3 = spaces.Discrete(3)
HWC = spaces.Box(0, 255, (36, 40, 3), np.uint8)
CHW = spaces.Box(0, 255, (3, 36, 36), np.uint8)
GRID = spaces.Box(0, 255, (7, 7, 3), np.uint8)
DICT = spaces.Dict({"camera": CHW, "mode": spaces.Discrete(4), "speed": spaces.Box(-9, 9, (2,), np.float32)})
MASKED = spaces.Dict({"action_mask": spaces.Box(0, 1, (5,), np.float32), "x": spaces.Box(-9, 9, (4,), np.float32)})
PARTS = spaces.MultiDiscrete([3, 2])
TASKS = spaces.Dict({"obs": spaces.Box(-9, 9, (4,), np.float32), "task": spaces.Box(0, 1, (2,), np.float32)})
DOTS = spaces.Dict({"a.b": spaces.Box(-9, 9, (3,), np.float32), "c": spaces.Box(-9, 9, (2,), np.float32)})
TEXT = spaces.Box(0, 255, (6,), np.uint8)


def observations(space, count, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        found = {key: observations(sub, count, seed + 1 + i) for i, (key, sub) in enumerate(space.spaces.items())}
        if "action_mask" in found:
            found["action_mask"] = (found["action_mask"] > 0).astype(np.float32)
            found["action_mask"][:, [0, 3]] = 1.0  # one choice of each part is always allowed
        return found
    if space.dtype == np.uint8:
        return (rng.integers(0, 255, (count, *space.shape)) * rng.random((count, *[1] * len(space.shape)))).astype(
            np.uint8
        )
    if isinstance(space, spaces.Box):
        return (rng.normal(size=(count, *space.shape)) * rng.choice([0.3, 3.0], count)[:, None]).astype(space.dtype)
    space.seed(seed)
    return np.stack([space.sample() for _ in range(count)])


def student(observation, action, family, seed=0, scales=True, **fields):
    """A policy with random weights that all matter, and a normaliser where observations are a vector."""
    torch.manual_seed(seed)
    fields = {"hidden": (16, 12), "encoders": default_encoders(observation, cnn_features=16)} | fields
    fields.setdefault("std", {"gaussian": "constant", "squashed_gaussian": "state"}.get(family, "none"))
    if isinstance(observation, spaces.Box) and observation.dtype.kind == "f":
        fields.setdefault("normalized", ("",))
        fields.setdefault("normalizer_clip", 2.5)
    made = Policy(PolicySpec(space_to_json(observation), space_to_json(action), family, **fields), About(source="s"))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith(("head", "log_std")):
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    for key in made.spec.normalized if scales and observation is VECTOR else ():
        made.set_normalizer(key, np.linspace(-1, 300, 5), np.linspace(0.5, 4, 5))
    return made.eval()


VECTORS = {
    "categorical": (VECTOR, D3, "categorical", {}),
    "late start": (VECTOR, spaces.Discrete(3, start=2), "categorical", {"activation": "relu"}),
    "multi": (VECTOR, spaces.MultiDiscrete([3, 2, 4]), "multi_categorical", {"activation": "elu"}),
    "late parts": (
        spaces.MultiDiscrete([3, 4], start=[-1, 2]),
        spaces.MultiDiscrete([3, 2], start=[1, -1]),
        "multi_categorical",
        {},
    ),
    "bits": (VECTOR, spaces.MultiBinary(3), "multi_categorical", {}),
    "q": (VECTOR, D3, "q_values", {"activation": "relu"}),
    "quantiles": (VECTOR, D3, "q_values", {"quantiles": 5, "activation": "silu"}),
    "c51": (VECTOR, D3, "q_values", {"quantiles": 11, "support": (-30.0, 70.0), "activation": "relu"}),
    "mask": (MASKED, PARTS, "multi_categorical", {"mask": "action_mask"}),
    "mask lstm": (MASKED, spaces.Discrete(5), "categorical", {"mask": "action_mask", "lstm": 8}),
    "mask that is seen": (
        MASKED,
        PARTS,
        "multi_categorical",
        {"mask": "action_mask", "encoders": (Encoder("x"), Encoder("action_mask"))},
    ),
    "gaussian": (VECTOR, BOUNDS, "gaussian", {"value_hidden": (8,)}),
    "gaussian in env units": (VECTOR, BOUNDS, "gaussian", {"unit_actions": False}),
    "half open": (VECTOR, HALF_OPEN, "gaussian", {"activation": "leaky_relu"}),
    "squashed": (VECTOR, BOUNDS, "squashed_gaussian", {"activation": "relu"}),
    "squashed gsde": (VECTOR, BOUNDS, "squashed_gaussian", {"std": "gsde", "mean_clip": 2.0, "activation": "relu"}),
    "gsde": (VECTOR, BOUNDS, "gaussian", {"std": "gsde"}),
    "two heads": (VECTOR, BOUNDS, "gaussian", {"std": "state"}),
    "deterministic": (VECTOR, BOUNDS, "deterministic", {"activation": "sigmoid"}),
    "td3": (VECTOR, BOUNDS, "deterministic", {"head_activation": "tanh", "activation": "relu"}),
    "linear": (VECTOR, BOUNDS, "deterministic", {"hidden": (), "head_bias": False, "unit_actions": False}),
    "whole numbers": (spaces.MultiDiscrete([3, 4]), D3, "categorical", {}),
    "dots": (DOTS, D3, "categorical", {"normalized": ("a.b", "c")}),
    "tasks": (
        TASKS,
        D3,
        "categorical",
        {"encoders": (Encoder("obs"),), "tasks": 2, "task_actions": (2, 3), "normalized": ("obs",)},
    ),
    "lstm": (VECTOR, BOUNDS, "gaussian", {"lstm": 8}),
    "gru": (VECTOR, BOUNDS, "gaussian", {"lstm": 8, "cell": "gru"}),
    "two gru layers": (VECTOR, D3, "categorical", {"lstm": 8, "lstm_layers": 2, "cell": "gru", "hidden": ()}),
    "two lstm layers": (VECTOR, D3, "categorical", {"lstm": 8, "lstm_layers": 2, "hidden": ()}),
}
PICTURES = {
    "nature": (HWC, D3, "categorical", {"hidden": ()}),
    "nature chw lstm": (CHW, BOUNDS, "gaussian", {"lstm": 8}),
    "small": (CHW, D3, "q_values", {"encoders": (Encoder("", "impala_small", 16, 1 / 255),)}),
    "a3c": (HWC, D3, "categorical", {"encoders": (Encoder("", "a3c_cnn", 0, 1 / 255),)}),
    "resnet": (GRID, D3, "categorical", {"encoders": (Encoder("", "impala_resnet", 16, 1 / 255),)}),
    "grid": (GRID, D3, "categorical", {}),
    "grid mlp": (GRID, D3, "categorical", {"encoders": (Encoder("", "grid_mlp", 8),)}),
    "dict": (DICT, BOUNDS, "deterministic", {}),
    "text bag": (TEXT, D3, "categorical", {"encoders": (Encoder("", "text_bag", 8),)}),
    "text words": (TEXT, D3, "categorical", {"encoders": (Encoder("", "text_words", 8),)}),
    "text lstm": (TEXT, D3, "categorical", {"encoders": (Encoder("", "text_lstm", 8),)}),
}
ALL = VECTORS | PICTURES
SUFFIX = {"onnx": "onnx", "torchscript": "pt", "c": "c", "sb3": "zip", "unity": "onnx"}


def make(case):
    observation, action, family, fields = ALL[case]
    return student(observation, action, family, **fields)
