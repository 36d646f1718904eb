"""Each distance against its own arithmetic: enumeration, numerical integration, scipy, or numbers written out."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from understudy.errors import UserError
from understudy.objectives.distances import NAMES, Distance, default_distance
from understudy.policies.family import Family

LOG = math.log
CAT, MULTI, Q = Family("categorical", (2,)), Family("multi_categorical", (2, 3)), Family("q_values", (2,))
GAUSS, SQUASHED, POINT = (Family(name, (2,)) for name in ("gaussian", "squashed_gaussian", "deterministic"))
P, S = np.array([0.8, 0.2]), np.array([0.5, 0.5])
T_LOGITS, S_LOGITS = torch.tensor([[LOG(0.8), LOG(0.2)]]), torch.tensor([[3.0, 3.0]])
# Means 0.3 and -0.5, deviations 0.4 and 0.9; the student's: 0.1, 0.2 and 0.5, 0.6.
T_GAUSS = torch.tensor([[0.3, -0.5, LOG(0.4), LOG(0.9)]])
S_GAUSS = torch.tensor([[0.1, 0.2, LOG(0.5), LOG(0.6)]])


def close(value, expected, tolerance=1e-5):
    assert value.tolist() == pytest.approx([expected] if np.ndim(expected) == 0 else expected, rel=tolerance, abs=1e-6)


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def softmax(x):
    e = np.exp(np.asarray(x) - np.max(x))
    return e / e.sum()


def test_categorical_by_enumeration():
    m = 0.3 * P + 0.7 * S
    expected = {
        "forward_kl": kl(P, S),
        "reverse_kl": kl(S, P),
        "cross_entropy": -0.8 * LOG(0.5) - 0.2 * LOG(0.5),
        "reverse_cross_entropy": -0.5 * LOG(0.8) - 0.5 * LOG(0.2),
        "nll": -LOG(0.5),
        "jsd": 0.3 * kl(P, m) + 0.7 * kl(S, m),
    }
    for name, value in expected.items():
        close(Distance(name, beta=0.3)(CAT, T_LOGITS, CAT, S_LOGITS), value)
    close(Distance("forward_kl")(CAT, T_LOGITS, CAT, S_LOGITS), 0.8 * LOG(1.6) + 0.2 * LOG(0.4))
    assert stats.entropy(P, S) == pytest.approx(kl(P, S))


def test_jsd_ends_are_the_kl_divergences_and_its_middle_is_symmetric():
    close(Distance("jsd", beta=0.0)(CAT, T_LOGITS, CAT, S_LOGITS), kl(P, S))
    close(Distance("jsd", beta=1.0)(CAT, T_LOGITS, CAT, S_LOGITS), kl(S, P))
    middle = Distance("jsd", beta=0.5)
    close(middle(CAT, T_LOGITS, CAT, S_LOGITS), middle(CAT, S_LOGITS, CAT, T_LOGITS).item())
    small = Distance("jsd", beta=1e-3)(CAT, T_LOGITS.double(), CAT, S_LOGITS.double())
    assert small.item() / 1e-3 == pytest.approx(kl(P, S), rel=2e-3)  # the limit that beta 0 stands for


def test_multi_categorical_is_the_distance_of_the_joint():
    generator = np.random.default_rng(0)
    t, s = generator.normal(size=(2, 5))

    def joint(x):
        return np.outer(softmax(x[:2]), softmax(x[2:])).ravel()

    both = (torch.tensor(t)[None], torch.tensor(s)[None])
    close(Distance("forward_kl")(MULTI, both[0], MULTI, both[1]), kl(joint(t), joint(s)))
    close(Distance("reverse_kl")(MULTI, both[0], MULTI, both[1]), kl(joint(s), joint(t)))
    close(Distance("cross_entropy")(MULTI, both[0], MULTI, both[1]), -np.sum(joint(t) * np.log(joint(s))))
    # The most likely joint action is that of the most likely parts.
    close(Distance("nll")(MULTI, both[0], MULTI, both[1]), -LOG(joint(s)[joint(t).argmax()]))


def test_temperatures():
    t, s = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0]])
    hot, cold = softmax([0.5, 1.0]), softmax([100.0, 200.0])
    close(Distance("forward_kl", temperature=2)(CAT, t, CAT, s), kl(hot, softmax([0.5, 0.0])))
    close(Distance("forward_kl", temperature=2, temperature_of="both")(CAT, t, CAT, s), kl(hot, softmax([0.25, 0.0])))
    close(Distance("cross_entropy")(Q, t, CAT, s), -np.sum(cold * np.log(softmax([0.5, 0.0]))))  # Rusu: 0.01, teacher
    close(Distance("forward_kl")(Q, t, Q, s), stats.entropy(softmax([10, 20]), softmax([5, 0])))  # QDagger: 0.1, both
    close(Distance("nll", temperature=0.5)(Q, t, Q, s), -LOG(softmax([1.0, 0.0])[1]))


def gaussian_kl_by_integration(p, q):
    def integrand(x):
        return stats.norm.pdf(x, *p) * (stats.norm.logpdf(x, *p) - stats.norm.logpdf(x, *q))

    return integrate.quad(integrand, p[0] - 12 * p[1], p[0] + 12 * p[1])[0]


TEACHER, STUDENT = ((0.3, 0.4), (-0.5, 0.9)), ((0.1, 0.5), (0.2, 0.6))


def test_gaussian_by_integration():
    pairs = list(zip(TEACHER, STUDENT, strict=True))
    forward = sum(gaussian_kl_by_integration(t, s) for t, s in pairs)
    close(Distance("forward_kl")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), forward)
    close(Distance("jsd", beta=0.0)(GAUSS, T_GAUSS, GAUSS, S_GAUSS), forward)
    reverse = sum(gaussian_kl_by_integration(s, t) for t, s in pairs)
    close(Distance("reverse_kl")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), reverse)
    entropy = sum(stats.norm.entropy(*t) for t in TEACHER)
    close(Distance("cross_entropy")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), forward + entropy)
    mine = sum(stats.norm.entropy(*s) for s in STUDENT)
    close(Distance("reverse_cross_entropy")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), reverse + mine)
    close(Distance("nll")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), -sum(stats.norm.logpdf(t[0], *s) for t, s in pairs))


def test_gaussian_kl_by_hand():
    # One dimension counts: log(0.5 / 0.4) + (0.16 + 0.04) / 0.5 - 0.5 = 0.22314 + 0.4 - 0.5.
    same = torch.tensor([[0.3, 0.2, LOG(0.4), LOG(0.6)]])
    close(Distance("forward_kl")(GAUSS, same, GAUSS, S_GAUSS), 0.1231436)


def test_kl_is_invariant_under_the_tanh():
    (m, s), (n, r) = (0.3, 0.4), (0.1, 0.5)

    def log_density(a, mean, std):
        return stats.norm.logpdf(math.atanh(a), mean, std) - math.log(1 - a * a)

    def integrand(a):
        return math.exp(log_density(a, m, s)) * (log_density(a, m, s) - log_density(a, n, r))

    expected = integrate.quad(integrand, -1 + 1e-9, 1 - 1e-9, limit=200)[0]
    one = Family("squashed_gaussian", (1,))
    t, q = torch.tensor([[m, LOG(s)]]), torch.tensor([[n, LOG(r)]])
    close(Distance("forward_kl")(one, t, one, q), expected, 1e-4)
    close(Distance("nll")(one, t, one, q), -log_density(math.tanh(m), n, r), 1e-4)


def test_wasserstein_by_quantiles():
    # W2^2 = integral over u of (F_T^-1(u) - F_S^-1(u))^2, per dimension.
    u = (np.arange(200_000) + 0.5) / 200_000
    quantile = [(stats.norm.ppf(u, *t) - stats.norm.ppf(u, *s)) ** 2 for t, s in zip(TEACHER, STUDENT, strict=True)]
    close(Distance("wasserstein2")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), sum(q.mean() for q in quantile), 1e-3)
    close(Distance("wasserstein2")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), 0.04 + 0.01 + 0.49 + 0.09)
    close(Distance("wasserstein2")(POINT, T_GAUSS[:, :2], GAUSS, S_GAUSS), 0.04 + 0.25 + 0.49 + 0.36)


def test_std_floor_of_the_teacher_only():
    floored = torch.tensor([[0.3, -0.5, LOG(0.7), LOG(0.9)]])
    for name in ("forward_kl", "reverse_kl", "cross_entropy", "wasserstein2"):
        ours = Distance(name, std_floor=0.7)(GAUSS, T_GAUSS, GAUSS, S_GAUSS)
        close(ours, Distance(name)(GAUSS, floored, GAUSS, S_GAUSS).item())


def test_mse_and_huber_are_means_over_the_action():
    t, s = torch.tensor([[0.1, -0.5]]), torch.tensor([[0.3, 0.5]])
    close(Distance("mse")(POINT, t, POINT, s), (0.04 + 1.0) / 2)
    close(Distance("huber", delta=0.5)(POINT, t, POINT, s), (0.02 + 0.5 * 0.75) / 2)
    close(
        Distance("mse")(SQUASHED, T_GAUSS, POINT, s), ((math.tanh(0.3) - 0.3) ** 2 + (math.tanh(-0.5) - 0.5) ** 2) / 2
    )
    close(Distance("mse")(POINT, t, SQUASHED, S_GAUSS), ((math.tanh(0.1) - 0.1) ** 2 + (math.tanh(0.2) + 0.5) ** 2) / 2)
    close(Distance("mse", on="params")(GAUSS, T_GAUSS, GAUSS, S_GAUSS), (T_GAUSS - S_GAUSS).square().mean().item())
    close(Distance("mse")(Q, torch.tensor([[3.0, 1.0]]), Q, torch.tensor([[1.0, 1.5]])), (4 + 0.25) / 2)
    close(Distance("huber")(CAT, torch.tensor([[3.0, 1.0]]), CAT, torch.tensor([[1.0, 1.5]])), (1.5 + 0.125) / 2)


def test_saturation_is_one_sided():
    one = Family("deterministic", (1,))
    teacher = torch.tensor([3.0, 1.0, 3.0, 0.5, -2.0, -2.0, -1.0])[:, None]
    student = torch.tensor([1.5, 9.0, 0.8, 1.5, -1.1, 1.5, -0.5])[:, None].requires_grad_()
    loss = Distance("mse")(one, teacher, one, student)
    close(loss, [0.0, 0.0, 0.04, 1.0, 0.0, 6.25, 0.25])
    loss.sum().backward()
    close(student.grad[:, 0], [0.0, 0.0, -0.4, 2.0, 0.0, 5.0, 1.0])
    close(Distance("mse", saturate=False)(one, teacher, one, student.detach())[:2], [2.25, 64.0])
    close(Distance("huber")(one, teacher, one, student.detach())[:4], [0.0, 0.0, 0.02, 0.5])
    close(Distance("nll")(one, torch.tensor([[3.0]]), Family("gaussian", (1,)), torch.tensor([[0.5, 0.0]])),
          -stats.norm.logpdf(1.0, 0.5, 1.0))  # fmt: skip


def test_mask_of_padded_actions():
    mask = torch.tensor([[1.0, 0.0]])
    padded = torch.tensor([[0.3, 99.0, LOG(0.4), LOG(0.9)]])
    close(Distance("mse")(GAUSS, padded, GAUSS, S_GAUSS, mask), 0.04)
    close(Distance("mse", on="params")(GAUSS, T_GAUSS, GAUSS, S_GAUSS, mask), (0.04 + LOG(0.8) ** 2) / 2)
    first = gaussian_kl_by_integration(TEACHER[0], STUDENT[0])
    close(Distance("forward_kl")(GAUSS, T_GAUSS, GAUSS, S_GAUSS, mask), first)
    close(Distance("nll")(GAUSS, T_GAUSS, GAUSS, S_GAUSS, mask), -stats.norm.logpdf(0.3, 0.1, 0.5))
    three, two_of_three = Family("categorical", (3,)), torch.tensor([[1.0, 1.0, 0.0]])
    t, s = (torch.cat((x, torch.tensor([[99.0]])), dim=1).requires_grad_() for x in (T_LOGITS, S_LOGITS))
    for name in ("forward_kl", "reverse_kl", "cross_entropy", "jsd", "nll"):
        value = Distance(name)(three, t, three, s, two_of_three)
        close(value, Distance(name)(CAT, T_LOGITS, CAT, S_LOGITS).item())
        (gradient,) = torch.autograd.grad(value.sum(), s)
        assert gradient[0, 2] == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_student_has_no_gradient_and_sequences_keep_their_shape(name):
    for family, size in ((CAT, 2), (MULTI, 5), (GAUSS, 4), (SQUASHED, 4)):
        distance = Distance(name, beta=1.0 if family.continuous else 0.5)
        try:
            distance.check(family, family)
        except UserError:
            continue
        params = torch.randn(3, 5, size, dtype=torch.float64).requires_grad_()
        value = distance(family, params.detach(), family, params)
        assert value.shape == (3, 5)
        (gradient,) = torch.autograd.grad(value.sum(), params)
        if name not in ("nll", "reverse_cross_entropy"):  # those end at the likeliest action
            assert gradient.abs().max() < 1e-9


REFUSED = [
    ("forward_kl", POINT, GAUSS, "point mass.*use nll, mse or huber"),
    ("forward_kl", POINT, POINT, "use mse or huber"),
    ("reverse_kl", GAUSS, POINT, "deterministic student is a point mass"),
    ("cross_entropy", SQUASHED, GAUSS, "squashed by a tanh"),
    ("reverse_cross_entropy", SQUASHED, SQUASHED, "use reverse_kl"),
    ("wasserstein2", SQUASHED, POINT, "use mse or huber"),
    ("wasserstein2", CAT, CAT, "numbers, not choices"),
    ("jsd", GAUSS, GAUSS, "no closed form"),
    ("nll", GAUSS, POINT, "no likelihood"),
    ("mse", CAT, Q, "only learn from a Q-network"),
    ("mse", Q, CAT, "different things"),
    ("mse", CAT, POINT, "one acts with numbers"),
    ("mse", POINT, Family("deterministic", (3,)), r"sizes \[2\] and \[3\]"),
]


@pytest.mark.parametrize("name,teacher,student,message", REFUSED)
def test_refusals_say_what_to_use(name, teacher, student, message):
    with pytest.raises(UserError, match=message):
        Distance(name).check(teacher, student)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"name": "foward_kl"}, "did you mean forward_kl"),
        ({"name": "jsd", "beta": 1.5}, "beta must be between"),
        ({"name": "nll", "temperature": 0.0}, "temperature must be above 0"),
        ({"name": "nll", "temperature_of": "student"}, "temperature_of"),
        ({"name": "huber", "delta": -1.0}, "delta must be above 0"),
        ({"name": "mse", "on": "logits"}, "distance.on"),
        ({"name": "mse", "std_floor": -0.1}, "std_floor"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        Distance(**options)


def test_combinations_of_options_that_are_refused():
    with pytest.raises(UserError, match="temperature_of: both"):
        Distance("forward_kl", temperature_of="teacher").check(Q, Q)
    with pytest.raises(UserError, match="set on: params"):
        Distance("mse", on="action").check(CAT, CAT)
    with pytest.raises(UserError, match="set on: action"):
        Distance("mse", on="params").check(GAUSS, POINT)


def test_defaults():
    assert default_distance(CAT, CAT) == default_distance(Q, CAT) == Distance("forward_kl")
    assert default_distance(MULTI, MULTI).name == "forward_kl"
    pairs = [(POINT, POINT), (GAUSS, GAUSS), (SQUASHED, POINT), (POINT, GAUSS), (Q, Q)]
    assert {default_distance(t, s).name for t, s in pairs} == {"mse"}
    with pytest.raises(UserError, match="one acts with numbers"):
        default_distance(CAT, POINT)
