"""Teachers in the hand-derived kernel against the whole objective through autograd."""

import numpy as np
import pytest
import torch
from tests.objectives.test_actor_critic_kernel import ACTIONS, FEATURES, PLAIN, N, arrays, data, student

from understudy.data import Target
from understudy.objectives import rl
from understudy.objectives.actor_critic_kernel import ActorCriticKernel
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.objective import Objective
from understudy.objectives.output_terms import OutputTerms, supports
from understudy.objectives.schedules import Constant, parse
from understudy.objectives.teaching import FromTeacher, ValueFromTeacher
from understudy.policies.family import Family

ENTROPY = 0.02


def teacher_of(family, seed=7):
    """Parameters [N, P] and values [N] of a teacher of the same family."""
    generator = torch.Generator().manual_seed(seed)
    size = student(family)(torch.zeros(1, FEATURES)).params.shape[1]
    params, value = torch.randn(N, size, generator=generator), torch.randn(N, generator=generator)
    return Target(params, value)


def reinforcement():
    return [
        rl.PolicyGradient(clip=PLAIN["clip"], normalize=True),
        rl.ValueRegression(Constant(PLAIN["value_weight"])),
        rl.EntropyBonus(Constant(ENTROPY)),
    ]


TERMS = {
    "cross entropy": lambda family: [FromTeacher(Distance("cross_entropy"), family, weight=Constant(2.0))],
    "forward kl": lambda family: [FromTeacher(Distance("forward_kl", std_floor=0.9, temperature=2.0), family)],
    "both softer": lambda family: [
        FromTeacher(Distance("cross_entropy", temperature=2.0, temperature_of="both"), family),
    ],
    "mse": lambda family: [FromTeacher(Distance("mse", on="params"), family)],
    "gate": lambda family: [FromTeacher(Distance("cross_entropy"), family, gate=True)],
    "proximal": lambda family: [FromTeacher(Distance("forward_kl"), family, proximal=0.2)],
    "values": lambda family: [
        FromTeacher(Distance("reverse_kl"), family), ValueFromTeacher(weight=Constant(0.7)),
    ],
    "two": lambda family: [
        FromTeacher(Distance("cross_entropy"), family, 0, Constant(0.5), "a"),
        FromTeacher(Distance("reverse_kl"), family, 1, Constant(1.5), "b"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("family", ACTIONS)
@pytest.mark.parametrize("terms", TERMS)
def test_the_kernel_with_teachers_equals_autograd(terms, family):
    """Gradients of all parameters, and every metric, after one step."""
    policy = student(family)
    columns = data(policy)
    sizes = policy.family.sizes
    taught = TERMS[terms](Family(policy.family.name, sizes))
    targets = (teacher_of(family), teacher_of(family, 8))
    batch = Batch(columns[0], None, None, None, None, None, *columns[1:], targets=targets)
    loss, parts = Objective([*reinforcement(), *taught])(policy, batch, 0)
    names, parameters = zip(*policy.named_parameters(), strict=True)
    theirs = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))

    kernel, outputs = ActorCriticKernel.from_policy(policy, N, **PLAIN), OutputTerms(policy, taught)
    told = Batch(None, None, None, None, None, None, *columns[1:], targets=targets)
    kernel.step(
        *arrays(columns), lr=0.0, entropy_weight=ENTROPY, more=lambda said, value: outputs.slopes(said, value, told, 0)
    )
    more = outputs.metrics()
    metrics = kernel.metrics() | more
    for name, number in metrics.items():
        if name not in ("loss", "grad_norm"):
            assert number == pytest.approx(float(parts[name]), rel=1e-4, abs=1e-6), name
    ours = kernel.named(
        kernel.gradient(*arrays(columns), ENTROPY, more=lambda said, value: outputs.slopes(said, value, told, 0))
    )
    scale = max(float(slope.abs().max()) for slope in theirs.values())
    for name, slope in theirs.items():
        assert np.abs(ours[name] - slope.numpy()).max() < 1e-5 * scale, name
    kernel.step(*arrays(columns), lr=0.0, entropy_weight=ENTROPY)  # the same without teachers
    assert kernel.metrics()["loss"] + more["loss"] == pytest.approx(float(parts["loss"]), rel=1e-4)


def test_parameters_are_what_the_policy_says():
    for family in ACTIONS:
        policy = student(family)
        kernel = ActorCriticKernel.from_policy(policy, 7, **PLAIN)
        x = data(policy)[0]
        with torch.no_grad():
            expected = policy(x).params.numpy()
        np.testing.assert_allclose(kernel.params(x.numpy()), expected, atol=1e-6)


def test_a_weight_of_zero_is_no_work():
    policy = student("categorical")
    weight = parse("linear(1, 0, 9)", "")
    terms = OutputTerms(policy, [FromTeacher(Distance("cross_entropy"), policy.family, weight=weight)])
    params, value = np.zeros((4, 2), np.float32), np.zeros(2, np.float32)
    assert terms.slopes(params, value, Batch(None), 9) is None  # there is not even a target
    assert terms.metrics() == {"teacher_weight": 0.0, "loss": 0.0} and terms.metrics() == {}


def test_terms_that_look_at_states_are_not_for_the_kernel():
    family = Family("categorical", (3,))
    alone, placed = FromTeacher(Distance("mse"), family), FromTeacher(Distance("mse"), family, where=("task", 0))
    assert supports([alone, ValueFromTeacher()]) and not supports([alone, placed]) and not supports(reinforcement())
