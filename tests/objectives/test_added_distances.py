"""A distance that is added by name is one like any other: checked, used, refused where it is not defined."""

import gymnasium as gym
import pytest
import torch

from understudy.errors import UserError
from understudy.objectives import distances
from understudy.objectives.distances import Distance, add_distance
from understudy.objectives.mlp_kernel import supports
from understudy.policies.family import Family
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec

TWO, THREE = Family("categorical", (2,)), Family("categorical", (3,))


def total_variation(teacher, teacher_params, student, student_params, mask):
    return 0.5 * (teacher_params.softmax(-1) - student_params.softmax(-1)).abs().sum(-1)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(distances, "_DISTANCES", dict(distances._DISTANCES))
    monkeypatch.setattr(distances, "_ADDED", {})


def test_it_is_known_by_its_name():
    with pytest.raises(UserError, match="'total_variation' is unknown"):
        Distance("total_variation")
    add_distance("total_variation", total_variation)
    teacher = torch.tensor([[0.0, 0.0], [0.0, 100.0]])
    student = torch.tensor([[0.0, 100.0], [0.0, 100.0]], requires_grad=True)
    found = Distance("total_variation")(TWO, teacher, TWO, student)
    assert found.tolist() == [0.5, 0.0]  # (1/2, 1/2) against (0, 1), and the same twice
    found.sum().backward()
    assert student.grad is not None


def test_it_is_refused_where_it_says_so_and_where_no_distance_fits():
    def refusal(teacher, student):
        return "" if student == TWO else "two choices only"

    add_distance("total_variation", total_variation, refusal)
    Distance("total_variation").check(TWO, TWO)
    with pytest.raises(UserError, match="two choices only"):
        Distance("total_variation").check(THREE, THREE)
    with pytest.raises(UserError, match="sizes"):
        Distance("total_variation").check(THREE, TWO)
    with pytest.raises(UserError, match="no distance compares them"):
        Distance("total_variation").check(Family("gaussian", (2,)), TWO)


@pytest.mark.parametrize("name", ["forward_kl", "auto"])
def test_names_are_given_once(name):
    with pytest.raises(UserError, match="already"):
        add_distance(name, total_variation)


def test_the_kernel_leaves_it_to_autograd():
    add_distance("total_variation", total_variation)
    observations, actions = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)
    spec = PolicySpec(space_to_json(observations), space_to_json(actions), "categorical", hidden=(8,))
    assert supports(spec, TWO, Distance("forward_kl")) and not supports(spec, TWO, Distance("total_variation"))
