"""The one policy class: student, native teacher, and what every teacher's ``predict`` looks like."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array, Observation, Target, map_obs
from understudy.policies import distributions
from understudy.policies.batching import batch_observation, in_layout
from understudy.policies.encoders import NETWORKS
from understudy.policies.family import ActionMap, Family
from understudy.policies.networks import mlp
from understudy.policies.pictures import in_threads
from understudy.policies.protocol import About, PolicyLike, State, TensorState
from understudy.policies.recurrence import blank_state, remember
from understudy.policies.spaces import members
from understudy.policies.spec import ABSENT, PICTURES, PolicySpec, encoded_size, stored
from understudy.policies.tape import Tape


class Output(NamedTuple):
    """What a policy says about [..., *] observations."""

    params: Tensor
    """[..., P] distribution parameters, in the policy's own action units."""
    value: Tensor | None
    """[...] or None."""
    state: TensorState


def as_tensors(obs: Any, device: torch.device | str = "cpu") -> Any:
    """Turn an observation of arrays into one of tensors, sharing memory where it can."""
    return map_obs(lambda a: torch.as_tensor(np.asarray(a), device=device), obs)


def on_device(array: Array, device: torch.device) -> Tensor:
    """Return an array as a tensor there; to a GPU it goes through pinned memory, so that nobody waits for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Policy(nn.Module):
    """A policy network built from a ``PolicySpec``.

    ``predict`` is for environments and people (arrays, environment units), ``act`` for rollouts (arrays, unit actions),
    ``forward`` for learning (tensors, the network's units), ``label`` for teaching (unit actions).
    """

    def __init__(self, spec: PolicySpec, about: About | None = None) -> None:
        super().__init__()
        self.spec, self.about = spec, about or About()
        self.observation_space, self.action_space = spec.observations, spec.actions
        self._family = spec.distribution
        self._spaces = members(self.observation_space)
        self._shapes = {key: tuple(space.shape or ()) for key, space in self._spaces.items()}
        self._map = ActionMap(self.action_space)
        self.threads = 1
        """Of the networks that see pictures, on the CPU; see ``policies.pictures``."""
        self._half = False
        for key in spec.normalized:
            shape = (*((len(spec.task_actions),) if spec.task_actions else ()), *(self._spaces[key].shape or ()))
            self.register_buffer(f"normalizer_mean:{stored(key)}", torch.zeros(shape, dtype=torch.float64))
            self.register_buffer(f"normalizer_var:{stored(key)}", torch.ones(shape, dtype=torch.float64))
        self._absent = None if spec.absent is None else torch.from_numpy(spec.absent)
        # Older than encoders of text, and part of the names in saved policies.
        self.cnns = nn.ModuleDict(
            {stored(e.key) or "_": NETWORKS[e.type](self._spaces[e.key], e) for e in spec.encoders if e.learned}
        )
        width = encoded_size(spec)
        # Older than GRUs, and part of the names in saved policies too.
        memory = nn.GRU if spec.cell == "gru" else nn.LSTM
        self.lstm = memory(width, spec.lstm, spec.lstm_layers) if spec.lstm else None
        width = spec.lstm or width
        self.body = mlp(width, spec.hidden, spec.activation)
        latent = spec.hidden[-1] if spec.hidden else width
        actions = sum(self._family.sizes)
        self.head = nn.Linear(latent, actions * spec.quantiles * spec.tasks, bias=spec.head_bias)
        if spec.std == "state":
            self.log_std_head = nn.Linear(latent, actions * spec.tasks)
        elif spec.std != "none":
            self.log_std = nn.Parameter(torch.zeros((latent, actions) if spec.std == "gsde" else (actions,)))
        if spec.value_hidden is not None:
            self.value_body = mlp(width, spec.value_hidden, spec.activation)
            self.value_head = nn.Linear(spec.value_hidden[-1] if spec.value_hidden else width, spec.tasks)

    @property
    def family(self) -> Family:
        """The distribution family."""
        return self._family

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def parameters_count(self) -> int:
        """How many numbers it takes to act: weights without the value function's."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("value_"))

    def see_in_half(self) -> None:
        """Keep the networks that convolve in bfloat16, in which they act faster; what follows them stays as it is.

        Weights that are loaded from now on are rounded.
        """
        self._half = True
        for network in self.cnns.values():
            if any(isinstance(layer, nn.Conv2d) for layer in network.modules()):
                network.bfloat16()

    def initial_state(self, batch: int) -> TensorState:
        """Return zeros [layers, batch, width] for h and c; None without memory."""
        if self.lstm is None:
            return None
        return blank_state(self.lstm, batch, self.device)

    def set_normalizer(self, key: str, mean: Any, var: Any) -> None:
        """Set the running statistics of a normalised key, each of the key's shape; for K tasks [K, ...]."""
        self.get_buffer(f"normalizer_mean:{stored(key)}").copy_(torch.as_tensor(np.asarray(mean)))
        self.get_buffer(f"normalizer_var:{stored(key)}").copy_(torch.as_tensor(np.asarray(var)))

    def encode(self, obs: Any, tape: Tape | None = None) -> Tensor:
        """[N, ...] observations -> [N, F] features: normalise, scale, encode, concatenate."""
        parts = []
        for encoder in self.spec.encoders:
            x = in_layout(obs[encoder.key] if isinstance(obs, dict) else obs, self._shapes[encoder.key])
            if encoder.type == "one_hot":
                parts.append(distributions.one_hot(x, self._spaces[encoder.key]))
                continue
            if x.dtype == torch.bool:  # which knows no subtraction
                x = x.to(torch.uint8)
            if encoder.key in self.spec.normalized:
                # In float64 and rounded once, as VecNormalize computes in NumPy.
                mean = self.get_buffer(f"normalizer_mean:{stored(encoder.key)}")
                var = self.get_buffer(f"normalizer_var:{stored(encoder.key)}")
                if self.spec.task_actions:
                    task = obs["task"].argmax(dim=-1)
                    mean, var = mean[task], var[task]
                x = (x - mean) / torch.sqrt(var + self.spec.normalizer_epsilon)
                x = x.clamp(-self.spec.normalizer_clip, self.spec.normalizer_clip)
            if encoder.learned and tape is not None:
                layers = [layer.reshape(-1, *layer.shape[2:]) for layer in tape.pictures[encoder.key]]
                parts.append(self.cnns[stored(encoder.key) or "_"].recall(x, layers))  # type: ignore[operator]
                continue
            if encoder.learned:
                threads = self.threads if encoder.type in PICTURES else 1
                features = in_threads(self.cnns[stored(encoder.key) or "_"], x, threads)
                parts.append(features.float() if self._half else features)
                continue
            x = x.to(torch.float32)
            if encoder.scale != 1.0:
                x = x / (1 / encoder.scale) if encoder.scale < 1 else x * encoder.scale
            parts.append(x.flatten(1) if x.ndim > 1 else x.unsqueeze(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def forward(
        self, obs: Any, state: TensorState = None, episode_start: Tensor | None = None, tape: Tape | None = None
    ) -> Output:
        """Map observations to distribution parameters.

        Args:
            obs: [N, ...] without memory; [T, B, ...] with memory and a ``state`` of batch B.
            state: h and c, [layers, B, width] each; required with memory.
            episode_start: [T, B] bool, where the state is reset before the step.
            tape: What acting computed of these very observations, with these weights.
        """
        if self.lstm is None:
            features, lead = self.encode(obs, tape), None
        else:
            first = next(iter(obs.values())) if isinstance(obs, dict) else obs
            lead = first.shape[:2]
            flat = self.encode(map_obs(lambda a: a.flatten(0, 1), obs), tape)
            features, state = remember(self.lstm, flat.view(*lead, -1), state, episode_start, tape)
        params, value = self._params(features, obs), self._value(features, obs)
        if lead is not None:
            params, value = params.view(*lead, -1), None if value is None else value.view(lead)
        return Output(params, value, state)

    def _params(self, features: Tensor, obs: Any) -> Tensor:
        """[N, F] -> [N, P]."""
        spec = self.spec
        latent = self.body(features)
        out: Tensor = self.head(latent)
        task = obs["task"] if spec.tasks > 1 else None
        if task is not None:
            out = distributions.select_task(out, task)
        if spec.quantiles > 1:
            out = out.view(len(out), spec.quantiles, -1)
            if spec.support:
                atoms = torch.linspace(spec.support[0], spec.support[1], spec.quantiles, device=out.device)
                out = (out.softmax(dim=1) * atoms.unsqueeze(-1)).sum(dim=1)
            else:
                out = out.mean(dim=1)
        if spec.mean_clip:
            out = out.clamp(-spec.mean_clip, spec.mean_clip)
        if spec.head_activation == "tanh":
            out = torch.tanh(out)
        if self._absent is not None:
            absent = self._absent.to(out.device)[obs["task"].argmax(dim=-1).flatten()]
            out = out.masked_fill(absent, ABSENT)
        out = self.allowed(out, obs)
        if spec.std != "none":
            out = torch.cat((out, self._log_std(latent, task)), dim=-1)
        return out

    def allowed(self, logits: Tensor, obs: Any) -> Tensor:
        """[N, P] -> the same, ``ABSENT`` where a state's mask forbids a choice."""
        if not self.spec.mask:
            return logits
        return logits.masked_fill(obs[self.spec.mask].reshape(len(logits), -1) < 0.5, ABSENT)

    def _value(self, features: Tensor, obs: Any) -> Tensor | None:
        """[N, F] -> [N], None without a value function."""
        if self.spec.value_hidden is None:
            return None
        value: Tensor = self.value_head(self.value_body(features))
        if self.spec.tasks > 1:
            value = distributions.select_task(value, obs["task"])
        return value.squeeze(-1)

    def _log_std(self, latent: Tensor, task: Tensor | None) -> Tensor:
        """[N, A]; for gSDE the deviation of latent @ noise with noise ~ N(0, exp(log_std)^2)."""
        if self.spec.std == "constant":
            return self.log_std.expand(len(latent), -1)
        if self.spec.std == "gsde":
            return 0.5 * torch.log(latent.square() @ self.log_std.exp().square() + 1e-6)
        out: Tensor = self.log_std_head(latent)
        return distributions.select_task(out, task) if task is not None else out

    @torch.no_grad()
    def label(
        self, obs: Observation, state: TensorState = None, episode_start: Any = None
    ) -> tuple[Target, TensorState]:
        """Return the distribution parameters in unit actions for [N, ...] (or [T, B, ...] with memory) observations."""
        starts = None if episode_start is None else torch.as_tensor(episode_start, device=self.device)
        out = self(as_tensors(obs, self.device), state, starts)
        params = out.params
        if self._family.continuous and not self.spec.unit_actions:
            params = distributions.to_unit(params, self._family, self._map)
        return Target(params, out.value), out.state

    @torch.no_grad()
    def act(
        self, obs: Observation, state: State, episode_start: Array, noise: Array
    ) -> tuple[Array, Array, Array, State]:
        """Act for a rollout, on trusted input: arrays of the observation space as environments give them.

        Args:
            obs: [B, ...].
            state: h and c, [layers, B, width] each; None at first and without memory.
            episode_start: [B] bool, where the memory is reset.
            noise: [B, K] float32, drawn by the caller: standard normal for continuous families (K = A), standard Gumbel
                for discrete ones (K = P). Families without a density take their mode.

        Returns:
            The choice (unit actions [B, A] float32 before clipping; int64 [B] or [B, parts]), its log-probability [B]
            float32 in unit actions (0 for families without a density), the value [B] float32 (0 without a value
            function), and the next state.
        """
        features, tensors, state = self._advance(obs, state, episode_start)
        params = self._params(features, tensors)
        if self._family.continuous and not self.spec.unit_actions:
            params = distributions.to_unit(params, self._family, self._map)
        drawn = torch.as_tensor(noise, device=self.device)
        choice, log_prob = distributions.choose_for_trace(self._family, params, drawn)
        return choice.cpu().numpy(), log_prob.cpu().numpy(), self._value_array(features, tensors), state

    @torch.no_grad()
    def value_of(self, obs: Observation, state: State, episode_start: Array) -> Array:
        """Return the values [B] float32 of observations, 0 without a value function; arguments as of ``act``."""
        if self.spec.value_hidden is None:
            return np.zeros(len(episode_start), np.float32)
        features, tensors, _ = self._advance(obs, state, episode_start)
        return self._value_array(features, tensors)

    def _advance(self, obs: Observation, state: State, episode_start: Array) -> tuple[Tensor, Any, State]:
        """[B, ...] arrays -> features [B, F] for the heads, the observation as tensors, and the next state."""
        tensors = as_tensors(obs, self.device)
        features = self.encode(tensors)
        if self.lstm is None:
            return features, tensors, None
        start = torch.as_tensor(episode_start, device=self.device)[None]
        inner = None if state is None else tuple(torch.as_tensor(s, device=self.device) for s in state)
        features, after = remember(self.lstm, features[None], inner, start)  # type: ignore[arg-type]
        return features, tensors, (after[0].cpu().numpy(), after[1].cpu().numpy())

    def _value_array(self, features: Tensor, obs: Any) -> Array:
        value = self._value(features, obs)
        return np.zeros(len(features), np.float32) if value is None else value.cpu().numpy()

    @torch.no_grad()
    def predict(
        self, observation: Any, state: State = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, State]:
        """Act, with the signature and the conventions of Stable-Baselines3's ``predict``.

        Args:
            observation: One observation or a batch [N, ...], of the observation space; images may come with channels
                first or last.
            state: The state returned by the last call, None at first.
            episode_start: [N] bool, which episodes just began.
            deterministic: The mode instead of a sample.

        Returns:
            Actions in environment units, without a batch axis if the observation had none; and the next state.

        Raises:
            UserError: The observation does not fit the space.
        """
        # The batch axis is added where it is missing, and images are brought into the space's layout.
        obs, single = batch_observation(observation, self.observation_space, self.spec.needed_keys)
        batch = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        tensors = as_tensors(obs, self.device)
        if self.lstm is None:
            params = self(tensors).params
        else:
            start = np.zeros(batch, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(batch)
            inner = self.initial_state(batch) if state is None else tuple(torch.as_tensor(s) for s in state)
            out = self(map_obs(lambda a: a[None], tensors), inner, torch.as_tensor(start)[None])
            params, state = out.params[0], tuple(s.numpy() for s in out.state)
        action = (distributions.mode if deterministic else distributions.sample)(self._family, params)
        actions = self._map.to_env(action.cpu().numpy(), unit=self.spec.unit_actions)
        return (actions[0] if single else actions), state


__all__ = ["About", "Output", "Policy", "PolicyLike", "State", "TensorState"]
