"""Learners: the two peers agree, state goes on exactly, averages have no bias, NaN is named."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from understudy.config import build, nest
from understudy.errors import UserError
from understudy.learning.distill_learner import AutogradLearner, KernelLearner, _Average, make_learner
from understudy.objectives.distances import Distance
from understudy.policies.family import Family
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.rollouts.dataset import Dataset
from understudy.settings import DistillSettings

OBS, BOX = gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Box(-1, 1, (2,))


def student(family="deterministic", actions=BOX, **options):
    torch.manual_seed(3)
    spec = PolicySpec(space_to_json(OBS), space_to_json(actions), family, hidden=(16, 16), **options)
    return Policy(spec).eval()


def dataset(family, window=1, samples=400):
    rng = np.random.default_rng(0)
    data = Dataset(1000, window)
    obs = rng.normal(size=(samples, 4)).astype(np.float32)
    starts = np.zeros(samples, bool)
    starts[::20] = True
    params = np.tanh(obs[:, : family.param_size] * 2) + (0 if family.continuous else 1)
    columns = {"obs:": obs, "params": params.astype(np.float32), "episode_start": starts}
    data.extend(columns)
    return data


def settings(**options):
    dotted = {"learning.batch_size": 64, "learning.average": 0.9, "learning.lr": "linear(3e-3, 1e-3, 100)", **options}
    return build(DistillSettings, nest(dotted))


CASES = {
    "mse": (Family("deterministic", (2,)), "deterministic", BOX, Distance("mse")),
    "kl": (Family("categorical", (3,)), "categorical", gym.spaces.Discrete(3), Distance("forward_kl")),
}


@pytest.mark.parametrize("case", CASES)
def test_kernel_and_autograd_give_the_same_student(case):
    teacher, family, actions, distance = CASES[case]
    data = dataset(teacher)
    results = []
    for kernel in ("true", "false"):
        policy = student(family, actions)
        learner = make_learner(policy, teacher, distance, settings(**{"learning.kernel": kernel}))
        assert isinstance(learner, KernelLearner if kernel == "true" else AutogradLearner)
        losses = [learner.update(data, 25, steps)["loss"] for steps in (0, 50)]
        results.append((losses, learner.weights()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    assert results[0][0][1] < results[0][0][0]
    for name, array in results[0][1].items():
        np.testing.assert_allclose(array, results[1][1][name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("sizes", [(400, 400, 400), (100, 400, 100), (400, 1000, 400)])
@pytest.mark.parametrize("kernel", ["true", "false"])
def test_what_was_forgotten_is_not_learnt(kernel, sizes):
    teacher, family, actions, distance = CASES["mse"]
    chosen = settings(**{"learning.kernel": kernel, "learning.lr": "1e-2", "learning.average": 0})
    learner, data = make_learner(student(family, actions), teacher, distance, chosen), Dataset(1000)
    rng = np.random.default_rng(0)
    for turn, samples in enumerate(sizes):
        obs = rng.normal(size=(samples, 4)).astype(np.float32)
        said = np.full((samples, 2), (-1) ** turn * 0.8, np.float32)
        data.clear()
        data.extend({"obs:": obs, "params": said, "episode_start": np.zeros(samples, bool)})
        assert data.size == samples
        loss = learner.update(data, 300, 0)["loss"]
        assert loss < (0.5 if turn else 0.1)
        answers, _ = learner._student.label(obs)
        np.testing.assert_allclose(answers.params, said, atol=0.15)


@pytest.mark.parametrize("kind", ["kernel", "autograd", "lstm"])
def test_a_restored_learner_goes_on_bit_for_bit(kind):
    teacher, family, actions, distance = CASES["mse"]
    options = {"lstm": 8} if kind == "lstm" else {}
    window = 20 if kind == "lstm" else 1
    data = dataset(teacher, window)
    chosen = settings(**{"learning.kernel": kind == "kernel", "learning.sequence": 20, "learning.burn_in": 4})

    def fresh():
        return make_learner(student(family, actions, **options), teacher, distance, chosen)

    straight = fresh()
    straight.update(data, 10, 0)
    arrays, state = straight.state()
    arrays = {name: array.copy() for name, array in arrays.items()}
    straight.update(data, 10, 10)
    resumed = fresh()
    resumed.restore(arrays, state)
    resumed.update(data, 10, 10)
    for name, array in straight.weights().items():
        np.testing.assert_array_equal(array, resumed.weights()[name], err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [True, False])
def test_a_restored_learner_may_be_the_other_peer(case, first):
    """With the moments and the average of the one before: as if one of them had learnt all along."""
    teacher, family, actions, distance = CASES[case]
    data = dataset(teacher)

    def fresh(kernel):
        return make_learner(student(family, actions), teacher, distance, settings(**{"learning.kernel": kernel}))

    straight, resumed = fresh(first), fresh(not first)
    straight.update(data, 20, 0)
    arrays, state = straight.state()
    resumed.restore({name: array.copy() for name, array in arrays.items()}, state)
    for learner in (straight, resumed):
        learner.update(data, 5, 10)
    for name, array in straight.weights().items():
        np.testing.assert_allclose(array, resumed.weights()[name], atol=1e-5, err_msg=name)


def test_average_has_no_bias_towards_its_start():
    average = _Average(0.9, torch.zeros(1))
    values = [1.0, 2.0, 4.0]
    for value in values:
        average.add(torch.tensor([value]))
    # Weights 0.9^2, 0.9, 1 of the three values, divided by their sum.
    assert average.vector.item() == pytest.approx((0.81 * 1 + 0.9 * 2 + 4) / 2.71)


def test_new_samples_reach_the_kernel():
    teacher, family, actions, distance = CASES["mse"]
    learner = make_learner(student(family, actions), teacher, distance, settings())
    data = dataset(teacher, samples=300)
    first = learner.update(data, 5, 0)["loss"]
    data.extend(
        {
            name: column[:300] * (50 if name == "params" else 1)
            for name, column in dataset(teacher, samples=300).columns.items()
        }
    )
    assert data.size == 600
    learner.update(data, 1, 0)
    assert torch.equal(learner._x[300:600], learner._x[:300])
    assert np.isfinite(first)


@pytest.mark.parametrize("kernel", [True, False])
def test_nan_is_named(kernel):
    teacher, family, actions, distance = CASES["mse"]
    data = dataset(teacher)
    data.columns["params"][:] = np.nan
    learner = make_learner(student(family, actions), teacher, distance, settings(**{"learning.kernel": kernel}))
    with pytest.raises(UserError, match="loss is nan after 7 env steps"):
        learner.update(data, 1, 7)
