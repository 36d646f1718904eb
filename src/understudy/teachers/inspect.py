"""What a teacher is, as rows for ``understudy inspect``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.spec import Encoder, PolicySpec
from understudy.teachers.successors import successors

_MEANING = {
    "categorical": "logits, one per action",
    "multi_categorical": "logits of every part",
    "q_values": "action values, the greatest is taken",
    "gaussian": "Gaussian",
    "squashed_gaussian": "Gaussian, then tanh",
    "deterministic": "deterministic action",
}
_STD = {
    "none": "",
    "constant": "one deviation per action",
    "state": "deviations by a second head",
    "gsde": "gSDE (state-dependent exploration)",
}
_ENCODERS = {
    "flatten": "flat",
    "one_hot": "one-hot",
    "nature_cnn": "Nature CNN",
    "impala_small": "small IMPALA CNN",
    "impala_resnet": "IMPALA ResNet",
    "a3c_cnn": "A3C CNN",
    "grid_cnn": "grid CNN",
    "grid_mlp": "grid MLP",
    "text_bag": "bag of tokens",
    "text_lstm": "text LSTM",
    "text_words": "bag of words and pairs",
}


def inspect(policy: PolicyLike) -> list[tuple[str, str]]:
    """Describe a policy in rows (what, text), in the order in which to read them."""
    about = policy.about
    rows = [
        ("algorithm", about.algorithm),
        ("source", about.source or "memory"),
        ("observations", space_text(policy.observation_space)),
        ("actions", space_text(policy.action_space)),
    ]
    native = policy if isinstance(policy, Policy) else None
    rows.append(("network", network_text(native.spec) if native else "opaque"))
    rows.append(("distribution", _distribution(policy)))
    rows.append(("normaliser", _normalizer(native.spec) if native else "opaque"))
    rows.append(("parameters", f"{policy.parameters_count:,}" if native or policy.parameters_count else "unknown"))
    rows.append(("environment", _environment(about.env)))
    rows += [("note", note) for note in about.notes]
    return rows


def space_text(space: gym.Space[Any]) -> str:
    """Describe a space in one short line: bounds only where they are one number."""
    if isinstance(space, gym.spaces.Dict):
        return ", ".join(f"{key}: {space_text(sub)}" for key, sub in space.spaces.items())
    if not isinstance(space, gym.spaces.Box):
        return str(space)
    low, high = space.low.min(), space.high.max()
    return f"Box {'x'.join(map(str, space.shape))} {space.dtype}, {low:g} to {high:g}"


def network_text(spec: PolicySpec) -> str:
    """Describe a network from observations to output."""
    parts = [", ".join(_encoder(encoder) for encoder in spec.encoders)]
    if spec.lstm:
        parts.append(
            f"{spec.cell.upper()} {spec.lstm}" + (f" x {spec.lstm_layers} layers" if spec.lstm_layers > 1 else "")
        )
    parts.append(f"MLP {'x'.join(map(str, spec.hidden))} {spec.activation}" if spec.hidden else "linear")
    if spec.tasks > 1:
        parts.append(f"{spec.tasks} heads")
    text = " -> ".join(parts)
    if spec.value_hidden is not None:
        text += f"; value function {'x'.join(map(str, spec.value_hidden)) or 'linear'}"
    return text


def _encoder(encoder: Encoder) -> str:
    text = _ENCODERS[encoder.type] + (f" {encoder.features}" if encoder.features else "")
    return f"{encoder.key}: {text}" if encoder.key else text


def _distribution(policy: PolicyLike) -> str:
    family = policy.family
    text = f"{family.name}: {_MEANING[family.name]}"
    if isinstance(policy, Policy):
        extra = _STD[policy.spec.std]
        if policy.spec.quantiles > 1:
            kind = "atoms of the return" if policy.spec.support else "quantiles"
            extra = f"mean of {policy.spec.quantiles} {kind}"
        text += f", {extra}" if extra else ""
    return text


def _normalizer(spec: PolicySpec) -> str:
    if not spec.normalized:
        return "none"
    keys = ", ".join(key for key in spec.normalized if key)
    return f"running mean and variance inside{f' ({keys})' if keys else ''}, clipped to {spec.normalizer_clip:g}"


def _environment(env: EnvSpec | None) -> str:
    if env is None:
        return "not known: pass --env"
    text = ", ".join(dict.fromkeys((env.id, *successors(env.id))))
    if env.kwargs:
        text += f" with {', '.join(f'{key}={value}' for key, value in env.kwargs.items())}"
    if env.wrappers:
        text += f", wrapped by {', '.join(str(wrapper['type']) for wrapper in env.wrappers)}"
    return text
