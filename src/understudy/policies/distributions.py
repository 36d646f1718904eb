"""Distributions over plain parameter tensors: mode, sample, log-probability, entropy; see ``policies.family``.

Hand-written over tensors rather than ``torch.distributions``: objects and their validation cost more than the
arithmetic at these sizes. Continuous actions are in the units of the parameters.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from understudy.policies.family import ActionMap, Family
from understudy.policies.spaces import outside, starts

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of a state-dependent log standard deviation (Haarnoja 2018, the authors' code)."""


def split(family: Family, params: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 2A] -> means and log standard deviations, [..., A] each; squashed deviations are bounded."""
    mean, log_std = params.chunk(2, dim=-1)
    if family.name == "squashed_gaussian":
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    return mean, log_std


def parts(family: Family, params: Tensor) -> tuple[Tensor, ...]:
    """[..., P] -> logits of each discrete part, [..., n_i]."""
    return tuple(torch.split(params, list(family.sizes), dim=-1))


def mode(family: Family, params: Tensor) -> Tensor:
    """[..., P] -> the deterministic action: [...] index, [..., parts] indices, or [..., A] numbers (unclipped)."""
    if family.name in ("categorical", "q_values"):
        return params.argmax(dim=-1)
    if family.name == "multi_categorical":
        return torch.stack([part.argmax(dim=-1) for part in parts(family, params)], dim=-1)
    if family.name == "deterministic":
        return params
    mean, _ = split(family, params)
    return torch.tanh(mean) if family.name == "squashed_gaussian" else mean


def sample(family: Family, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """[..., P] -> a random action, shaped as ``mode`` returns; families without a density return their mode."""
    if not family.stochastic:
        return mode(family, params)
    if not family.continuous:
        # Gumbel-max: argmax(logits + Gumbel noise) is a sample of softmax(logits).
        uniform = torch.rand(params.shape, generator=generator, dtype=params.dtype).clamp_min(1e-20).to(params.device)
        return mode(family, params - torch.log(-torch.log(uniform)))
    mean, log_std = split(family, params)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
    action = mean + log_std.exp() * noise
    return torch.tanh(action) if family.name == "squashed_gaussian" else action


def choose(family: Family, params: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """[N, P] and noise [N, K] -> an action, shaped as ``mode`` returns, and its log-probability [N].

    The noise is standard normal for continuous families, standard Gumbel for discrete ones; families without a density
    return their mode, and 0. A Gaussian's log density follows from the noise alone: -sum(noise^2 / 2 + log std + log(2
    pi) / 2); that of a squashed one needs no atanh of an action that the tanh has rounded to 1.
    """
    if not family.stochastic:
        return mode(family, params), params.new_zeros(len(params))
    if not family.continuous:
        choice = mode(family, params + noise)
        return choice, log_prob(family, params, choice)
    mean, log_std = split(family, params)
    action = torch.addcmul(mean, log_std.exp(), noise)
    density = -(0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
    if family.name == "squashed_gaussian":
        return torch.tanh(action), density - _log_slope(action)
    return action, density


def choose_for_trace(family: Family, params: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """As ``choose``, with the log-probability [N] that ``log_prob`` gives to the action.

    Whoever learns from a trace knows the action alone, and of a squashed one not what the tanh rounded: were its exact
    density kept, the ratio of an unchanged policy would not be 1.
    """
    action, density = choose(family, params, noise)
    return action, log_prob(family, params, action) if family.name == "squashed_gaussian" else density


def _log_slope(raw: Tensor) -> Tensor:
    """[..., A] before the tanh -> [...] log |d tanh(raw) / d raw|, stable for large numbers."""
    return 2 * (math.log(2) - raw - functional.softplus(-2 * raw)).sum(-1)


def log_prob(family: Family, params: Tensor, action: Tensor) -> Tensor:
    """[..., P] parameters and an action shaped as ``mode`` returns -> [...] log-probability (density).

    A squashed Gaussian's density counts the change of variables, log(1 - tanh(x)^2) = 2(log 2 - x - softplus(-2x))
    (Haarnoja 2018, appendix C); actions are pulled 1e-6 inside the bounds first.
    """
    if not family.continuous:
        chosen = action.unsqueeze(-1) if family.name != "multi_categorical" else action
        logs = [part.log_softmax(-1) for part in parts(family, params)]
        picked = [log.gather(-1, chosen[..., i : i + 1].long()) for i, log in enumerate(logs)]
        return torch.cat(picked, dim=-1).sum(-1)
    mean, log_std = split(family, params)
    if family.name == "squashed_gaussian":
        raw = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
        return gaussian_log_prob(mean, log_std, raw) - _log_slope(raw)
    return gaussian_log_prob(mean, log_std, action)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """[..., A] -> [...] log density of a diagonal Gaussian."""
    z = (action - mean) * torch.exp(-log_std)
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(family: Family, params: Tensor) -> Tensor:
    """[..., P] -> [...] entropy in nats; for a squashed Gaussian that of the Gaussian before the tanh."""
    if not family.continuous:
        logs = [part.log_softmax(-1) for part in parts(family, params)]
        return torch.stack([-(log.exp() * log).sum(-1) for log in logs]).sum(0)
    _, log_std = split(family, params)
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def to_unit(params: Tensor, family: Family, action_map: ActionMap) -> Tensor:
    """[..., P] continuous parameters in environment units -> in unit actions."""
    center, half = torch.as_tensor(action_map.center), torch.as_tensor(action_map.half)
    if family.name == "deterministic":
        return (params - center) / half
    mean, log_std = params.chunk(2, dim=-1)
    return torch.cat(((mean - center) / half, log_std - half.log()), dim=-1)


def one_hot(x: Tensor, space: gym.Space[Any]) -> Tensor:
    """[N] or [N, parts] integers -> [N, sum of sizes] float32."""
    sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else np.ravel(space.nvec).tolist()  # type: ignore[attr-defined]
    columns = x.reshape(len(x), -1).long()
    if any(starts(space)):
        columns = columns - torch.tensor(starts(space), device=x.device)
    try:
        return torch.cat([functional.one_hot(columns[:, i], n) for i, n in enumerate(sizes)], dim=1).float()
    except RuntimeError:  # a number that is none of the classes
        raise outside(x.cpu().numpy(), space) from None


def select_task(out: Tensor, task: Tensor) -> Tensor:
    """[N, tasks * P] and one-hot [N, tasks] (or [T, B, tasks]) -> [N, P], each row from its task's head."""
    weight = task.reshape(len(out), -1).to(out.dtype)
    return (out.view(len(out), weight.shape[1], -1) * weight.unsqueeze(-1)).sum(1)
