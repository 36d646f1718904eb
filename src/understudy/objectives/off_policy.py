"""Learning from replayed transitions: targets and losses as pure functions, one number per transition.

N transitions, n actions, K atoms or quantiles, A action components. ``discount`` is what the value of the next
observation counts: gamma^k after k steps, 0 where the task ended (``rollouts.replay``).

| method       | target                                             | loss                      |
|--------------|----------------------------------------------------|---------------------------|
| DQN          | ``td_target`` of ``greedy_value``                  | ``huber``                 |
| double DQN   | the same with the online network's choice          | ``huber``                 |
| C51, Rainbow | ``project`` of the chosen action's distribution    | ``categorical_loss``      |
| QR-DQN       | ``td_target`` of the chosen action's quantiles     | ``quantile_huber``        |
| DDPG, TD3    | ``td_target`` of q(s', ``smoothed`` action)        | square; actor: -q         |
| SAC          | ``td_target`` of ``soft_value``                    | square; alpha log pi - q  |
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """R + gamma^k V(s') (Sutton 1988), [N]; or [N, K] with quantiles of the value, [N, K]."""
    if next_value.ndim > reward.ndim:
        reward, discount = reward.unsqueeze(-1), discount.unsqueeze(-1)
    return reward + discount * next_value


def pick(values: Tensor, action: Tensor) -> Tensor:
    """[N, n] values, or [N, K, n] of atoms or quantiles, and choices [N] -> [N] or [N, K]."""
    index = action.view(-1, *(1,) * (values.ndim - 1)).expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)


def greedy_value(target: Tensor, online: Tensor | None = None) -> Tensor:
    """[N, n] values by the target network -> [N]: the greatest (Mnih 2015), or that of the online network's choice.

    With ``online`` [N, n] it is double Q-learning (van Hasselt 2016, eq. 4): who chooses does not judge.
    """
    return pick(target, (target if online is None else online).argmax(dim=-1))


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2); elementwise (Mnih 2015 clips the gradient alike)."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))


def support(low: float, high: float, atoms: int) -> Tensor:
    """[K] values of the atoms, evenly spaced."""
    return torch.linspace(low, high, atoms)


def project(probs: Tensor, reward: Tensor, discount: Tensor, atoms: Tensor) -> Tensor:
    """Bring the distribution of R + gamma^k Z(s') back onto the atoms (Bellemare 2017, algorithm 1).

    Every atom z_j moves to r + discount z_j, clipped to the support, and its probability is shared between the two
    atoms beside it, the nearer one getting more.

    Args:
        probs: [N, K] probabilities of the next state's atoms.
        reward: [N].
        discount: [N].
        atoms: [K], evenly spaced, rising.

    Returns:
        [N, K] probabilities, whose sum over K is that of ``probs``.
    """
    count, step = len(atoms), atoms[1] - atoms[0]
    moved = td_target(reward, discount, atoms.expand_as(probs)).clamp(atoms[0], atoms[-1])
    place = ((moved - atoms[0]) / step).clamp(0, count - 1)
    low = place.floor()
    above = place - low  # share of the upper neighbour
    index = low.long()
    out = torch.zeros_like(probs)
    out.scatter_add_(1, index, probs * (1 - above))
    out.scatter_add_(1, (index + 1).clamp_max(count - 1), probs * above)
    return out


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of [N, K] target probabilities to softmax(logits) [N, K] -> [N] (Bellemare 2017, section 4.1)."""
    return -(target * logits.log_softmax(dim=-1)).sum(-1)


def quantile_huber(quantiles: Tensor, target: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile regression with the Huber loss (Dabney 2018, eq. 10): [N, K] and target samples [N, K'] -> [N].

    sum_i mean_j |tau_i - 1(u_ij < 0)| L_kappa(u_ij) / kappa, u_ij = target_j - quantile_i, tau_i = (2 i + 1) / 2K.
    """
    error = target.unsqueeze(1) - quantiles.unsqueeze(2)  # [N, K, K']
    count = quantiles.shape[1]
    tau = (torch.arange(count, device=quantiles.device) + 0.5).div(count).view(1, count, 1)
    weight = (tau - (error.detach() < 0).to(error.dtype)).abs()
    return (weight * huber(error, kappa) / kappa).mean(dim=2).sum(dim=1)


def smoothed(action: Tensor, noise: Tensor, std: float, clip: float) -> Tensor:
    """Unit actions with clipped noise, kept within the bounds: TD3's target policy smoothing (Fujimoto 2018, eq. 14).

    [N, A] actions and standard normal noise -> clip(a + clip(std e, -c, c), -1, 1).
    """
    return (action + (std * noise).clamp(-clip, clip)).clamp(-1, 1)


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor | float) -> Tensor:
    """min_i q_i - alpha log pi, [K, N] critics and [N] -> [N] (Haarnoja 2018b, eq. 3; the least of two: section 5)."""
    return q.amin(dim=0) - alpha * log_prob


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log alpha (log pi + H), [N]; its gradient raises alpha where the entropy is below H (Haarnoja 2018b, eq. 18).

    Differs in: log alpha in the place of alpha, as in the authors' code.
    """
    return -log_alpha * (log_prob.detach() + target_entropy)


def double_q_loss(q: Tensor, target: Tensor) -> Tensor:
    """Half the squared errors of K critics, summed over them: [K, N] and [N] -> [N]."""
    return 0.5 * (q - target).square().sum(dim=0)


def softmax_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(pi_T || softmax(q_S / tau)) of log-probabilities and action values, [N, n] each -> [N] (Agarwal 2022, eq. 3).

    A teacher with action values has pi_T = softmax(q_T / tau).
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    return functional.kl_div(log_student, teacher, reduction="none", log_target=True).sum(-1)
