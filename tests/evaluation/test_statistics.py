import numpy as np
import pytest
from scipy import stats

from understudy.errors import UserError
from understudy.evaluation.statistics import bootstrap_interval, iqm, mean


@pytest.mark.parametrize("count", [1, 3, 4, 7, 10, 41])
def test_iqm_is_the_trimmed_mean(count):
    x = np.random.default_rng(count).exponential(size=(5, count))
    np.testing.assert_allclose(iqm(x), stats.trim_mean(x, 0.25, axis=1))


def test_iqm_by_hand():
    assert iqm(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == pytest.approx((2 + 3 + 4 + 5) / 4)


@pytest.mark.parametrize("statistic", [mean, iqm])
@pytest.mark.parametrize("skewed", [False, True])
def test_interval_agrees_with_scipy(statistic, skewed):
    rng = np.random.default_rng(3)
    x = rng.exponential(size=40) if skewed else rng.normal(size=40)
    found = bootstrap_interval(x, statistic, resamples=20_000)
    wanted = stats.bootstrap(
        (x,), lambda s, axis: statistic(s), n_resamples=20_000, method="BCa", random_state=1
    ).confidence_interval
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_interval_is_seeded_and_contains_the_estimate():
    x = np.random.default_rng(0).normal(5, 2, 30)
    assert bootstrap_interval(x) == bootstrap_interval(x)
    assert bootstrap_interval(x, seed=1) != bootstrap_interval(x)
    low, high = bootstrap_interval(x)
    assert low < x.mean() < high
    wide = bootstrap_interval(x, level=0.99)
    assert wide.low < low and wide.high > high


def test_interval_of_constant_and_single_returns():
    assert bootstrap_interval(np.full(9, 500.0)) == (500, 500)
    assert bootstrap_interval(np.array([3.0]), iqm) == (3, 3)


def test_interval_of_two_values_is_finite():
    # Ties everywhere: the correction for bias must not become infinite.
    low, high = bootstrap_interval(np.array([500.0] * 9 + [20.0]))
    assert 20 <= low < high <= 500


@pytest.mark.parametrize("broken", [[], [1.0, np.nan], [np.inf, 0.0]])
def test_broken_returns(broken):
    with pytest.raises(UserError):
        bootstrap_interval(np.array(broken))


def test_coverage():
    rng = np.random.default_rng(0)
    hits = sum(
        low <= 0 <= high for low, high in (bootstrap_interval(rng.normal(size=30), resamples=500) for _ in range(400))
    )
    assert 0.90 < hits / 400 < 0.98
