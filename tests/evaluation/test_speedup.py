"""Env steps to a score, by arithmetic of its own."""

import math

import pytest

from understudy.errors import UserError
from understudy.evaluation.speedup import Comparison, check_span, saving, steps_to
from understudy.evaluation.speedup_picture import draw, on_one_grid

CURVE = [(100, 0.0), (200, 4.0), (300, 2.0), (400, 10.0)]


@pytest.mark.parametrize(("score", "expected"), [(2, 150), (4, 200), (6, 350), (10, 400), (11, math.inf), (-1, 50)])
def test_steps_to_a_score(score, expected):
    """From -2 at step 0: -1 is crossed half way to the first point; 6 is crossed half way between the last two."""
    assert steps_to(CURVE, score, -2.0) == pytest.approx(expected)


def test_the_first_crossing_counts():
    assert steps_to(CURVE, 3, -2.0) == pytest.approx(175)


def test_speedup_with_and_without_the_teachers_steps():
    """Student at 50 % (score 5 of 0..10) after 50 and 150 steps, scratch after 200 and 400: 300 / 100 = 3."""
    student = [[(100, 10.0)], [(300, 10.0)]]
    scratch = [[(400, 10.0)], [(800, 10.0)]]
    found = saving(0.5, student, scratch, 10.0, 0.0, 1000, teacher_steps=200)
    assert found.student == (50, 150) and found.scratch == (200, 400)
    assert found.speedup == pytest.approx(3) and found.counted == pytest.approx(1)
    assert not found.at_least
    low, high = found.interval
    assert low == pytest.approx(200 / 150) and high == pytest.approx(400 / 50)  # the extremes of two seeds


def test_scratch_that_never_comes_there_is_a_lower_bound():
    found = saving(1.0, [[(100, 10.0)]], [[(1000, 5.0)]], 10.0, 0.0, 1000)
    assert found.at_least and found.speedup == pytest.approx(10) and math.isnan(found.interval.low)


def test_a_run_that_ended_early_counts_with_its_last_evaluation():
    """A budget that it did not use says nothing: 300 and 1000 (of 1100) against 100 are at least 6.5."""
    found = saving(1.0, [[(100, 10.0)]] * 2, [[(150, 2.0), (300, 8.0)], [(1100, 5.0)]], 10.0, 0.0, 1000)
    assert found.at_least and found.speedup == pytest.approx(6.5) and found.scratch == (math.inf, math.inf)
    assert saving(1.0, [[(100, 10.0)]], [[]], 10.0, 0.0, 1000).speedup == 0


def test_a_student_that_never_comes_there_has_no_speedup():
    assert math.isnan(saving(1.0, [[(100, 1.0)]], [[(1000, 10.0)]], 10.0, 0.0, 1000).speedup)


def test_a_teacher_no_better_than_chance_is_refused():
    with pytest.raises(UserError, match="random policy 5"):
        check_span(5.0, 5.0)


def test_picture_and_json(tmp_path):
    steps, scores = on_one_grid(([(100, 1.0)], [(200, 4.0)]), 0.0)
    assert steps.tolist() == [0, 100, 200] and scores.tolist() == [[0, 1, 1], [0, 2, 4]]
    curves = ([(100, 1.0)],), ([(200, 0.5)],)
    saved = (saving(1.0, *curves, 1.0, 0.0, 200),)
    found = Comparison("e", 200, 1.0, 0.0, *curves, (1.0,), (0.5,), {"teacher": [(100, 1.0)]}, saved)
    assert draw(found, tmp_path / "a.png").stat().st_size > 5000
    assert found.to_json()["savings"][0]["scratch"] == [None] and found.to_json()["savings"][0]["at_least"]
