"""A policy as one traceable function: raw observations in, the distribution's parameters and the action out.

``Policy`` itself cannot be traced: its shapes depend on the batch in places, and its text encoders on the data.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from understudy.data import Array
from understudy.policies.distributions import LOG_STD_MAX, LOG_STD_MIN
from understudy.policies.encoders import GridCNN, GridMLP
from understudy.policies.family import ActionMap
from understudy.policies.policy import Policy
from understudy.policies.spaces import members, starts
from understudy.policies.spec import ABSENT, Encoder, PolicySpec, stored
from understudy.policies.text import TextBag, TextLSTM, TextWords
from understudy.teachers.exported import PARAMETERS

OBSERVATION = "obs"
"""Name of the input where observations are not a dict."""


class Graph(nn.Module):
    """The acting half of a policy; its inputs are the observation's keys and, with memory, h and c.

    Normalisation is float32 here, float64 in ``Policy``: the mean is taken off in two pieces, its float32 value and
    what that rounded away, so that large means cost no digits. Actions come out in environment units and clipped.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy, self.spec = policy, policy.spec
        self.spaces = members(policy.observation_space)
        self.keys = [e.key for e in self.spec.encoders]
        if self.spec.tasks > 1 or self.spec.task_actions:
            self.keys += [key for key in ("task",) if key not in self.keys]
        self.keys += [self.spec.mask] if self.spec.mask and self.spec.mask not in self.keys else []
        self.map = ActionMap(policy.action_space)
        for key in self.spec.normalized:
            mean = policy.get_buffer(f"normalizer_mean:{stored(key)}")
            var = policy.get_buffer(f"normalizer_var:{stored(key)}")
            rough = mean.float()
            self.register_buffer(f"mean:{stored(key)}", rough)
            self.register_buffer(f"rest:{stored(key)}", (mean - rough.double()).float())
            self.register_buffer(
                f"inverse_std:{stored(key)}", (1 / torch.sqrt(var + self.spec.normalizer_epsilon)).float()
            )
        if self.policy.family.continuous:
            for name in ("center", "half", "low", "high"):
                self.register_buffer(f"action_{name}", torch.as_tensor(getattr(self.map, name)))

    def bound(self, name: str) -> Tensor:
        """[A] ``center``, ``half``, ``low`` or ``high`` of the actions."""
        return self.get_buffer(f"action_{name}")

    @property
    def memory(self) -> list[str]:
        """Names of what is remembered: h and c of an LSTM, h of a GRU."""
        return memory_names(self.spec)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in their order."""
        return [key or OBSERVATION for key in self.keys] + self.memory

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in their order: parameters, the action, the next state."""
        names = dict.fromkeys((*PARAMETERS[self.policy.family.name], "action"))
        return [*names, *(f"{name}_out" for name in self.memory)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs by position, as ``input_names`` says -> outputs, as ``output_names`` says."""
        obs = dict(zip(self.keys, inputs, strict=False))
        features = self.encode(obs)
        state: tuple[Tensor, ...] = ()
        if self.policy.lstm is not None:
            features, state = self.remember(features, inputs[len(self.keys) :])
        latent = self.policy.body(features)
        params, mode = self.act(self.allowed(self.mean(latent, obs), obs), self.log_std(latent, obs))
        return (*params, *([] if self.policy.family.name == "deterministic" else [mode]), *state)

    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        """[N, ...] by key -> [N, F]."""
        parts = []
        for encoder in self.spec.encoders:
            x = obs[encoder.key]
            if encoder.type == "one_hot":
                parts.append(_one_hot(x, self.spaces[encoder.key]))
                continue
            if encoder.key in self.spec.normalized:
                x = self.normalize(x.to(torch.float32), encoder.key, obs)
            if encoder.learned:
                parts.append(_learned(self.policy.cnns[stored(encoder.key) or "_"], x))
            else:
                x = _scaled(x.to(torch.float32), encoder)
                parts.append(x.flatten(1) if x.ndim > 1 else x.unsqueeze(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def normalize(self, x: Tensor, key: str, obs: dict[str, Tensor]) -> Tensor:
        """[N, ...] float32 -> normalised and clipped."""
        names = ("mean", "rest", "inverse_std")
        mean, rest, inverse_std = (self.get_buffer(f"{name}:{stored(key)}") for name in names)
        if self.spec.task_actions:
            task = obs["task"].argmax(dim=-1)
            mean, rest, inverse_std = mean[task], rest[task], inverse_std[task]
        x = ((x - mean) - rest) * inverse_std
        return x.clamp(-self.spec.normalizer_clip, self.spec.normalizer_clip)

    def remember(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[N, F] and what is remembered, each [layers, N, W] -> [N, W] and the next."""
        assert self.policy.lstm is not None
        after: list[tuple[Tensor, ...]] = []
        for layer, weights in enumerate(self.policy.lstm.all_weights):
            if self.spec.cell == "gru":
                x = gru_step(x, state[0][layer], *weights)
                after.append((x,))
            else:
                x, memory = lstm_step(x, state[0][layer], state[1][layer], *weights)
                after.append((x, memory))
        return x, tuple(torch.stack(part) for part in zip(*after, strict=True))

    def mean(self, latent: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """[N, latent] -> [N, logits], [N, action values] or [N, A]."""
        spec = self.spec
        out = self.of_task(self.policy.head(latent), obs)
        if spec.quantiles > 1:
            out = out.reshape(-1, spec.quantiles, sum(self.policy.family.sizes))
            if spec.support:
                atoms = torch.linspace(spec.support[0], spec.support[1], spec.quantiles)
                out = (out.softmax(dim=1) * atoms.unsqueeze(-1)).sum(dim=1)
            else:
                out = out.mean(dim=1)
        if spec.mean_clip:
            out = out.clamp(-spec.mean_clip, spec.mean_clip)
        if spec.head_activation == "tanh":
            out = torch.tanh(out)
        if spec.absent is not None:
            absent = torch.as_tensor(spec.absent)[obs["task"].argmax(dim=-1)]
            out = out.masked_fill(absent, ABSENT)
        return out

    def allowed(self, logits: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """[N, P] -> the same, ``ABSENT`` where the state's mask forbids a choice."""
        if not self.spec.mask:
            return logits
        return logits.masked_fill(obs[self.spec.mask].to(torch.float32).flatten(1) < 0.5, ABSENT)

    def log_std(self, latent: Tensor, obs: dict[str, Tensor]) -> Tensor | None:
        """[N, latent] -> [N, A], None for families without."""
        if self.spec.std == "none":
            return None
        if self.spec.std == "constant":
            return self.policy.log_std + torch.zeros_like(latent[:, :1])
        if self.spec.std == "gsde":
            return 0.5 * torch.log(latent.square() @ self.policy.log_std.exp().square() + 1e-6)
        return self.of_task(self.policy.log_std_head(latent), obs)

    def of_task(self, out: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """[N, tasks * P] -> [N, P] of each row's task."""
        if self.spec.tasks == 1:
            return out
        weight = obs["task"].to(out.dtype)
        return (out.reshape(-1, self.spec.tasks, out.shape[1] // self.spec.tasks) * weight.unsqueeze(-1)).sum(1)

    def act(self, mean: Tensor, log_std: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Return what is published of the distribution, and the deterministic action in environment units."""
        family = self.policy.family
        if not family.continuous:
            return [mean], self.choose(mean)
        unit = self.spec.unit_actions
        mode = torch.tanh(mean) if family.name == "squashed_gaussian" else mean
        mode = self.bound("center") + self.bound("half") * mode if unit else mode
        action = torch.maximum(torch.minimum(mode, self.bound("high")), self.bound("low")).reshape(-1, *self.map.shape)
        if family.name == "deterministic":
            return [action], action
        assert log_std is not None
        if family.name == "squashed_gaussian":
            return [mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)], action
        return [mode, log_std + self.bound("half").log() if unit else log_std], action

    def choose(self, logits: Tensor) -> Tensor:
        """[N, P] -> the likeliest actions, [N] or [N, parts] int64."""
        if self.policy.family.name != "multi_categorical":
            return logits.argmax(dim=1) + int(self.map.start)
        parts = torch.split(logits, list(self.policy.family.sizes), dim=1)
        chosen = torch.stack([part.argmax(dim=1) for part in parts], dim=1)
        return chosen + torch.from_numpy(self.map.start) if self.map.start.any() else chosen

    def example(self) -> tuple[Tensor, ...]:
        """Return two rows of inputs of zeros, of the right types."""
        zeros = [torch.as_tensor(self.cast(self.empty(key, 2), key)) for key in self.keys]
        shape = self.spec.lstm_layers, 2, self.spec.lstm
        return (*zeros, *(torch.zeros(shape) for _ in self.memory))

    def empty(self, key: str, count: int) -> Array:
        """[count, *shape] zeros of a key's space, moved to where one-hot codes can read them."""
        space = self.spaces[key]
        return np.zeros((count, *(space.shape or ())), space.dtype) + getattr(space, "start", 0)

    def cast(self, x: Array, key: str) -> Array:
        """Bring an observation to the type that the input of a key has: float32, uint8 or int64."""
        return x.astype(input_type(self.spaces[key]), copy=False)


def input_type(space: gym.Space[Any]) -> type[Any]:
    """Return the type of an exported file's input: bytes stay bytes, whole numbers int64, all else float32."""
    dtype = np.dtype(space.dtype)
    if dtype == np.uint8:
        return np.uint8
    whole = not isinstance(space, gym.spaces.Box) or (dtype.kind in "iu" and dtype.itemsize > 2)
    return np.int64 if whole else np.float32


def lstm_step(
    x: Tensor, h: Tensor, c: Tensor, w_in: Tensor, w_h: Tensor, b_in: Tensor, b_h: Tensor
) -> tuple[Tensor, Tensor]:
    """[N, F], [N, W], [N, W] -> the next h and c, gates in PyTorch's order (input, forget, cell, output)."""
    gates = functional.linear(x, w_in, b_in) + functional.linear(h, w_h, b_h)
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(x: Tensor, h: Tensor, w_in: Tensor, w_h: Tensor, b_in: Tensor, b_h: Tensor) -> Tensor:
    """[N, F], [N, W] -> the next h, gates in PyTorch's order (reset, update, new)."""
    r_x, z_x, n_x = functional.linear(x, w_in, b_in).chunk(3, dim=1)
    r_h, z_h, n_h = functional.linear(h, w_h, b_h).chunk(3, dim=1)
    z = torch.sigmoid(z_x + z_h)
    return (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h


def memory_names(spec: PolicySpec) -> list[str]:
    """Return names of what a policy remembers: h and c of an LSTM, h of a GRU."""
    return [] if not spec.lstm else ["h"] if spec.cell == "gru" else ["h", "c"]


def _scaled(x: Tensor, encoder: Encoder) -> Tensor:
    if encoder.scale == 1.0:
        return x
    return x / (1 / encoder.scale) if encoder.scale < 1 else x * encoder.scale


def _one_hot(x: Tensor, space: gym.Space[Any]) -> Tensor:
    """[N] or [N, parts] integers -> [N, sum of sizes] float32."""
    sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else np.ravel(space.nvec).tolist()  # type: ignore[attr-defined]
    columns = x.reshape(-1, len(sizes))
    if any(starts(space)):
        columns = columns - torch.tensor(starts(space))
    return torch.cat([(columns[:, i : i + 1] == torch.arange(n)).float() for i, n in enumerate(sizes)], dim=1)


def _learned(network: nn.Module, x: Tensor) -> Tensor:
    """Return what a learned encoder makes of [N, ...]; those that cannot be traced are written out here."""
    if isinstance(network, GridCNN):
        cells = network.channels_first(x).permute(0, 2, 3, 1).long() + network.get_buffer("first")
        grid = functional.embedding(cells, network.embedding.weight).sum(dim=3).permute(0, 3, 1, 2)
        features: Tensor = network.linear(network.cnn(grid))
        return features
    if isinstance(network, GridMLP):
        total = functional.embedding(network.names(x), network.embedding.weight).sum(dim=1)
        return functional.relu(total + network.bias)
    if isinstance(network, TextBag | TextWords):
        rows = x.long() if isinstance(network, TextBag) else network.rows(x)
        seen = (rows != 0).float().unsqueeze(-1)
        total = (functional.embedding(rows, network.embedding.weight) * seen).sum(dim=1)
        return total / seen.sum(dim=1).clamp_min(1.0)
    if isinstance(network, TextLSTM):
        return _last_state(network, x.long())
    out: Tensor = network(x)
    return out


def _last_state(network: TextLSTM, tokens: Tensor) -> Tensor:
    """[N, L] -> [N, features], the state after the last token that is not padding."""
    words = functional.embedding(tokens, network.embedding.weight)
    h = torch.zeros_like(words[:, 0])
    c, kept = h, h
    weights = network.lstm.all_weights[0]
    for place in range(tokens.shape[1]):
        h, c = lstm_step(words[:, place], h, c, *weights)
        kept = torch.where((tokens[:, place : place + 1] != 0), h, kept)
    return kept
