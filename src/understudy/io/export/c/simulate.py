"""What a generated source computes, in NumPy: integers as there, real numbers in float64.

An implementation of its own, so that a source is checked even where there is no compiler, and what its self-test holds
does not come from itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from understudy.data import Array
from understudy.io.export.c.layers import Convolution, Input, Matrix
from understudy.io.export.c.plan import Plan
from understudy.io.export.c.quantise import Integers
from understudy.io.export.states import Answers, States
from understudy.policies.distributions import LOG_STD_MAX, LOG_STD_MIN
from understudy.policies.spec import ABSENT


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x * _sigmoid(x),
}


def simulate(plan: Plan, states: States) -> Answers:
    """Return what the source publishes in states: parameters in the units of ``exported.PARAMETERS``, and actions."""
    x = features(plan, states)
    if plan.lstm:
        x = remember(plan, x, states.start)
    for layer in plan.body:
        x = apply(layer, x)
    return _publish(plan, _allowed(plan, _expected(plan, apply(plan.head, x)), states))


def features(plan: Plan, states: States) -> Array:
    """Return the features [N, F] in the source's order."""
    parts = [_input(plan, one, states.obs[one.key]) for one in plan.inputs if one.encoded]
    return np.concatenate(parts, axis=1)


def _integers(x: Array, inverse: Array, limit: int) -> Array:
    scaled = np.clip(x * inverse, -limit, limit)
    rounded: Array = np.trunc(scaled + np.copysign(0.5, scaled))
    return rounded


def to_integers(layer: Matrix, x: Array) -> Array:
    """[N, in] -> the integers that enter an int8 layer, as float64."""
    assert layer.integers is not None
    return _integers(x, layer.integers.inverse, layer.integers.limit)


def pre_activation(layer: Matrix, x: Array, quantised: bool = False) -> Array:
    """[N, in] -> [N, out]; ``quantised`` inputs are integers already."""
    if layer.integers is None:
        y: Array = x @ layer.weight.astype(np.float64) + layer.bias
        return y
    q = x if quantised else to_integers(layer, x)
    return _exact(q @ layer.integers.weight.astype(np.float64)) * layer.integers.scale + layer.bias


def apply(layer: Matrix, x: Array, quantised: bool = False) -> Array:
    """[N, in] -> [N, out], activation included."""
    return _ACTIVATIONS[layer.activation](pre_activation(layer, x, quantised))


def _exact(total: Array) -> Array:
    assert np.abs(total).max(initial=0) < 2**31, "a sum of the int8 source does not fit 32 bits"
    return total


def _input(plan: Plan, one: Input, obs: Array) -> Array:
    """[N, ...] of a key -> [N, width]."""
    count = len(obs)
    if one.one_hot:
        columns = obs.reshape(count, -1).astype(np.int64) - np.array(one.start)
        return np.concatenate([np.eye(n)[columns[:, i]] for i, n in enumerate(one.one_hot)], axis=1)
    if one.convolutions:
        return _picture(plan, one, obs.reshape(count, -1).astype(np.float64))
    x = obs.reshape(count, -1).astype(np.float32).astype(np.float64)
    if one.normalizer is not None:
        mean, rest, inverse, bound = one.normalizer
        x = x - mean - (0 if rest is None else rest.astype(np.float64))
        x = np.clip(x * inverse, -bound, bound)
    return x * one.scale


def _picture(plan: Plan, one: Input, flat: Array) -> Array:
    first = one.convolutions[0]
    shape = first.height, first.width, first.weight.shape[2]
    rows, columns, channels = np.indices(shape)
    row, column, channel = one.strides
    x = flat[:, (rows * row + columns * column + channels * channel).ravel()].reshape(-1, *shape)
    if first.integers is not None and one.ctype == "float":
        x = _integers(x, first.integers.inverse, first.integers.limit)
    for layer in one.convolutions:
        y = _convolve(x, layer, layer.integers)
        x = _integers(y, np.array(layer.next_limit / layer.next_range), layer.next_limit) if plan.int8 else y
    rows_first: Array = x.reshape(len(x), -1)
    if one.linear is not None:
        return apply(one.linear, rows_first, quantised=True)
    end = one.convolutions[-1]
    return rows_first * (end.next_range / end.next_limit) if plan.int8 else rows_first


