import json
import math

import numpy as np
import pytest
from scipy import stats

from understudy.errors import UserError
from understudy.evaluation.parity import (
    SequentialParity,
    episodes_needed,
    moments,
    p_value,
    parity_test,
    unseen_rate,
    with_fall,
)

RHO = 0.95


def _normal(rng, n):
    seed = rng.normal(0, 100, n)  # what the seed does to both
    teacher = 1000 + seed + rng.normal(0, 50, n)
    return 950 + 0.95 * seed + rng.normal(0, 50, n), teacher, rng.normal(0, 50, 100)


def _both_fall(rng, n):
    def returns():
        return np.where(rng.random(n) < 0.1, rng.normal(200, 50, n), rng.normal(1000, 30, n))

    return RHO * returns(), returns(), rng.normal(0, 50, 100)


def _only_the_student_falls(rng, n):
    # A student as good as its teacher, but for a fall in 1 of 16 episodes: exactly at the boundary.
    student = np.where(rng.random(n) < 0.05 / 0.8, rng.normal(200, 30, n), rng.normal(1000, 30, n))
    return student, rng.normal(1000, 30, n), rng.normal(0, 50, 100)


def _passes(draw, n, paired, guard=False, runs=1500):
    rng, passed = np.random.default_rng(n), 0
    for _ in range(runs):
        student, teacher, random = draw(rng, n)
        if guard:
            student, teacher = with_fall(student, teacher, random)
        passed += p_value(moments(student, teacher, random, paired), RHO) <= 0.05
    return passed / runs


# 1500 runs: the standard error of 5 % is 0.6 %.
@pytest.mark.parametrize("n", [5, 10, 20, 100])
@pytest.mark.parametrize("draw", [_normal, _both_fall])
def test_type_one_error_at_the_boundary(draw, n):
    assert _passes(draw, n, paired=True) <= 0.05 + 2.5 * 0.006


@pytest.mark.parametrize("n", [5, 20, 100])
def test_type_one_error_of_unpaired_tests(n):
    def independent(rng, n):
        student, _, random = _normal(rng, n)
        return student, _normal(rng, n)[1], random

    assert 0.02 <= _passes(independent, n, paired=False) <= 0.05 + 2.5 * 0.006


def test_rare_falls_mislead_the_test_and_the_guard_sees_them():
    # As documented: no test can see what did not happen.
    assert _passes(_only_the_student_falls, 10, paired=True, runs=500) > 0.3
    for n in (10, 59, 100):
        assert _passes(_only_the_student_falls, n, paired=True, guard=True, runs=800) <= 0.05


def test_guard_needs_59_episodes_without_a_fall():
    random = np.linspace(20, 24, 50)
    for n, passes in ((50, False), (59, True), (80, True)):
        perfect = np.full(n, 500.0)
        assert parity_test(perfect, perfect, random, RHO, guard_falls=True).passed is passes
    found = parity_test(np.full(10, 500.0), np.full(10, 500.0), random, RHO, guard_falls=True)
    assert found.ratio_estimate == pytest.approx(1) and found.ratio_lower_bound < RHO and found.episodes == 10


def test_paired_by_hand():
    student, teacher = np.array([90.0, 110, 100, 96]), np.array([100.0, 108, 103, 97])
    random = np.array([10.0, 14, 12])
    found = parity_test(student, teacher, random, 0.9, paired=True)
    x = student - 0.9 * teacher
    parts = np.array([x.var(ddof=1) / 4, 0.1**2 * random.var(ddof=1) / 3])
    margin, error = x.mean() - 0.1 * 12, math.sqrt(parts.sum())
    degrees = parts.sum() ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2)
    assert found.margin == pytest.approx(margin) and found.standard_error == pytest.approx(error)
    assert found.degrees == pytest.approx(degrees)
    assert found.p_value == pytest.approx(stats.t.sf(margin / error, degrees))
    assert found.ratio_estimate == pytest.approx((99 - 12) / (102 - 12))
    assert found.unseen_rate == pytest.approx(1 - 0.05**0.25)


def test_ratio_one_is_scipys_t_test():
    rng = np.random.default_rng(0)
    student, teacher, random = rng.normal(11, 2, 12), rng.normal(10, 3, 12), rng.normal(0, 1, 5)
    paired = stats.ttest_rel(student, teacher, alternative="greater").pvalue
    welch = stats.ttest_ind(student, teacher[:9], equal_var=False, alternative="greater").pvalue
    assert parity_test(student, teacher, random, 1.0, paired=True).p_value == pytest.approx(paired)
    assert parity_test(student, teacher[:9], random, 1.0, paired=False).p_value == pytest.approx(welch)


