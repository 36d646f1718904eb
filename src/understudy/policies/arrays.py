"""A policy as plain NumPy: the forward pass of small networks without PyTorch.

Acting for 4 environments with a value costs 14 microseconds (64x64 tanh) where PyTorch takes 155, and a rollout worker
that uses it starts without importing PyTorch. Equal to ``Policy`` within float tolerance (a test says so). Of the
learned encoders only those of ``array_networks`` are supported; networks with others use ``Policy`` everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.data import Array
from understudy.policies.array_distributions import choose_parts, mode, sample, squashed_log_prob
from understudy.policies.array_layers import ACTIVATIONS, Layer, expected_value, join, one_hot, select_task
from understudy.policies.array_networks import CONVOLVED, Convolutions, GatedMemory, Memory, State
from understudy.policies.batching import in_layout
from understudy.policies.family import ActionMap, Family
from understudy.policies.spaces import members
from understudy.policies.spec import ABSENT, PolicySpec, stored
from understudy.policies.tape import Tape

JOINT_LIMIT = 50_000
"""Weights up to which policy and value function are computed as one network: 64x64 saves 7 to 10 us, 96x96 some at any
batch; 128x128 saves 9 us for 4 observations and loses 10 for 16, because its zeros are multiplied as well."""
REPEATED_ROWS, REPEATED_NUMBERS = 64, 50_000
"""Rows, and numbers, up to which biases and statistics are kept repeated for every row."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def supports(spec: PolicySpec) -> bool:
    """Say whether the NumPy forward pass covers this network."""
    return spec.activation in ACTIVATIONS and all(e.type in CONVOLVED or not e.learned for e in spec.encoders)


def keeps(spec: PolicySpec) -> bool:
    """Say whether a ``Tape`` is worth it: networks that are covered here and have convolutions to keep."""
    return supports(spec) and any(encoder.learned for encoder in spec.encoders)


