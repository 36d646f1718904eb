"""The sandbox of *Distilling Policy Distillation*: the learner's updates against sums over states and actions."""

import numpy as np
import pytest
import torch
from benchmarks.sandbox import METHODS, SMALL, asymmetry, compare_updates, descend, exact_update, losses

from understudy.envs.gridworld import (
    MOVES,
    all_trajectories,
    grid_world,
    in_parts,
    random_world,
    shares,
    soft_policy,
)
from understudy.errors import UserError

CORRECTED = ("n-distill", "n-distill, cross_entropy", "eer", "eer, reverse_kl")


@pytest.fixture(scope="module")
def compared():
    return compare_updates()


@pytest.mark.parametrize("name", METHODS)
def test_the_learner_takes_the_exact_update(compared, name):
    """Every trajectory of two small worlds as often as it is likely, through ``ActorCritic.update`` of the preset."""
    assert compared[name]["error"] < 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_which_update_is_a_gradient(compared, name):
    """Czarnecki 2019, table 1 and theorem 1: on-policy distillation is no gradient, with or without rewards."""
    if name in ("distill-student", "kickstarting"):
        assert compared[name]["asymmetry"] > 0.05
    else:
        assert compared[name]["asymmetry"] < 1e-9


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_updates_descend_the_summed_distance(name):
    """The exact update equals PyTorch's own gradient of E_S[sum_t l(s_t)] through the student's visits."""
    world, _, parts = SMALL["noisy"]
    rng = np.random.default_rng(1)
    student, teacher = (in_parts(rng, world.states, world.actions, parts[1]) for _ in range(2))
    logits = torch.tensor(np.log(student), requires_grad=True)
    move, start = torch.as_tensor(world.move), torch.as_tensor(world.start)
    visits = torch.linalg.inv(torch.eye(world.states) - torch.einsum("sa,sat->st", logits.softmax(1), move)).T @ start
    (visits @ losses(METHODS[name].loss, logits.softmax(1), torch.as_tensor(teacher))[0]).backward()
    update = exact_update(world, logits.detach(), teacher, np.zeros(world.states), METHODS[name])
    np.testing.assert_allclose(update, logits.grad, atol=1e-10)


def test_trajectories_are_as_often_as_they_are_likely():
    """Counted states and ends of the enumeration equal the probabilities of two steps, multiplied by hand."""
    world, _, parts = SMALL["noisy"]
    acts = in_parts(np.random.default_rng(2), world.states, world.actions, parts[1])
    found = all_trajectories(world, acts, 2, parts)
    after = np.einsum("s,sa,sat->t", world.start, acts, world.move)
    expected = after + (1 - after.sum()) * world.start
    seen = np.bincount(found["obs"][1], minlength=world.states) / found["obs"].shape[1]
    np.testing.assert_allclose(seen, expected, atol=1e-12)
    assert found["ended"][0].mean() == pytest.approx(1 - after.sum())
    with pytest.raises(ValueError, match="whole parts"):
        shares(np.array([0.3, 0.7]), 4)


def test_students_learn_more_states_in_their_own():
    """Czarnecki 2019, section 3: after as many updates, who acts itself replicates its teacher in more states."""
    replicated = {"distill-teacher": [], "distill-student": []}
    for seed in range(4):
        world = random_world(6, np.random.default_rng(seed), noise=0.1, end=0.02)
        teacher = soft_policy(world.optimal(), 0.03)
        values = world.values(teacher)[0]
        for name, shares_ in replicated.items():
            shares_.append([found.replicated for found in descend(world, teacher, values, METHODS[name], (25, 100))])
    teacher_driven, student_driven = (np.mean(rows, axis=0) for rows in replicated.values())
    assert (student_driven > teacher_driven + 0.05).all()


def test_only_divergences_rest_at_the_teacher():
    """Cross-entropies are a price on every step that the student can avoid: their updates go on at the teacher."""
    world, _, parts = SMALL["noisy"]
    teacher = in_parts(np.random.default_rng(3), world.states, world.actions, parts[1])
    values = np.zeros(world.states)
    logits = torch.as_tensor(np.log(teacher))
    at_teacher = {name: exact_update(world, logits, teacher, values, METHODS[name]).abs().max() for name in CORRECTED}
    assert at_teacher["eer, reverse_kl"] < 1e-9 and at_teacher["n-distill"] < 1e-9
    assert at_teacher["eer"] > 1e-2 and at_teacher["n-distill, cross_entropy"] > 1e-2


def test_a_grid_world_by_hand():
    """Two free cells: up and down stay, right enters the goal from the second; noise 0.4 makes 0.7 and 0.1 each."""
    world = grid_world(("S.+",), {"+": 2.0}, noise=0.4, end=0.5)
    assert MOVES[1] == (0, 1) and (world.states, world.actions) == (2, 4)
    np.testing.assert_allclose(world.start, [1, 0])
    np.testing.assert_allclose(world.move[0, 1], [0.15, 0.35])  # halves: each step may end the episode
    np.testing.assert_allclose(world.move[1, 1], [0.05, 0.1])
    np.testing.assert_allclose(world.reward, [[0] * 4, [0.2, 1.4, 0.2, 0.2]])
    always_right = np.eye(4)[[1, 1]]
    # V_1 = 1.4 + 0.05 V_0 + 0.1 V_1 and V_0 = 0.15 V_0 + 0.35 V_1.
    v1 = 1.4 / (0.9 - 0.05 * 0.35 / 0.85)
    np.testing.assert_allclose(world.values(always_right)[0], [0.35 / 0.85 * v1, v1])
    assert (world.optimal().argmax(1) == 1).all()
    # Visits: d_0 = 1 + 0.15 d_0 + 0.05 d_1, d_1 = 0.35 d_0 + 0.1 d_1.
    d0 = 1 / (0.85 - 0.05 * 0.35 / 0.9)
    np.testing.assert_allclose(world.visits(always_right), [d0, 0.35 / 0.9 * d0])
    for rows, message in ((("S?",), "no meaning for"), (("..",), "no start")):
        with pytest.raises(UserError, match=message):
            grid_world(rows, {})


def test_the_optimal_values_are_nobodys_worse():
    """No random policy earns more than the policy that is greedy in them."""
    rng = np.random.default_rng(5)
    world = random_world(6, rng, noise=0.1, end=0.02)
    best = world.start @ world.values(np.eye(4)[world.optimal(1.0).argmax(1)])[0]
    for _ in range(50):
        assert world.start @ world.values(rng.dirichlet(np.ones(4), world.states))[0] <= best + 1e-9


def test_asymmetry_sees_a_rotation():
    """A two-armed world in which q is the student's: the Jacobian's skew part is what theorem 1 speaks of."""
    world = grid_world(("+S-",), {"+": 1.0, "-": -1.0})
    teacher = np.array([[0.1, 0.2, 0.3, 0.4]])
    # One state, visited 1 / (1 - p(stay)) times: the student's probability to stay turns the update.
    assert asymmetry(world, np.zeros((1, 4)), teacher, np.zeros(1), METHODS["distill-student"]) > 0.01
    assert asymmetry(world, np.zeros((1, 4)), teacher, np.zeros(1), METHODS["distill-teacher"]) < 1e-12
