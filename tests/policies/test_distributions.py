"""Distributions against scipy, numerical integration, and sampling frequencies."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from understudy.policies import distributions
from understudy.policies.family import ActionMap, Family
from understudy.policies.spaces import space_from_json, space_to_json
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.draws import draw

LOG = math.log
CAT, MULTI = Family("categorical", (3,)), Family("multi_categorical", (2, 3))
GAUSS, SQUASHED = Family("gaussian", (2,)), Family("squashed_gaussian", (2,))
PARAMS = torch.tensor([[0.3, -0.5, LOG(0.4), LOG(0.9)]])


def test_categorical_log_prob_entropy_and_mode():
    logits = torch.tensor([[LOG(0.2), LOG(0.7), LOG(0.1)]]) + 5  # logits are free up to a constant
    for action, p in enumerate((0.2, 0.7, 0.1)):
        assert distributions.log_prob(CAT, logits, torch.tensor([action])).item() == pytest.approx(LOG(p), rel=1e-5)
    assert distributions.entropy(CAT, logits).item() == pytest.approx(stats.entropy([0.2, 0.7, 0.1]), rel=1e-5)
    assert distributions.mode(CAT, logits).tolist() == [1]


def test_multi_categorical_is_a_product():
    logits = torch.tensor([[LOG(0.4), LOG(0.6), LOG(0.2), LOG(0.7), LOG(0.1)]])
    log_prob = distributions.log_prob(MULTI, logits, torch.tensor([[0, 2]]))
    assert log_prob.tolist() == pytest.approx([LOG(0.4) + LOG(0.1)])
    expected = stats.entropy([0.4, 0.6]) + stats.entropy([0.2, 0.7, 0.1])
    assert distributions.entropy(MULTI, logits).tolist() == pytest.approx([expected])
    assert distributions.mode(MULTI, logits).tolist() == [[1, 1]]


def test_gaussian_log_prob_and_entropy():
    action = torch.tensor([[0.1, 0.4]])
    expected = stats.norm.logpdf(0.1, 0.3, 0.4) + stats.norm.logpdf(0.4, -0.5, 0.9)
    assert distributions.log_prob(GAUSS, PARAMS, action).item() == pytest.approx(expected, rel=1e-5)
    expected = stats.norm.entropy(0.3, 0.4) + stats.norm.entropy(-0.5, 0.9)
    assert distributions.entropy(GAUSS, PARAMS).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(distributions.mode(GAUSS, PARAMS), PARAMS[:, :2])


@pytest.mark.parametrize("action", [-0.97, -0.2, 0.0, 0.6, 0.999])
def test_squashed_gaussian_density_by_numerical_change_of_variables(action):
    # P(tanh(X) <= a) = Phi((atanh(a) - m) / s); its slope in a is the density.
    mean, std, h = 0.3, 0.8, 1e-6

    def cumulative(a):
        return stats.norm.cdf(np.arctanh(a), mean, std)

    slope = (cumulative(action + h * (1 - action**2)) - cumulative(action - h * (1 - action**2))) / (
        2 * h * (1 - action**2)
    )
    one = Family("squashed_gaussian", (1,))
    params = torch.tensor([[mean, LOG(std)]], dtype=torch.float64)
    log_prob = distributions.log_prob(one, params, torch.tensor([[action]], dtype=torch.float64))
    assert log_prob.item() == pytest.approx(LOG(slope), abs=1e-4)


def test_squashed_gaussian_density_integrates_to_one_and_is_finite_at_the_bounds():
    one, params = Family("squashed_gaussian", (1,)), torch.tensor([[0.3, LOG(0.8)]], dtype=torch.float64)

    def density(a):
        return distributions.log_prob(one, params, torch.tensor([[a]], dtype=torch.float64)).exp().item()

    assert integrate.quad(density, -1, 1)[0] == pytest.approx(1, abs=1e-4)
    assert distributions.log_prob(SQUASHED, PARAMS, torch.tensor([[1.0, -1.0]])).isfinite().all()
    assert distributions.mode(SQUASHED, PARAMS)[0, 0].item() == pytest.approx(math.tanh(0.3))


def test_squashed_deviations_are_bounded():
    _, log_std = distributions.split(SQUASHED, torch.tensor([[0.0, 0.0, 9.0, -99.0]]))
    assert log_std.tolist() == [[2.0, -20.0]]


def test_sampling_frequencies_and_moments():
    generator, n = torch.Generator().manual_seed(0), 100_000
    logits = torch.tensor([LOG(0.2), LOG(0.7), LOG(0.1)]).expand(n, 3)
    counts = torch.bincount(distributions.sample(CAT, logits, generator), minlength=3) / n
    assert counts.tolist() == pytest.approx([0.2, 0.7, 0.1], abs=4 * math.sqrt(0.25 / n))
    both = distributions.sample(MULTI, torch.tensor([0.0, LOG(3.0), 0.0, 0.0, 0.0]).expand(n, 5), generator)
    assert both.shape == (n, 2) and both[:, 0].double().mean().item() == pytest.approx(0.75, abs=0.01)
    normal = distributions.sample(GAUSS, PARAMS.expand(n, 4), generator)
    assert normal.mean(0).tolist() == pytest.approx([0.3, -0.5], abs=0.015)
    assert normal.std(0).tolist() == pytest.approx([0.4, 0.9], abs=0.015)
    squashed = distributions.sample(SQUASHED, PARAMS.expand(n, 4), generator)
    share = stats.kstest(squashed[:2000, 0].numpy(), lambda a: stats.norm.cdf(np.arctanh(a), 0.3, 0.4))
    assert squashed.abs().max() <= 1 and share.pvalue > 1e-3


def test_families_without_a_density_sample_their_mode():
    q, point = Family("q_values", (3,)), Family("deterministic", (2,))
    assert distributions.sample(q, torch.tensor([[1.0, 9.0, 2.0]])).tolist() == [1]
    assert distributions.sample(point, torch.tensor([[0.5, -2.0]])).tolist() == [[0.5, -2.0]]


def test_unit_actions_keep_the_density_up_to_the_scale():
    # Bounds 0 to 4: unit action = (a - 2) / 2, so the density gains a factor 2 per dimension.
    box = gym.spaces.Box(0.0, 4.0, (2,))
    unit = distributions.to_unit(PARAMS, GAUSS, ActionMap(box))
    action = torch.tensor([[1.0, 3.0]])
    ours = distributions.log_prob(GAUSS, unit, (action - 2) / 2)
    assert ours.item() == pytest.approx(distributions.log_prob(GAUSS, PARAMS, action).item() + 2 * LOG(2), rel=1e-5)
    point = distributions.to_unit(torch.tensor([[0.0, 3.0]]), Family("deterministic", (2,)), ActionMap(box))
    assert point.tolist() == [[-1.0, 0.5]]


def test_one_hot_and_task_heads():
    assert distributions.one_hot(torch.tensor([3, 5]), gym.spaces.Discrete(3, start=3)).tolist() == [
        [1, 0, 0],
        [0, 0, 1],
    ]
    two = distributions.one_hot(torch.tensor([[1, 0]]), gym.spaces.MultiDiscrete([2, 3]))
    assert two.tolist() == [[0, 1, 1, 0, 0]]
    late = distributions.one_hot(torch.tensor([[-1, 5]]), gym.spaces.MultiDiscrete([2, 3], start=[-2, 5]))
    assert late.tolist() == [[0, 1, 1, 0, 0]]
    out, task = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]), torch.tensor([[1, 0], [0, 1]])
    assert distributions.select_task(out, task).tolist() == [[1.0, 2.0], [7.0, 8.0]]


def test_parts_of_an_action_may_start_anywhere():
    space = gym.spaces.MultiDiscrete([3, 2], start=[1, -1])
    actions, indices = ActionMap(space), np.array([[0, 0], [2, 1]])
    assert actions.to_env(indices).tolist() == [[1, -1], [3, 0]]
    assert actions.to_unit(actions.to_env(indices)).tolist() == indices.tolist()
    noise = draw(Mixture(0.0, noise=1.0), actions, [np.random.default_rng(0)], 100, [None, None]).noise
    assert noise.min(axis=(0, 1)).tolist() == [1, -1] and noise.max(axis=(0, 1)).tolist() == [3, 0]
    assert space_from_json(space_to_json(space)) == space
    plain = gym.spaces.MultiDiscrete([3, 2])
    assert space_from_json({"type": "MultiDiscrete", "nvec": [3, 2]}) == plain and "start" not in space_to_json(plain)
