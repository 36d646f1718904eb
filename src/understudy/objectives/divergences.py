"""Distances between two distributions in closed form, as pure functions of their parameters.

P is the teacher's distribution, Q the student's. Discrete functions take log-probabilities [..., n] and return [...];
Gaussian ones take means and log standard deviations [..., A] and return one number per action dimension, [..., A],
whose sum over A is the distance of the diagonal Gaussians.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(P||Q) = sum_a p(a) (log p(a) - log q(a)); [..., n] -> [...]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def categorical_cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """H(P, Q) = -sum_a p(a) log q(a); [..., n] -> [...] (Schmitt 2018, eq. 2)."""
    return -(log_p.exp() * log_q).sum(-1)


def categorical_jsd(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """JSD_beta = beta KL(P||M) + (1 - beta) KL(Q||M), M = beta P + (1 - beta) Q; [..., n] -> [...].

    Agarwal 2024 (GKD, arXiv 2306.13649), eq. 1. Differs in the ends, where the equation is 0: there stand the limits of
    JSD_beta / beta and JSD_beta / (1 - beta), KL(P||Q) at 0 and KL(Q||P) at 1. So the scale jumps at the ends.
    """
    if beta == 0.0:
        return categorical_kl(log_p, log_q)
    if beta == 1.0:
        return categorical_kl(log_q, log_p)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * categorical_kl(log_p, log_m) + (1 - beta) * categorical_kl(log_q, log_m)


def gaussian_kl(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """KL(P||Q) = log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2; [..., A] -> [..., A].

    The KL of two distributions does not change under a bijection that both share, so this is also that of squashed
    Gaussians, on their parameters before the tanh.
    """
    ratio = torch.exp(2 * (log_std_p - log_std_q))
    z = (mean_p - mean_q) * torch.exp(-log_std_q)
    return log_std_q - log_std_p + 0.5 * (ratio + z.square() - 1)


def gaussian_cross_entropy(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """H(P, Q) = log s_q + log(2 pi) / 2 + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2); [..., A] -> [..., A].

    Before the tanh; the cross-entropy of squashed Gaussians differs from it by E_P[log(1 - tanh(x)^2)], which does not
    depend on the student.
    """
    return gaussian_kl(mean_p, log_std_p, mean_q, log_std_q) + log_std_p + 0.5 * math.log(2 * math.pi * math.e)


def gaussian_wasserstein2(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
    """W2(P, Q)^2 = (m_p - m_q)^2 + (s_p - s_q)^2; [..., A] -> [..., A]; a deterministic action has s = 0.

    Dowson and Landau 1982, for diagonal covariances.
    """
    return (mean_p - mean_q).square() + (std_p - std_q).square()


def huber(error: Tensor, delta: float) -> Tensor:
    """e^2 / 2 where abs(e) <= delta, else delta (abs(e) - delta / 2); elementwise (Huber 1964)."""
    inside = error.clamp(-delta, delta)
    return inside * (error - 0.5 * inside)


def saturating_error(action: Tensor, target: Tensor) -> Tensor:
    """Student's action minus teacher's, both [..., A], but 0 where both lie beyond the same bound of [-1, 1].

    The environment clips actions, so where the teacher's is at a bound, a student beyond it acts alike. A student
    inside is pulled to the bound, a student beyond the bound where the teacher is inside is pulled back: unlike after
    clipping the student's action, no gradient is lost.
    """
    lower, upper = saturating_interval(target)
    return action - torch.minimum(torch.maximum(action, lower), upper)


def saturating_interval(target: Tensor) -> tuple[Tensor, Tensor]:
    """[..., A] teacher actions -> lower and upper ends, [..., A] each, of the student actions that act alike."""
    lower = torch.where(target <= -1, -math.inf, target.clamp(max=1.0))
    upper = torch.where(target >= 1, math.inf, target.clamp(min=-1.0))
    return lower, upper


def reduce(components: Tensor, mask: Tensor | None, mean: bool) -> Tensor:
    """Sum or mean over the last axis, [..., A] -> [...]; with weights [..., A] the weighted sum or mean."""
    if mask is None:
        return components.mean(-1) if mean else components.sum(-1)
    total = (components * mask).sum(-1)
    return total / mask.sum(-1).clamp_min(1e-8) if mean else total
