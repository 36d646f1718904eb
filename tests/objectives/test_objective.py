import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.data import Target
from understudy.errors import UserError
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.objective import Objective, PolicyTransfer, ValueTransfer, mean_valid
from understudy.objectives.schedules import parse
from understudy.policies.family import Family
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec

POINT = Family("deterministic", (1,))


def linear_student(high=1.0, **options):
    """A = 2 x + 0.5 and V = 3 x, on one input."""
    obs, actions = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-high, high, (1,))
    options = {"hidden": (), "value_hidden": (), **options}
    policy = Policy(PolicySpec(space_to_json(obs), space_to_json(actions), "deterministic", **options))
    for name, number in (("head.weight", 2.0), ("head.bias", 0.5), ("value_head.weight", 3.0), ("value_head.bias", 0)):
        if name in policy.state_dict():
            policy.state_dict()[name].fill_(number)
    return policy


OBS = torch.tensor([[0.0], [0.1], [0.2]])  # actions 0.5, 0.7, 0.9; values 0, 0.3, 0.6
TARGET = Target(torch.tensor([[0.5], [0.5], [0.0]]), torch.tensor([1.0, 0.3, 0.0]))


def test_weighted_sum_by_hand():
    terms = [PolicyTransfer(Distance("mse"), POINT, parse("linear(1, 0, 10)")), ValueTransfer(parse(2))]
    loss, parts = Objective(terms)(linear_student(), Batch(OBS, TARGET), 4)
    distance, value = (0.04 + 0.81) / 3, (1.0 + 0.0 + 0.36) / 3
    assert parts["distance"].item() == pytest.approx(distance) and parts["value"].item() == pytest.approx(value)
    assert parts["distance_weight"].item() == pytest.approx(0.6) and parts["value_weight"] == 2
    assert loss.item() == pytest.approx(0.6 * distance + 2 * value) and parts["loss"] == loss
    assert loss.requires_grad and not any(part.requires_grad for part in parts.values())


def test_losses_are_means_over_valid_steps():
    objective = Objective([PolicyTransfer(Distance("mse"), POINT), ValueTransfer(parse(1))])
    padded = Target(torch.tensor([[0.5], [0.5], [99.0]]), torch.tensor([1.0, 0.3, -99.0]))
    policy = linear_student()
    _, parts = objective(policy, Batch(OBS, padded, valid=torch.tensor([1.0, 1.0, 0.0])), 0)
    assert parts["distance"].item() == pytest.approx(0.02) and parts["value"].item() == pytest.approx(0.5)
    # Twice the same data is the same loss and gradient: weights do not depend on the batch size.
    double = Batch(OBS.repeat(2, 1), Target(TARGET.params.repeat(2, 1), TARGET.value.repeat(2)))
    gradients = []
    for batch in (Batch(OBS, TARGET), double):
        loss, _ = objective(policy, batch, 0)
        gradients.append(torch.autograd.grad(loss, list(policy.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert mean_valid(OBS, torch.zeros(3, 1)) == 0


def test_normalised_value_term_does_not_depend_on_the_reward_scale():
    # The variance of 1, 0.3, 0 is 0.1755556 and their mean squared error 0.4533333.
    _, parts = Objective([ValueTransfer(normalize=True)])(linear_student(), Batch(OBS, TARGET), 0)
    assert parts["value"].item() == pytest.approx(0.4533333 / 0.1755556, rel=1e-5)


def test_a_student_in_environment_units_is_compared_in_unit_actions():
    # Bounds +-2: actions 0.5, 0.7, 0.9 are 0.25, 0.35, 0.45 in unit actions.
    policy = linear_student(high=2.0, unit_actions=False)
    _, parts = Objective([PolicyTransfer(Distance("mse"), POINT)])(policy, Batch(OBS, TARGET), 0)
    assert parts["distance"].item() == pytest.approx((0.0625 + 0.0225 + 0.2025) / 3)


def test_recurrent_student_and_component_mask():
    obs, actions = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,))
    policy = Policy(PolicySpec(space_to_json(obs), space_to_json(actions), "gaussian", std="constant", lstm=4))
    x, start = torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    teacher, state = Family("gaussian", (2,)), policy.initial_state(2)
    target = torch.randn(5, 2, 4)
    valid, mask = torch.ones(5, 2), torch.ones(5, 2, 2)
    valid[:2], mask[..., 1] = 0, 0
    batch = Batch(x, Target(target), state, start, valid, mask)
    loss, _ = Objective([PolicyTransfer(Distance("mse", saturate=False), teacher)])(policy, batch, 0)
    mean = policy(x, state, start).params[..., 0]
    assert loss.item() == pytest.approx((mean - target[..., 0])[2:].square().mean().item(), rel=1e-5)
    loss.backward()


def test_terms_of_weight_0_are_left_out():
    terms = [PolicyTransfer(Distance("mse"), POINT), ValueTransfer(parse("linear(1, 0, 10)"))]
    no_value = Batch(OBS, Target(TARGET.params))
    _, parts = Objective(terms)(linear_student(), no_value, 10)
    assert set(parts) == {"distance", "distance_weight", "value_weight", "loss"}
    with pytest.raises(UserError, match="the teacher has no value"):
        Objective(terms)(linear_student(), no_value, 9)
    with pytest.raises(UserError, match="the student has no value"):
        Objective(terms)(linear_student(value_hidden=None), Batch(OBS, TARGET), 9)
    with pytest.raises(UserError, match="nothing is left"):
        Objective(terms[1:])(linear_student(), no_value, np.int64(10))


def test_names_are_unique():
    with pytest.raises(UserError, match="its own name"):
        Objective([ValueTransfer(), ValueTransfer()])
    with pytest.raises(UserError, match="at least one term"):
        Objective([])
