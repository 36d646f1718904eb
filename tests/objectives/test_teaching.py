"""Each term's gradient against arithmetic of its own; schedules that follow what is measured."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.data import Target
from understudy.errors import UserError
from understudy.objectives import feedback
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.feedback import Gated, Product, Scaled, TargetKL, ends, parse_weight
from understudy.objectives.schedules import Constant, Exponential, Linear, parse
from understudy.objectives.teaching import FromTeacher, ValueFromTeacher
from understudy.policies.family import Family
from understudy.policies.policy import Output, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec

ACTIONS = 3
FAMILY = Family("categorical", (ACTIONS,))


@pytest.fixture
def policy():
    spaces = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(ACTIONS)
    return Policy(PolicySpec(*map(space_to_json, spaces), "categorical", value_hidden=(4,)))


def numbers(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def soft(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gradient(term, policy, batch, logits, value=None):
    logits = logits.clone().requires_grad_()
    loss, parts = term.diagnosed_loss(policy, batch, Output(logits, value, None))
    loss.backward()
    return float(loss.detach()), logits.grad.numpy(), parts


def test_cross_entropy_to_the_teacher(policy):
    """d/dz_S H(T, S) = softmax(z_S) - softmax(z_T), over N; the diagnostic is H(T, S) - H(T)."""
    teacher, student = numbers(0, 5, ACTIONS), numbers(1, 5, ACTIONS)
    batch = Batch(torch.zeros(5, 2), targets=(None, Target(teacher)))
    term = FromTeacher(Distance("cross_entropy"), FAMILY, number=1, name="b")
    loss, grad, parts = gradient(term, policy, batch, student)
    t, s = soft(teacher.numpy()), soft(student.numpy())
    np.testing.assert_allclose(grad, (s - t) / 5, atol=1e-6)
    assert loss == pytest.approx(-(t * np.log(s)).sum(1).mean(), abs=1e-5)
    assert float(parts["kl/b"]) == pytest.approx((t * np.log(t / s)).sum(1).mean(), abs=1e-5)


def test_the_value_gate_opens_where_the_teacher_expects_more(policy):
    """States with V_T <= V_S give no gradient; those left are still divided by all."""
    teacher, student = numbers(2, 4, ACTIONS), numbers(3, 4, ACTIONS)
    theirs, mine = torch.tensor([1.0, 0.0, 2.0, 0.5]), torch.tensor([0.5, 0.5, 3.0, 0.5])
    batch = Batch(torch.zeros(4, 2), targets=(Target(teacher, theirs),))
    term = FromTeacher(Distance("forward_kl"), FAMILY, gate=True)
    _, grad, parts = gradient(term, policy, batch, student, mine)
    expected = (soft(student.numpy()) - soft(teacher.numpy())) / 4
    expected[1:] = 0
    np.testing.assert_allclose(grad, expected, atol=1e-6)
    assert float(parts["gate/teacher"]) == 0.25
    with pytest.raises(UserError, match="teacher has no value"):
        gradient(term, policy, batch._replace(targets=(Target(teacher),)), student, mine)


def test_the_proximal_ratio_weighs_and_is_learnt_through(policy):
    """w = max(r, 1 - clip): the gradient is w dKL + KL dr where r is above the bound, else w dKL alone."""
    teacher, student = numbers(4, 6, ACTIONS), numbers(5, 6, ACTIONS)
    action = torch.tensor([0, 1, 2, 0, 1, 2])
    s, t = soft(student.numpy()), soft(teacher.numpy())
    chosen = np.log(s[np.arange(6), action])
    old = chosen - np.log([2.0, 0.3, 1.0, 0.5, 0.9, 4.0])
    batch = Batch(torch.zeros(6, 2), targets=(Target(teacher),), action=action, log_prob=torch.tensor(old).float())
    term = FromTeacher(Distance("forward_kl"), FAMILY, proximal=0.2)
    loss, grad, _ = gradient(term, policy, batch, student)
    ratio = np.array([2.0, 0.3, 1.0, 0.5, 0.9, 4.0])
    weight, kl = np.maximum(ratio, 0.8), (t * np.log(t / s)).sum(1)
    through = (ratio > 0.8) * ratio * kl
    expected = weight[:, None] * (s - t) + through[:, None] * (np.eye(ACTIONS)[action] - s)
    np.testing.assert_allclose(grad, expected / 6, atol=1e-5)
    assert loss == pytest.approx((weight * kl).mean(), rel=1e-5)


def test_a_teacher_of_some_states(policy):
    teacher, student = numbers(6, 2, ACTIONS), numbers(7, 2, ACTIONS)
    expected = (soft(student.numpy()) - soft(teacher.numpy())) / 2
    for task in (torch.eye(2), torch.tensor([0, 1])):  # one-hot, or a number
        batch = Batch({"task": task}, targets=(Target(teacher),))
        for k in (0, 1):
            term = FromTeacher(Distance("forward_kl"), FAMILY, where=("task", k))
            _, grad, parts = gradient(term, policy, batch, student)
            np.testing.assert_allclose(grad[k], expected[k], atol=1e-6)
            assert not grad[1 - k].any()
            t, s = soft(teacher.numpy())[k], soft(student.numpy())[k]
            assert float(parts["kl/teacher"]) == pytest.approx((t * np.log(t / s)).sum(), abs=1e-5)


def test_values_from_the_teacher(policy):
    mine = torch.tensor([1.0, 2.0], requires_grad=True)
    batch = Batch(torch.zeros(2, 2), targets=(Target(torch.zeros(2, 3), torch.tensor([0.0, 5.0])),))
    ValueFromTeacher(0).loss(policy, batch, Output(torch.zeros(2, 3), mine, None)).backward()
    np.testing.assert_allclose(mine.grad, [1.0, -3.0])


def test_gate_of_performance():
    weight = parse_weight("gated(2)", "w", 100)
    assert isinstance(weight, Gated) and weight.value(0) == 2  # before anything is known
    weight.teacher, weight.random = 10.0, -10.0
    assert weight.value(0) == 2
    for score, expected in ((-10, 2), (0, 1), (5, 0.5), (10, 0), (30, 0), (-30, 2)):
        weight.student = score
        assert weight.value(0) == pytest.approx(expected)
    weight.teacher = -11.0
    assert weight.value(0) == 0


def test_target_kl_moves_towards_the_target():
    weight = parse_weight("target_kl(0.1, 1, 1000)", "w", 100)
    weight.observe(0.11, 100)
    assert weight.value(0) == pytest.approx(1 + 0.1 * 0.1)  # 10 % too far, 100 of 1000 steps
    weight.observe(5.0, 1000)
    assert weight.value(0) == pytest.approx(1.01 * 1.2)  # clipped
    weight.observe(0.0, 500)
    assert weight.value(0) == pytest.approx(1.01 * 1.2 * 0.9)
    other = TargetKL(0.1, 1, 1000)
    feedback.restore(other, feedback.state(Scaled(weight)))
    assert other.value(0) == weight.value(0)


def test_shares_of_the_run_and_begin():
    weight = Scaled(parse_weight("linear(1, 0, 15%)", "w", 1000), 2.0, 100)
    assert [weight.value(k) for k in (0, 99, 100, 175, 250, 900)] == pytest.approx([0, 0, 2, 1, 0, 0])
    assert ends(weight) == 250
    assert Product(Constant(3.0), Linear(1, 0, 10), 5).value(5) == 1.5
    assert Product(Constant(3.0), Linear(1, 0, 10), 6).value(5) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1", math.inf), ("linear(1, 0, 50)", 50), ("linear(1, 0.1, 50)", math.inf),
     ("piecewise(0:1, 10:0, 20:0)", 10), ("piecewise(0:0, 10:1)", math.inf), ("piecewise(0:0)", 0)],
)  # fmt: skip
def test_when_a_schedule_ends(text, expected):
    assert ends(parse(text)) == expected


def test_when_an_exponential_ends():
    assert ends(Exponential(1, 0.5, 10)) == math.inf


@pytest.mark.parametrize(
    "text", ["gated()", "gated(0)", "gated(1, 2)", "target_kl(0.1)", "target_kl(0, 1)", "target_kl(a, 1)", "gatd(1)"]
)
def test_weights_that_are_none(text):
    with pytest.raises(UserError):
        parse_weight(text, "teaching.weight", 100)
