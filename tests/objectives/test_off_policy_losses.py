"""Targets and losses of replayed transitions, each against arithmetic of its own."""

import math

import numpy as np
import pytest
import torch

from understudy.objectives import off_policy


def t(*numbers):
    return torch.tensor(numbers)


def test_td_target_bootstraps_with_the_discount_and_not_after_the_end():
    target = off_policy.td_target(t(1.0, 2.0), t(0.9, 0.0), t(10.0, 99.0))
    assert target.tolist() == pytest.approx([1 + 0.9 * 10, 2.0])


def test_td_target_of_quantiles():
    target = off_policy.td_target(t(1.0), t(0.5), torch.tensor([[2.0, 4.0]]))
    assert target.tolist() == [[2.0, 3.0]]


def test_double_q_takes_the_online_choice_and_the_targets_judgement():
    target, online = torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    assert off_policy.greedy_value(target).item() == 5.0
    assert off_policy.greedy_value(target, online).item() == 3.0


def test_huber_is_a_square_near_zero_and_a_line_beyond():
    assert off_policy.huber(t(0.5, -0.5, 3.0, -3.0)).tolist() == [0.125, 0.125, 2.5, 2.5]


def test_projection_shares_the_mass_between_neighbours():
    """Atoms -1, 0, 1. From r = 0.25, discount 0.5: -1 -> -0.25 (1/4 to -1, 3/4 to 0), 0 -> 0.25, 1 -> 0.75."""
    probs = torch.tensor([[0.2, 0.3, 0.5]])
    out = off_policy.project(probs, t(0.25), t(0.5), off_policy.support(-1.0, 1.0, 3))
    expected = [0.2 * 0.25, 0.2 * 0.75 + 0.3 * 0.75 + 0.5 * 0.25, 0.3 * 0.25 + 0.5 * 0.75]
    assert out[0].tolist() == pytest.approx(expected)


def test_projection_equals_a_loop_over_atoms_and_keeps_the_mean_inside_the_support():
    rng = np.random.default_rng(0)
    atoms, n = np.linspace(-2, 2, 11), 40
    probs = rng.dirichlet(np.ones(11), n)
    reward, discount = rng.normal(0, 1, n), rng.choice([0.0, 0.9], n)
    expected = np.zeros_like(probs)
    for i in range(n):
        for j in range(11):
            z = min(max(reward[i] + discount[i] * atoms[j], -2), 2)
            place = (z + 2) / 0.4
            low = min(math.floor(place + 1e-12), 9)
            expected[i, low] += probs[i, j] * (low + 1 - place)
            expected[i, low + 1] += probs[i, j] * (place - low)
    arrays = [torch.tensor(a, dtype=torch.float64) for a in (probs, reward, discount, atoms)]
    out = off_policy.project(*arrays).numpy()
    np.testing.assert_allclose(out, expected, atol=1e-9)
    np.testing.assert_allclose(out.sum(1), 1)
    inside = np.abs(reward) + discount * 2 <= 2
    np.testing.assert_allclose(out[inside] @ atoms, (reward + discount * (probs @ atoms))[inside], atol=1e-9)


def test_the_projections_edges_lose_nothing():
    """Returns beyond the support end on its last atom, with all of their mass."""
    atoms = off_policy.support(-1.0, 1.0, 3)
    out = off_policy.project(torch.full((2, 3), 1 / 3), t(9.0, -9.0), t(0.9, 0.9), atoms)
    assert out.tolist() == [pytest.approx([0, 0, 1]), pytest.approx([1, 0, 0])]


def test_quantile_huber_against_a_loop():
    rng = np.random.default_rng(1)
    quantiles, target = rng.normal(size=(3, 4)), rng.normal(size=(3, 5))
    expected = np.zeros(3)
    for n in range(3):
        for i in range(4):
            tau = (2 * i + 1) / 8
            for j in range(5):
                u = target[n, j] - quantiles[n, i]
                size = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                expected[n] += abs(tau - (u < 0)) * size / 5
    found = off_policy.quantile_huber(torch.tensor(quantiles), torch.tensor(target))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_quantile_regression_finds_the_quantiles():
    """Of the numbers 0 to 99 the quantiles at 1/8, 3/8, 5/8 and 7/8."""
    quantiles = torch.zeros(1, 4, requires_grad=True)
    target = torch.arange(100.0)[None]
    optimizer = torch.optim.Adam([quantiles], 0.5)
    for _ in range(600):
        optimizer.zero_grad()
        off_policy.quantile_huber(quantiles, target).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(quantiles.detach()[0], [12.5, 37.5, 62.5, 87.5], atol=2)


def test_target_smoothing_clips_twice():
    action = off_policy.smoothed(torch.tensor([[0.9, 0.0]]), torch.tensor([[10.0, -1.0]]), 0.2, 0.5)
    assert action.tolist() == [pytest.approx([1.0, -0.2])]


def test_soft_value_and_temperature():
    q, log_prob = torch.tensor([[1.0, 5.0], [2.0, 4.0]]), t(-1.0, 2.0)
    assert off_policy.soft_value(q, log_prob, 0.5).tolist() == [1.5, 3.0]
    log_alpha = torch.zeros((), requires_grad=True)
    off_policy.temperature_loss(log_alpha, log_prob, -2.0).mean().backward()
    assert log_alpha.grad.item() == pytest.approx(-(0.5 - 2.0))  # the entropy, -0.5, is above -2: alpha falls


def test_softmax_kl_is_zero_for_equals_and_counts_by_hand():
    q = torch.tensor([[1.0, 0.0]])
    assert off_policy.softmax_kl((q / 0.1).log_softmax(-1), q, 0.1).item() == pytest.approx(0, abs=1e-6)
    p, s = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    expected = p * math.log(p / s) + (1 - p) * math.log((1 - p) / (1 - s))
    found = off_policy.softmax_kl(q.log_softmax(-1), torch.tensor([[0.0, 1.0]]), 0.5)
    assert found.item() == pytest.approx(expected)
