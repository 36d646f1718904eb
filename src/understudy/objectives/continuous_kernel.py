"""DDPG, TD3 and SAC with hand-derived gradients: the fast peer of ``learning.continuous_learner.AutogradGradients``.

Critics, with y the target and w the importance weights: L = sum_k mean_n w (y - q_k)^2 / 2, dL/dq_k = -w (y - q_k) / N.
The actor's loss needs the critics' gradient in the action alone, never in their weights:

    deterministic  L = -mean q_1(s, tanh(m)),                          dL/dm = dL/da (1 - a^2)
    soft           L = mean(alpha log pi - min_k q_k(s, a)),           a = tanh(u), u = m + e^l noise
                   log pi = sum(-noise^2 / 2 - l - log(2 pi) / 2 - log(1 - a^2))
                   dL/du = dL/da (1 - a^2) + 2 alpha a / N,            d log(1 - a^2) / du = -2 a
                   dL/dm = dL/du,   dL/dl = dL/du e^l noise - alpha / N where l is within its bounds, else 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from understudy.objectives import off_policy
from understudy.objectives.layer_stack import ACTIVATIONS, LayerStack
from understudy.policies.critics import Critics
from understudy.policies.distributions import LOG_STD_MAX, LOG_STD_MIN
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def supports(spec: PolicySpec) -> bool:
    """Say whether the kernel covers this actor: an MLP on fixed features, deterministic with tanh, or soft."""
    plain = (spec.lstm, spec.tasks, spec.mean_clip, spec.head_bias, spec.unit_actions) == (0, 1, 0.0, True, True)
    kind = (spec.family, spec.std, spec.head_activation)
    known = (("deterministic", "none", "tanh"), ("squashed_gaussian", "state", "identity"))
    learned = any(encoder.learned for encoder in spec.encoders)
    return plain and kind in known and not learned and bool(spec.hidden) and spec.activation in ACTIVATIONS


def critics_stack(critics: Critics, activation: str, only: int | None = None) -> LayerStack:
    """Return the critics, or the first few of them, over their own parameters and gradients."""
    weights, biases = (tuple(p.data[:only] for p in part) for part in (critics.weights, critics.biases))
    trained = only is None and critics.weights[0].grad is not None
    grads = (_grads(critics.weights), _grads(critics.biases)) if trained else None
    return LayerStack(weights, biases, activation, True, grads)


def _grads(parameters: Sequence[Tensor] | nn.ParameterList) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


class Actor:
    """A policy's hidden layers and last layers; parameters and gradients are the policy's own."""

    def __init__(self, policy: Policy) -> None:
        linear = [layer for layer in policy.body if isinstance(layer, nn.Linear)]
        weights, biases = [x.weight.data[None] for x in linear], [x.bias.data.view(1, 1, -1) for x in linear]
        grads = None
        if policy.head.weight.grad is not None:
            found = [(x.weight.grad, x.bias.grad) for x in linear]
            grads = [w[None] for w, _ in found if w is not None], [b.view(1, 1, -1) for _, b in found if b is not None]
        self._body = LayerStack(weights, biases, policy.spec.activation, False, grads)
        self._soft = policy.spec.std == "state"
        self._heads = [policy.head, policy.log_std_head] if self._soft else [policy.head]

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """[N, F] and [N, A] -> actions [N, A] and log-probabilities [N] (0 for a deterministic actor)."""
        self._latent = latent = self._body.forward(x)[0]
        # Few actions: products that are turned around take half the time, here and in ``ContinuousKernel.actor``.
        outs = [torch.addmm(head.bias.data[:, None], head.weight.data, latent.t()).t() for head in self._heads]
        if not self._soft:
            self._action = outs[0].tanh_()
            return self._action, outs[0].new_zeros(len(x))
        mean, raw = outs
        log_std = raw.clamp(LOG_STD_MIN, LOG_STD_MAX)
        self._inside = log_std == raw
        self._spread = log_std.exp() * noise
        u = mean + self._spread
        density = -(0.5 * noise.square() + log_std + _HALF_LOG_2PI).sum(-1)
        slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u)).sum(-1)
        self._action = u.tanh_()
        return self._action, density - slope

    def backward(self, g_action: Tensor, alpha: float) -> None:
        """Write all gradients, from that of the loss in the action [N, A] of the last ``forward``."""
        action = self._action
        g = g_action * (1 - action * action)
        gs = [g]
        if self._soft:
            share = alpha / len(action)
            g.add_(action, alpha=2 * share)
            gs.append((g * self._spread - share) * self._inside)
        g_latent = None
        for head, each in zip(self._heads, gs, strict=True):
            assert head.weight.grad is not None and head.bias.grad is not None
            torch.mm(each.t(), self._latent, out=head.weight.grad)
            torch.sum(each, dim=0, out=head.bias.grad)
            back = each @ head.weight.data
            g_latent = back if g_latent is None else g_latent.add_(back)
        assert g_latent is not None
        self._body.backward(g_latent[None])


class ContinuousKernel:
    """The gradients of critics and actor; every buffer is reused, so results last until the next call."""

    def __init__(
        self, actor: Policy, target_actor: Policy, critics: Critics, target_critics: Critics, soft: bool
    ) -> None:
        """Take networks whose parameters and gradients stay where they are."""
        name = actor.spec.activation
        self._actor, self._soft = Actor(actor), soft
        self._target_actor = self._actor if soft else Actor(target_actor)
        self._critics = critics_stack(critics, name)
        self._judges = self._critics if soft else critics_stack(critics, name, only=1)
        self._target_critics = critics_stack(target_critics, name)
        self._inputs: dict[int, Tensor] = {}
        self._size = critics.weights[0].shape[2]

    def _join(self, x: Tensor, action: Tensor) -> Tensor:
        """[N, F] and [N, A] -> [N, F + A]."""
        joint = self._inputs.get(len(x))
        if joint is None:
            joint = self._inputs[len(x)] = x.new_empty(len(x), self._size)
        joint[:, : x.shape[1]] = x
        joint[:, x.shape[1] :] = action
        return joint

    @torch.no_grad()
    def next_values(self, x: Tensor, noise: Tensor, alpha: float, std: float, clip: float) -> Tensor:
        """Return the targets' values of the next features, [N]."""
        action, log_prob = self._target_actor.forward(x, noise)
        if self._soft:
            q = self._target_critics.forward(self._join(x, action))[..., 0]
            return off_policy.soft_value(q, log_prob, alpha)
        action = off_policy.smoothed(action, noise, std, clip)
        least: Tensor = self._target_critics.forward(self._join(x, action))[..., 0].amin(dim=0)
        return least

    @torch.no_grad()
    def critics(self, x: Tensor, action: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the critics' gradient; returns the loss and the errors [K, N]."""
        error = target - self._critics.forward(self._join(x, action))[..., 0]
        weighted = error * weight
        loss = 0.5 * (weighted * error).sum() / len(x)
        self._critics.backward((weighted * (-1 / len(x))).unsqueeze(-1))
        return loss, error

    @torch.no_grad()
    def actor(self, x: Tensor, noise: Tensor, alpha: float) -> Tensor:
        """Fill the actor's gradient; returns the log-probabilities [N]."""
        action, log_prob = self._actor.forward(x, noise)
        q = self._judges.forward(self._join(x, action))  # [K, N, 1]
        g = (q == q.amin(dim=0, keepdim=True)).to(q.dtype)
        g.mul_(-1 / len(x)).div_(g.ne(0).sum(dim=0, keepdim=True))  # critics that agree share it, as autograd has it
        first = self._judges.backward(g, weights=False)  # [K, N, H]
        into = self._judges.weights[0][:, :, x.shape[1] :].transpose(1, 2).contiguous()  # [K, A, H]
        g_action = torch.bmm(into, first.transpose(1, 2)).sum(dim=0).t()  # [N, A]
        self._actor.backward(g_action, alpha)
        return log_prob
