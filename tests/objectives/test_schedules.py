import math
import re

import pytest

from understudy.errors import UserError
from understudy.objectives.schedules import Constant, Exponential, Linear, Piecewise, parse, to_json


@pytest.mark.parametrize(
    "text,steps,value",
    [
        (0.5, 123, 0.5),
        ("0.5", 0, 0.5),
        ("constant(2)", 9, 2.0),
        ("linear(1, 0, 20000)", 0, 1.0),
        ("linear(1, 0, 20000)", 5000, 0.75),
        ("linear(1, 0, 20000)", 30000, 0.0),
        ("linear(0.2, 1, 1e3)", 500, 0.6),
        ("cosine(1, 0, 100)", 0, 1.0),
        ("cosine(1, 0, 100)", 25, 0.5 + 0.25 * math.sqrt(2)),
        ("cosine(1, 0, 100)", 50, 0.5),
        ("cosine(1, 0.2, 100)", 400, 0.2),
        ("exponential(1, 0.99, 1000, 0.1)", 2000, 0.9801),
        ("exponential(1, 0.99, 1000, 0.1)", 500, math.sqrt(0.99)),
        ("exponential(1, 0.99, 1000, 0.1)", 10**7, 0.1),
        ("exponential(4, 0.5, 10)", 30, 0.5),
        (" piecewise( 0:1, 100:1, 200 : 0 ) ", 150, 0.5),
        ("piecewise(10:1, 20:3)", 0, 1.0),
        ("piecewise(10:1, 20:3)", 99, 3.0),
        ({"type": "linear", "start": 2, "end": 0, "steps": 4}, 1, 1.5),
        ({"type": "constant", "value": 3}, 1, 3.0),
        ({"type": "piecewise", "points": [[0, 0], [10, 1]]}, 4, 0.4),
        ({"type": "exponential", "start": 1, "decay": 0.5, "every": 1}, 3, 0.125),
    ],
)
def test_values_and_round_trip(text, steps, value):
    schedule = parse(text)
    assert schedule.value(steps) == pytest.approx(value, abs=1e-12)
    assert parse(to_json(schedule)) == schedule and parse(schedule) is schedule


def test_text_forms_may_name_shares_of_the_run():
    assert parse("linear(1, 0, 15%)", run=2000) == Linear(1, 0, 300)
    assert parse("piecewise(10%:1, 12.5 %:0)", run=800) == Piecewise(((80, 1), (100, 0)))
    assert parse("0.5", run=10) == Constant(0.5) and parse(0.5, run=10) == Constant(0.5)
    with pytest.raises(UserError, match="lr: steps must be a number, not '15%'"):
        parse("linear(1, 0, 15%)", "lr")


@pytest.mark.parametrize(("share", "steps"), [(".15%", 3), ("5e1%", 1000), ("1.e+1 %", 200), ("2.5E-1%", 5)])
def test_shares_are_numbers_of_any_spelling(share, steps):
    assert parse(f"linear(1, 0, {share})", run=2000).steps == pytest.approx(steps)
    with pytest.raises(UserError, match=f"steps must be a number, not 'x{re.escape(share)}'"):
        parse(f"linear(1, 0, x{share})", run=2000)


def test_constant_is_known():
    assert Constant(1).constant and Linear(1, 1, 5).constant and parse("cosine(1, 1, 5)").constant
    assert Exponential(1, 1, 5).constant and Piecewise(((0, 1),)).constant
    assert not Linear(1, 0, 5).constant and not parse("exponential(1, 0.9, 5)").constant
    assert not parse("piecewise(0:1, 5:0)").constant


@pytest.mark.parametrize(
    "bad,message",
    [
        ("linaer(1, 0, 5)", "did you mean linear"),
        ("linear(1, 0)", r"linear\(start, end, steps\)"),
        ("linear(1, 0, x)", "steps must be a number, not 'x'"),
        ("linear(1, 0, 0)", "steps must be above 0"),
        ("linear(1, 0, 5); import os", "is not a schedule"),
        ("linear(1, (2), 5)", "is not a schedule"),
        ("soon", "must be a schedule or a number, not 'soon'"),
        (True, "not True"),
        (None, "not None"),
        (float("nan"), "not nan"),
        ("exponential(1, 1.5, 10)", "decay"),
        ("exponential(1, 0.5, 10, 2)", "floor"),
        ("piecewise(5:1, 5:0)", "rising"),
        ("piecewise(1, 2)", "pairs"),
        ("piecewise()", "pairs"),
        ({"type": "linear", "start": 1, "stop": 0, "steps": 4}, "no field 'stop'"),
        ({"type": "linear", "start": 1, "steps": 4}, "lacks end"),
        ({"start": 1}, "type None is unknown"),
        ({"type": "piecewise", "points": 3}, "pairs"),
    ],
)
def test_mistakes_are_named(bad, message):
    with pytest.raises(UserError, match=message) as error:
        parse(bad, "teachers[0].weight")
    assert str(error.value).startswith("teachers[0].weight: ")