def _convolve(x: Array, layer: Convolution, integers: Integers | None) -> Array:
    """[N, H, W, C] -> [N, H', W', O]; sums of integers are exact in float64."""
    weight = layer.weight.astype(np.float64)
    if integers is not None:
        weight = integers.weight.reshape(layer.weight.shape).astype(np.float64)
    out = functional.conv2d(
        torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))),
        torch.from_numpy(np.ascontiguousarray(weight.transpose(3, 2, 0, 1))),
        stride=layer.stride, padding=layer.pad,
    )  # fmt: skip
    y = out.numpy().transpose(0, 2, 3, 1)
    y = y + layer.bias if integers is None else _exact(y) * integers.scale + layer.bias
    return _ACTIVATIONS[layer.activation](y)


def remember(plan: Plan, x: Array, start: Array, inputs: list[list[Array]] | None = None) -> Array:
    """[N, F] in their order -> [N, W].

    Args:
        plan: With memory.
        x: The features.
        start: [N] bool, where episodes begin.
        inputs: For each matrix of ``plan.lstm`` and then of ``plan.past`` a list that gets what goes into it, [1, in]
            per state.
    """
    h, c = np.zeros((len(plan.lstm), plan.width)), np.zeros((len(plan.lstm), plan.width))
    rows = []
    for row, begins in zip(x, start, strict=True):
        into = row
        h, c = (np.zeros_like(h), np.zeros_like(c)) if begins else (h, c)
        for layer, matrix in enumerate(plan.lstm):
            if plan.past:
                into = h[layer] = _gated(plan, layer, into[None], h[layer][None].copy(), inputs)
                continue
            both = np.concatenate((into, h[layer]))[None]
            if inputs is not None:
                inputs[layer].append(both)
            i, f, g, o = np.split(apply(matrix, both)[0], 4)
            c[layer] = _sigmoid(f) * c[layer] + _sigmoid(i) * np.tanh(g)
            into = h[layer] = _sigmoid(o) * np.tanh(c[layer])
        rows.append(into.copy())
    return np.stack(rows)


def _gated(plan: Plan, layer: int, x: Array, h: Array, inputs: list[list[Array]] | None) -> Array:
    """[1, F] and [1, W] -> the next h [W] of a GRU."""
    if inputs is not None:
        inputs[layer].append(x)
        inputs[len(plan.lstm) + layer].append(h)
    new, old = (np.split(apply(m[layer], y)[0], 3) for m, y in ((plan.lstm, x), (plan.past, h)))
    r, z = _sigmoid(new[0] + old[0]), _sigmoid(new[1] + old[1])
    after: Array = (1 - z) * np.tanh(new[2] + r * old[2]) + z * h[0]
    return after


def _expected(plan: Plan, out: Array) -> Array:
    """[N, outputs of the head] -> [N, P], the means of distributions of returns (C51)."""
    if not plan.support:
        return out
    logits = out.reshape(len(out), plan.policy.spec.quantiles, -1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    atoms = np.linspace(*plan.support, logits.shape[1])  # type: ignore[call-overload]
    means: Array = (weights * atoms[:, None]).sum(axis=1) / weights.sum(axis=1)
    return means


def _allowed(plan: Plan, out: Array, states: States) -> Array:
    """[N, P] -> the same with ``ABSENT`` where a mask forbids a choice."""
    mask = plan.policy.spec.mask
    return np.where(states.obs[mask].reshape(len(out), -1) < 0.5, ABSENT, out) if mask else out


def _publish(plan: Plan, out: Array) -> Answers:
    spec, family, action = plan.policy.spec, plan.policy.family, plan.action
    if not family.continuous:
        parts = np.split(out, np.cumsum(family.sizes)[:-1], axis=1)
        chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1) + action.start
        return Answers(out.astype(np.float32), chosen)
    actions = family.sizes[0]
    mean, log_std = out[:, :actions], out[:, actions:]
    mean = np.clip(mean, -spec.mean_clip, spec.mean_clip) if spec.mean_clip else mean
    mean = np.tanh(mean) if spec.head_activation == "tanh" else mean
    mode = np.tanh(mean) if family.name == "squashed_gaussian" else mean
    mode = action.center + action.half * mode if spec.unit_actions else mode
    chosen = np.clip(mode, action.low, action.high)
    if family.name == "deterministic":
        return Answers(chosen.astype(np.float32), chosen.astype(np.float32))
    log_std = np.broadcast_to(plan.log_std, mean.shape) if plan.log_std is not None else log_std
    if family.name == "squashed_gaussian":
        params = np.concatenate((mean, np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)), axis=1)
    else:
        params = np.concatenate((mode, log_std + (np.log(action.half) if spec.unit_actions else 0)), axis=1)
    return Answers(params.astype(np.float32), chosen.astype(np.float32))
