"""A policy as plain NumPy: the forward pass of small networks without PyTorch.

Batch-1 calls cost 5 to 10 microseconds where a PyTorch module costs 20, and a rollout worker that uses it starts
without importing PyTorch. Equal to ``Policy`` within float tolerance (a test says so); networks with an LSTM or
convolutions are not supported and use ``Policy`` everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.policies.family import ActionMap, Family
from understudy.policies.spaces import members
from understudy.policies.spec import ABSENT, PolicySpec

Layer = tuple[Array, Array | None]
"""Weight [in, out], contiguous, and bias [out] or None."""


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # the same function, and nothing overflows


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0, out=x),
    "elu": _elu,
    "silu": lambda x: x * _sigmoid(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": _sigmoid,
    "identity": lambda x: x,
}


def supports(spec: PolicySpec) -> bool:
    """Say whether the NumPy forward pass covers this network."""
    return not spec.lstm and spec.activation in _ACTIVATIONS and all(e.type != "nature_cnn" for e in spec.encoders)


class ArrayPolicy:
    """A policy's acting half over NumPy arrays, with the ``predict`` of every other policy."""

    def __init__(self, spec: PolicySpec, arrays: Mapping[str, Array], seed: int = 0) -> None:
        self.spec = spec
        self.family: Family = spec.distribution
        self.observation_space, self.action_space = spec.observations, spec.actions
        self._spaces = members(self.observation_space)
        self._map = ActionMap(self.action_space)
        self._absent = spec.absent
        self._activate = _ACTIVATIONS[spec.activation]
        self._rng = np.random.default_rng(seed)
        self.update(arrays)

    def update(self, arrays: Mapping[str, Array]) -> None:
        """Take new weights and statistics, named as ``named_arrays`` names them; they are copied."""

        def layer(prefix: str) -> Layer:
            bias = arrays.get(f"{prefix}.bias")
            weight = np.ascontiguousarray(arrays[f"{prefix}.weight"].T, dtype=np.float32)
            return weight, None if bias is None else np.array(bias, dtype=np.float32)

        self._body = [layer(f"body.{2 * i}") for i in range(len(self.spec.hidden))]
        self._head = layer("head")
        self._log_std_head = layer("log_std_head") if self.spec.std == "state" else None
        self._log_std = np.array(arrays["log_std"]) if self.spec.std in ("constant", "gsde") else None
        self._normalizer = {
            key: (
                np.array(arrays[f"normalizer_mean:{key}"]),
                1 / np.sqrt(np.asarray(arrays[f"normalizer_var:{key}"]) + self.spec.normalizer_epsilon),
            )
            for key in self.spec.normalized
        }

    def features(self, obs: Any) -> Array:
        """[N, ...] observations -> [N, F] float32 inputs of the first layer."""
        parts = []
        for encoder in self.spec.encoders:
            x = np.asarray(obs[encoder.key] if isinstance(obs, dict) else obs)
            if encoder.type == "one_hot":
                parts.append(_one_hot(x, self._spaces[encoder.key]))
                continue
            if encoder.key in self._normalizer:
                mean, inverse_std = self._normalizer[encoder.key]
                if self.spec.task_actions:
                    task = np.asarray(obs["task"]).argmax(axis=1)
                    mean, inverse_std = mean[task], inverse_std[task]
                x = (x - mean) * inverse_std
                if np.isfinite(self.spec.normalizer_clip):
                    x = np.clip(x, -self.spec.normalizer_clip, self.spec.normalizer_clip)
            x = x.astype(np.float32, copy=False).reshape(len(x), -1)
            parts.append(x * np.float32(encoder.scale) if encoder.scale != 1.0 else x)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def params(self, obs: Any) -> Array:
        """[N, ...] observations -> [N, P] distribution parameters in the policy's own action units."""
        spec = self.spec
        latent = self.features(obs)
        for weight, bias in self._body:
            latent = self._activate(latent @ weight + bias)
        task = np.asarray(obs["task"]) if spec.tasks > 1 else None
        out = _linear(latent, self._head, task)
        if spec.quantiles > 1:
            out = out.reshape(len(out), spec.quantiles, -1).mean(axis=1)
        if spec.mean_clip:
            out = np.clip(out, -spec.mean_clip, spec.mean_clip)
        if spec.head_activation == "tanh":
            out = np.tanh(out)
        if self._absent is not None:
            out = np.where(self._absent[np.asarray(obs["task"]).argmax(axis=1)], np.float32(ABSENT), out)
        if spec.std == "none":
            return out
        if self._log_std_head is not None:
            log_std = _linear(latent, self._log_std_head, task)
        elif spec.std == "gsde":
            assert self._log_std is not None
            log_std = 0.5 * np.log(latent**2 @ np.exp(self._log_std) ** 2 + 1e-6)
        else:
            log_std = np.broadcast_to(self._log_std, out.shape)  # type: ignore[arg-type]
        return np.concatenate((out, log_std), axis=1)

    def unit_params(self, obs: Any) -> Array:
        """[N, ...] observations -> [N, P] distribution parameters in unit actions, as ``Policy.label`` gives them."""
        params = self.params(obs)
        if not self.family.continuous or self.spec.unit_actions:
            return params
        size = len(self._map.half)
        mean = (params[:, :size] - self._map.center) / self._map.half
        return np.concatenate((mean, params[:, size:] - np.log(self._map.half)[: params.shape[1] - size]), axis=1)

    def act(self, obs: Any, deterministic: bool = True) -> Array:
        """[N, ...] observations -> unit actions [N, A] before clipping, or indices, from trusted input."""
        action = self._mode(self.params(obs)) if deterministic else self._sample(self.params(obs))
        if self.family.continuous and not self.spec.unit_actions:
            action = (action - self._map.center) / self._map.half
        return action

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on one observation or a batch, as ``Policy.predict`` does; images must be in the space's layout."""
        key = self.spec.encoders[0].key
        probe = np.asarray(observation[key] if isinstance(observation, dict) else observation)
        single = probe.ndim == len(self._spaces[key].shape or ())
        if single:
            batch = {k: np.asarray(v)[None] for k, v in observation.items()} if isinstance(observation, dict) else probe
            observation = batch[None] if isinstance(batch, np.ndarray) else batch
        params = self.params(observation)
        action = self._mode(params) if deterministic else self._sample(params)
        actions = self._map.to_env(action, unit=self.spec.unit_actions)
        return (actions[0] if single else actions), state

    def _mode(self, params: Array) -> Array:
        name = self.family.name
        if name in ("categorical", "q_values"):
            chosen: Array = params.argmax(axis=1)
            return chosen
        if name == "multi_categorical":
            pieces = np.split(params, np.cumsum(self.family.sizes)[:-1], axis=1)
            return np.stack([piece.argmax(axis=1) for piece in pieces], axis=1)
        if name == "deterministic":
            return params
        mean = params[:, : params.shape[1] // 2]
        return np.tanh(mean) if name == "squashed_gaussian" else mean

    def _sample(self, params: Array) -> Array:
        if not self.family.stochastic:
            return self._mode(params)
        if not self.family.continuous:
            return self._mode(params + self._rng.gumbel(size=params.shape))
        mean, log_std = np.split(params, 2, axis=1)
        if self.family.name == "squashed_gaussian":
            log_std = np.clip(log_std, -20, 2)
        action: Array = mean + np.exp(log_std) * self._rng.standard_normal(mean.shape, dtype=np.float32)
        return np.tanh(action) if self.family.name == "squashed_gaussian" else action


def _linear(x: Array, layer: Layer, task: Array | None) -> Array:
    weight, bias = layer
    out = x @ weight
    if bias is not None:
        out += bias
    if task is not None:
        out = (out.reshape(len(x), task.shape[1], -1) * task[:, :, None]).sum(axis=1)
    return np.asarray(out)


def _one_hot(x: Array, space: gym.Space[Any]) -> Array:
    sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else np.ravel(space.nvec).tolist()  # type: ignore[attr-defined]
    start = int(getattr(space, "start", 0)) if len(sizes) == 1 else 0
    columns = x.reshape(len(x), -1).astype(np.int64) - start
    return np.concatenate([np.eye(n, dtype=np.float32)[columns[:, i]] for i, n in enumerate(sizes)], axis=1)