class ArrayPolicy:
    """A policy's acting half over NumPy arrays, with the ``predict`` of every other policy."""

    def __init__(self, spec: PolicySpec, arrays: Mapping[str, Array], seed: int = 0) -> None:
        self.spec = spec
        self.family: Family = spec.distribution
        self.observation_space, self.action_space = spec.observations, spec.actions
        self._spaces = members(self.observation_space)
        self._shapes = {key: tuple(space.shape or ()) for key, space in self._spaces.items()}
        self._map = ActionMap(self.action_space)
        self._absent = spec.absent
        self._activate = ACTIVATIONS[spec.activation]
        self._ones = np.ones(sum(self.family.sizes), np.float32)
        self._minus_half = -0.5 * self._ones
        self._rng = np.random.default_rng(seed)
        memory = GatedMemory if spec.cell == "gru" else Memory
        self._memory = memory(spec.lstm_layers, spec.lstm) if spec.lstm else None
        self.tape: Tape | None = None
        """Where ``act`` keeps what it computes, if anybody wants it."""
        self._convolutions = {
            e.key: Convolutions(self._spaces[e.key], e.scale) for e in spec.encoders if e.type in CONVOLVED
        }
        self.update(arrays)

    def update(self, arrays: Mapping[str, Array]) -> None:
        """Take new weights and statistics, named as ``named_arrays`` names them; they are copied."""

        def layer(prefix: str) -> Layer:
            weight = np.array(arrays[f"{prefix}.weight"].T, dtype=np.float32, order="C")
            bias = arrays.get(f"{prefix}.bias")
            return weight, np.zeros(weight.shape[1], np.float32) if bias is None else np.array(bias, dtype=np.float32)

        spec = self.spec
        if self._memory is not None:
            self._memory.update(arrays)
        for key, convolutions in self._convolutions.items():
            convolutions.update(arrays, f"cnns.{stored(key) or '_'}")
        layers = {"body": [layer(f"body.{2 * i}") for i in range(len(spec.hidden))], "head": [layer("head")]}
        if spec.std == "state":
            layers["log_std_head"] = [layer("log_std_head")]
        if spec.value_hidden is not None:
            layers["value_body"] = [layer(f"value_body.{2 * i}") for i in range(len(spec.value_hidden))]
            layers["value_head"] = [layer("value_head")]
        layers |= self._join(layers)
        self._weights = {name: [weight for weight, _ in each] for name, each in layers.items()}
        self._vectors = {name: [bias for _, bias in each] for name, each in layers.items()}
        self._repeated: dict[tuple[str, int], list[Array]] = {}
        self._log_std = np.array(arrays["log_std"]) if spec.std in ("constant", "gsde") else None
        if self._log_std is not None:
            self._vectors["std"] = [np.exp(self._log_std)]
            self._log_scale = float((self._log_std + _HALF_LOG_2PI).sum())
        for key in spec.normalized:
            mean = np.array(arrays[f"normalizer_mean:{stored(key)}"])
            inverse_std = 1 / np.sqrt(np.asarray(arrays[f"normalizer_var:{stored(key)}"]) + spec.normalizer_epsilon)
            bound = np.full(mean.shape, spec.normalizer_clip)
            self._vectors[f"normalizer:{key}"] = [mean, inverse_std, -bound, bound]

    def _join(self, layers: Mapping[str, list[Layer]]) -> dict[str, list[Layer]]:
        """Return policy and value function as one network, nothing where that does not pay.

        Its last layer gives the distribution's parameters, without a constant deviation, and then the value.
        """
        spec = self.spec
        plain = (spec.tasks, spec.quantiles, spec.mean_clip, spec.head_activation) == (1, 1, 0.0, "identity")
        same_depth = spec.value_hidden is not None and len(spec.value_hidden) == len(spec.hidden)
        units = spec.unit_actions or not self.family.continuous
        if not (
            plain
            and same_depth
            and units
            and spec.std in ("none", "constant")
            and self._absent is None
            and not spec.mask
        ):
            return {}
        joint = join(layers["body"] + layers["head"], layers["value_body"] + layers["value_head"])
        fits = sum(weight.size for weight, _ in joint) <= JOINT_LIMIT
        return {"joint_body": joint[:-1], "joint_head": joint[-1:]} if fits else {}

    def _rows(self, name: str, n: int) -> list[Array]:
        """Return vectors repeated for N rows: arithmetic on equal shapes takes a third of the time of broadcasting."""
        rows = self._repeated.get((name, n))
        if rows is None:
            rows = self._vectors[name]
            if n > REPEATED_ROWS or n * sum(v.size for v in rows) > REPEATED_NUMBERS:
                return rows
            rows = self._repeated[name, n] = [np.tile(v, (n, *(1,) * v.ndim)) for v in rows]
        return rows

    def _run(self, x: Array, name: str) -> Array:
        """[N, F] -> [N, width of the last of these hidden layers]."""
        activate = self._activate
        for weight, bias in zip(self._weights[name], self._rows(name, len(x)), strict=True):
            x = x.dot(weight)  # half a microsecond less than @
            x += bias
            x = activate(x)
        return x

    def _linear(self, x: Array, name: str, obs: Any) -> Array:
        """[N, F] -> [N, P], from the head of each row's task."""
        out: Array = x.dot(self._weights[name][0])
        out += self._rows(name, len(x))[0]
        return select_task(out, np.asarray(obs["task"])) if self.spec.tasks > 1 else out

    def features(self, obs: Any, tape: Tape | None = None) -> Array:
        """[N, ...] observations -> [N, F] float32 inputs of the first layer, or of the memory."""
        parts = []
        for encoder in self.spec.encoders:
            x = np.asarray(obs[encoder.key] if isinstance(obs, dict) else obs)
            x = in_layout(x, self._shapes[encoder.key])
            if encoder.type == "one_hot":
                parts.append(one_hot(x, self._spaces[encoder.key]))
                continue
            if encoder.key in self.spec.normalized:
                x = self._normalize(x, encoder.key, obs)
            if encoder.key in self._convolutions:
                parts.append(self._convolutions[encoder.key](x, tape, encoder.key))
                continue
            x = x.astype(np.float32, copy=False).reshape(len(x), -1)
            parts.append(x * np.float32(encoder.scale) if encoder.scale != 1.0 else x)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _normalize(self, x: Array, key: str, obs: Any) -> Array:
        name = f"normalizer:{key}"
        if self.spec.task_actions:
            task = np.asarray(obs["task"]).argmax(axis=1)
            mean, inverse_std, low, high = (vector[task] for vector in self._vectors[name])
        else:
            mean, inverse_std, low, high = self._rows(name, len(x))
        x = x - mean
        x *= inverse_std
        np.maximum(x, low, out=x)  # np.clip takes four times as long as both
        np.minimum(x, high, out=x)
        return x

    def _advance(
        self, obs: Any, state: State | None, episode_start: Array | None, tape: Tape | None = None
    ) -> tuple[Array, State | None]:
        """[N, ...] observations -> [N, F] for the heads, and the next state."""
        features = self.features(obs, tape)
        if self._memory is None:
            return features, None
        start = np.zeros(len(features), bool) if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
        return self._memory.step(features, state, start, tape)

    def params(self, obs: Any) -> Array:
        """[N, ...] observations -> [N, P] distribution parameters in the policy's own action units.

        A policy with memory has seen nothing before.
        """
        return self._params(self._advance(obs, None, None)[0], obs)

    def _params(self, features: Array, obs: Any) -> Array:
        """[N, F] -> [N, P]."""
        spec = self.spec
        latent = self._run(features, "body")
        out = self._linear(latent, "head", obs)
        if spec.quantiles > 1:
            out = out.reshape(len(out), spec.quantiles, -1)
            out = expected_value(out, spec.support) if spec.support else out.mean(axis=1)
        if spec.mean_clip:
            out = np.clip(out, -spec.mean_clip, spec.mean_clip)
        if spec.head_activation == "tanh":
            out = np.tanh(out)
        if self._absent is not None:
            out = np.where(self._absent[np.asarray(obs["task"]).argmax(axis=1)], np.float32(ABSENT), out)
        if spec.mask:
            out = np.where(np.asarray(obs[spec.mask]) < 0.5, np.float32(ABSENT), out)
        if spec.std == "none":
            return out
        if spec.std == "state":
            log_std = self._linear(latent, "log_std_head", obs)
        elif spec.std == "gsde":
            assert self._log_std is not None
            log_std = 0.5 * np.log(latent**2 @ np.exp(self._log_std) ** 2 + 1e-6)
        else:
            log_std = np.broadcast_to(self._log_std, out.shape)  # type: ignore[arg-type]
        return np.concatenate((out, log_std), axis=1)

    def unit_params(self, obs: Any) -> Array:
        """[N, ...] observations -> [N, P] distribution parameters in unit actions, as ``Policy.label`` gives them."""
        return self._to_unit(self.params(obs))

    def _to_unit(self, params: Array) -> Array:
        if not self.family.continuous or self.spec.unit_actions:
            return params
        size = len(self._map.half)
        mean = (params[:, :size] - self._map.center) / self._map.half
        return np.concatenate((mean, params[:, size:] - np.log(self._map.half)[: params.shape[1] - size]), axis=1)

    def act(
        self, obs: Any, state: State | None, episode_start: Array, noise: Array
    ) -> tuple[Array, Array, Array, State | None]:
        """Act for a rollout, on trusted input; as ``Policy.act``."""
        features, state = self._advance(obs, state, episode_start, self.tape)
        if self.tape is not None:
            self.tape.length += 1
        if "joint_head" in self._weights:
            out = self._linear(self._run(features, "joint_body"), "joint_head", obs)
            params, value = out[:, :-1], out[:, -1]
        else:
            params, value = self._to_unit(self._params(features, obs)), self._value(features, obs)
        choice, log_prob = self._choose(params, noise)
        return choice, log_prob, value, state

    def value_of(self, obs: Any, state: State | None, episode_start: Array) -> Array:
        """Return the values [B] float32 of observations, 0 without a value function; as ``Policy.value_of``."""
        return self._value(self._advance(obs, state, episode_start)[0], obs)

    def _value(self, features: Array, obs: Any) -> Array:
        if self.spec.value_hidden is None:
            return np.zeros(len(features), np.float32)
        value: Array = self._linear(self._run(features, "value_body"), "value_head", obs)[:, 0]
        return value

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on one observation or a batch, as ``Policy.predict`` does."""
        key = self.spec.encoders[0].key
        probe = np.asarray(observation[key] if isinstance(observation, dict) else observation)
        single = probe.ndim == len(self._spaces[key].shape or ())
        if single:
            batch = {k: np.asarray(v)[None] for k, v in observation.items()} if isinstance(observation, dict) else probe
            observation = batch[None] if isinstance(batch, np.ndarray) else batch
        features, state = self._advance(observation, state, episode_start)
        params = self._params(features, observation)
        action = mode(self.family, params) if deterministic else sample(self.family, params, self._rng)
        actions = self._map.to_env(action, unit=self.spec.unit_actions)
        return (actions[0] if single else actions), state

    def _choose(self, params: Array, noise: Array) -> tuple[Array, Array]:
        """[N, P] in unit actions and noise [N, K] -> what ``distributions.choose_for_trace`` returns.

        A constant log standard deviation may be left out of the parameters, [N, A].
        """
        family = self.family
        if not family.stochastic:
            return mode(family, params), np.zeros(len(params), np.float32)
        if not family.continuous:
            return choose_parts(family, params, noise, self._ones)
        size = noise.shape[1]
        mean, log_std = params[:, :size], params[:, size:]
        if log_std.size == 0:
            assert self._log_std is not None
            action = noise * self._rows("std", len(noise))[0]
            log_std, log_scale = self._log_std, self._log_scale
        else:
            if family.name == "squashed_gaussian":
                log_std = np.clip(log_std, -20, 2)
            action = np.exp(log_std)
            action *= noise
            log_scale = log_std.sum(axis=1) + size * _HALF_LOG_2PI
        action += mean
        if family.name == "squashed_gaussian":
            np.tanh(action, out=action)
            return action, squashed_log_prob(mean, log_std, action)
        log_prob: Array = np.square(noise).dot(self._minus_half)
        log_prob -= log_scale
        return action, log_prob
