"""Which format can express which policy, and what an exported file says of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from understudy import __version__
from understudy.errors import UserError
from understudy.io.export.graph import memory_names
from understudy.policies.family import ActionMap
from understudy.policies.policy import Policy
from understudy.policies.spaces import members, space_to_json, starts
from understudy.policies.spec import PolicySpec
from understudy.teachers.exported import FORMAT, PARAMETERS

FORMATS = ("onnx", "torchscript", "c", "sb3", "unity")
C_PICTURES = ("nature_cnn", "impala_small", "a3c_cnn")


def obstacles(spec: PolicySpec, form: str) -> list[str]:
    """Return the parts of a policy that a format cannot express; none where it can."""
    allowed = {
        "c": C_PICTURES,
        "sb3": ("nature_cnn",),
        "unity": ("nature_cnn", "impala_small", "impala_resnet", "a3c_cnn"),
    }
    found = []
    for encoder in spec.encoders:
        if encoder.learned and form in allowed and encoder.type not in allowed[form]:
            found.append(f"the encoder {encoder.type}" + (f" of the key {encoder.key!r}" if encoder.key else ""))
    if form == "sb3":
        found += ["a distribution of returns over fixed values (C51)"] * bool(spec.support)
        found += [f"the action mask {spec.mask!r}"] * bool(spec.mask)
    found += ["actions of whole numbers"] * (spec.action_space["type"] == "Box" and ActionMap(spec.actions).whole)
    several = spec.tasks > 1 or bool(spec.task_actions)
    if several and form in allowed:
        found.append("a head for each of several tasks")
    if form == "onnx":
        found += [f"the key {key!r} beside an input or output of that name" for key in _twice_in_onnx(spec)]
    if form == "c":
        found += [f"a normaliser before the {e.type}" for e in spec.encoders if e.learned and e.key in spec.normalized]
        found += ["the activation gelu"] * (spec.activation == "gelu")
        found += ["gSDE"] * (spec.std == "gsde")
    if form == "sb3":
        found += [f"the {spec.cell.upper()}"] * bool(spec.lstm)
        found += ["actions that do not start at 0"] * any(starts(spec.actions))
        seen = members(spec.observations)
        late = [e.key for e in spec.encoders if e.type == "one_hot" and any(starts(seen[e.key]))]
        found += ["observations that do not start at 0"] * bool(late)
        box = spec.actions
        if isinstance(box, gym.spaces.Box) and not box.is_bounded():
            found.append("actions without bounds")
        found += [text for text in (_outside_sb3(spec), _space_outside_sb3(spec)) if text]
        found += [f"the dot in the key {e.key!r}" for e in spec.encoders if "." in e.key]
        found += [
            f"a normaliser of {type(seen[key]).__name__} observations (VecNormalize takes a Box only: distill with "
            "--student.normalize none)"
            for key in spec.normalized
            if not isinstance(seen[key], gym.spaces.Box)
        ]
    if form == "unity" and any(e.type == "one_hot" for e in spec.encoders):
        found.append("the one-hot code of whole numbers")
    return found


def _twice_in_onnx(spec: PolicySpec) -> list[str]:
    """Return the observation keys whose inputs would be called as another input or an output is."""
    memory = memory_names(spec)
    taken = {*PARAMETERS[spec.family], "action", *memory, *(f"{name}_out" for name in memory)}
    return [key for key in (*dict.fromkeys(e.key for e in spec.encoders), spec.mask) if key in taken]


def _outside_sb3(spec: PolicySpec) -> str:
    """Name what no algorithm of Stable-Baselines3 has among the heads, empty where one has it."""
    if spec.family == "gaussian" and spec.std == "state":
        return "the second head (log_std_head) of a Gaussian"
    if spec.family == "gaussian" and (spec.head_activation, spec.mean_clip) != ("identity", 0.0):
        return "the tanh or clipping after the last layer of a Gaussian"
    if spec.family == "deterministic" and spec.head_activation == "tanh" and not spec.unit_actions:
        return "a tanh in environment units"
    if spec.family == "squashed_gaussian" and spec.std == "constant":
        return "a constant deviation before the tanh"
    return ""


def _space_outside_sb3(spec: PolicySpec) -> str:
    """Name a space that Stable-Baselines3 cannot see or act in, empty where there is none."""
    seen = {encoder.key: members(spec.observations)[encoder.key] for encoder in spec.encoders}
    choices = gym.spaces.MultiDiscrete | gym.spaces.MultiBinary
    if any(isinstance(space, choices) and len(space.shape) > 1 for space in (*seen.values(), spec.actions)):
        return "choices on several axes"
    if any(isinstance(space, gym.spaces.Box) and not space.shape for space in (*seen.values(), spec.actions)):
        return "numbers without an axis"
    return ""


def refuse(policy: Policy, form: str) -> None:
    """Refuse a format that cannot express a policy.

    Raises:
        UserError: Naming the part, and the formats that can.
    """
    found = obstacles(policy.spec, form)
    if found:
        others = [name for name in FORMATS if not obstacles(policy.spec, name)]
        instead = f"{', '.join(others)} can" if others else "nor in any other format yet"
        raise UserError(
            f"{policy.about.source or 'the student'} cannot be exported to {form}: {' and '.join(found)} cannot be "
            f"expressed there; {instead}"
        )


def describe(policy: Policy, form: str, precision: str, keys: Sequence[str], **more: Any) -> str:
    """Return the description that goes into an exported file, as JSON."""
    spec, about = policy.spec, policy.about
    action = ActionMap(policy.action_space)
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "file": form,
        "precision": precision,
        "algorithm": about.algorithm,
        "student": Path(about.source).name,
        "env": about.env.to_json() if about.env else None,
        "family": spec.family,
        "observation_space": _seen(policy),
        "action_space": space_to_json(policy.action_space),
        "memory": [spec.lstm_layers if spec.lstm else 0, spec.lstm],
        "cell": spec.cell,
        "parameters": policy.parameters_count,
        "keys": list(keys),
        "mask": spec.mask,
        "network": {"hidden": list(spec.hidden), "activation": spec.activation, "lstm": spec.lstm, "cell": spec.cell},
        "normalizer": {
            "keys": list(spec.normalized),
            "clip": spec.normalizer_clip,
            "epsilon": spec.normalizer_epsilon,
            "inside": True,
        },
        "action_units": "environment",
        **more,
    }
    if policy.family.continuous:
        data["action_map"] = {
            "unit": spec.unit_actions,
            "center": action.center.tolist(),
            "half": action.half.tolist(),
            "low": [_number(v) for v in action.low],
            "high": [_number(v) for v in action.high],
        }
    return json.dumps(data)


def _number(value: Any) -> float | str:
    return float(value) if np.isfinite(value) else str(value)


def _seen(policy: Policy) -> dict[str, Any]:
    """The observation space, of a dict space the keys that the policy reads."""
    data = space_to_json(policy.observation_space)
    if data["type"] == "Dict":
        needed = policy.spec.needed_keys
        data["spaces"] = {
            key: space_to_json(sub) for key, sub in members(policy.observation_space).items() if key in needed
        }
    return data