@pytest.mark.parametrize("paired", [True, False])
def test_bound_is_the_largest_ratio_that_passes(paired):
    rng = np.random.default_rng(1)
    student, teacher, random = rng.normal(97, 4, 15), rng.normal(100, 5, 15), rng.normal(20, 3, 10)
    bound = parity_test(student, teacher, random, 0.5, paired=paired).ratio_lower_bound
    assert 0.8 < bound < parity_test(student, teacher, random, 0.5, paired=paired).ratio_estimate
    assert parity_test(student, teacher, random, bound - 1e-6, paired=paired).passed
    assert not parity_test(student, teacher, random, bound + 1e-6, paired=paired).passed


def test_bound_of_a_teacher_that_may_be_no_better_than_random():
    teacher = np.array([0.0, 10, -9, 12, -8])
    found = parity_test(teacher[::-1], teacher, np.array([0.0, 9, -10, 8, -7]), 0.9, paired=False)
    assert found.ratio_lower_bound == -math.inf and not found.passed


def test_constant_returns():
    full, random = np.full(5, 500.0), np.full(5, 9.0)
    for ratio in (0.95, 1.0):
        found = parity_test(full, full, random, ratio)
        assert found.passed and found.p_value == 0 and found.ratio_lower_bound == found.ratio_estimate == 1
    short = parity_test(np.full(5, 400.0), full, random, RHO)
    assert not short.passed and short.p_value == 1
    # 0.1 + 0.2 style rounding at exact equality.
    third = np.full(7, 0.1 + 0.2)
    assert parity_test(np.full(7, 0.3), third, np.zeros(7), 1.0).passed
    noisy = parity_test(full, full, np.random.default_rng(0).normal(22, 10, 20), RHO)
    assert noisy.passed and 0 < noisy.p_value < 1e-6


@pytest.mark.parametrize(
    ("student", "teacher", "random", "message"),
    [
        ([1.0, 2], [0.0, 1], [5.0, 6], "not above the random"),
        ([1.0], [0.0], [5.0, 6], "at least 2 episodes of the student"),
        ([1.0, 2], [3.0, 4, 5], [0.0, 1], "same seeds"),
        ([1.0, np.nan], [3.0, 4], [0.0, 1], "student has NaN"),
    ],
)
def test_refusals(student, teacher, random, message):
    with pytest.raises(UserError, match=message):
        parity_test(np.array(student), np.array(teacher), np.array(random), RHO)


def test_sequential_spends_alpha_and_resumes():
    rng = np.random.default_rng(0)
    test = SequentialParity(RHO, alpha=0.05)
    spent = []
    for _ in range(5):
        spent.append(test.look(*_normal(rng, 10)).alpha)
    np.testing.assert_allclose(spent, [0.05 / (j * (j + 1)) for j in range(1, 6)])
    other = SequentialParity(RHO, alpha=0.05)
    other.restore(json.loads(json.dumps(test.state())))
    assert other.next_alpha == test.next_alpha == pytest.approx(0.05 / 42)
    assert sum(0.05 / (j * (j + 1)) for j in range(1, 10_000)) < 0.05


def test_sequential_looks_seldom_pass_wrongly():
    # 10 looks at a growing sample at the boundary; a naive test would pass in about a fifth of the runs.
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        student, teacher, random = _normal(rng, 100)
        test = SequentialParity(RHO)
        for n in range(10, 101, 10):  # not by ``look``, which finds a bound each time
            passed = p_value(moments(student[:n], teacher[:n], random, paired=True), RHO) <= test.next_alpha
            test.spend()
            if passed:
                wrong += 1
                break
    assert wrong / 300 <= 0.05 + 2.5 * 0.0126


def test_a_look_that_raises_spends_nothing():
    test = SequentialParity(RHO)
    with pytest.raises(UserError):
        test.look(np.array([1.0]), np.array([1.0]), np.zeros(3))
    assert test.looks == 0


def test_episodes_needed_reaches_the_promised_power():
    rng = np.random.default_rng(0)

    def draw(n):
        seed = rng.normal(0, 100, n)
        return 975 + seed + rng.normal(0, 40, n), 1000 + seed + rng.normal(0, 40, n), rng.normal(0, 50, 100)

    needed = episodes_needed(*draw(5000), RHO)
    assert needed is not None and 10 < needed < 100
    power = np.mean([p_value(moments(*draw(needed), True), RHO) <= 0.05 for _ in range(600)])
    assert 0.72 < power < 0.88
    student, teacher, random = draw(40)
    assert episodes_needed(student - 100, teacher, random, RHO) is None
    assert episodes_needed(np.full(5, 500.0), np.full(5, 500.0), np.zeros(5), RHO) == 2


def test_unseen_rate_is_the_rule_of_three():
    assert unseen_rate(100) == pytest.approx(3 / 100, rel=0.03)
    assert (1 - unseen_rate(59)) ** 59 == pytest.approx(0.05)
