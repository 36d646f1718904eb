import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from evaluation_helpers import new_policy

from understudy.errors import UserError
from understudy.evaluation.agreement import (
    StateRecorder,
    Visited,
    agreement,
    compare_params,
    label_visited,
    measure_agreement,
)
from understudy.evaluation.evaluate import evaluate
from understudy.policies.family import family_for
from understudy.rollouts.episodes import Visit

BOX = gym.spaces.Box(-2, 2, (2,), np.float32)


def test_discrete_by_hand():
    family = family_for("categorical", gym.spaces.Discrete(3))
    teacher = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]))
    student = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]]))
    found = compare_params(family, teacher, family, student, gym.spaces.Discrete(3))
    kl = (
        0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.3) + 0.1 * math.log(0.1 / 0.2)
        + 0.1 * math.log(0.1 / 0.6) + 0.8 * math.log(0.8 / 0.2) + 0.1 * math.log(0.1 / 0.2)
    ) / 2  # fmt: skip
    assert found.share == 0.5 and found.kl == pytest.approx(kl) and found.difference is None and found.states == 2


def test_all_parts_of_a_multi_discrete_action_must_agree():
    space = gym.spaces.MultiDiscrete([2, 2])
    family = family_for("multi_categorical", space)
    teacher = torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 0]])
    student = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 1]])
    assert compare_params(family, teacher, family, student, space).share == 0.5


def test_continuous_by_hand_and_as_executed():
    family = family_for("deterministic", BOX)
    # Unit actions: 0.1 is 5 % of the range of 2; beyond a bound all is the same.
    teacher, student = torch.tensor([[0.0, 5.0], [0.0, 0.0]]), torch.tensor([[0.09, 1.0], [0.11, -0.5]])
    found = compare_params(family, teacher, family, student, BOX)
    assert found.share == 0.5 and found.difference == pytest.approx((0.09 + 0 + 0.11 + 0.5) / 4)
    assert found.kl is None, "a point has no KL divergence"


def test_kl_of_gaussians_and_none_across_families():
    gaussian, squashed = family_for("gaussian", BOX), family_for("squashed_gaussian", BOX)
    teacher, student = torch.tensor([[0.1, 0.2, -1.0, -1.0]]), torch.tensor([[0.1, 0.7, -1.0, -1.0]])
    found = compare_params(gaussian, teacher, gaussian, student, BOX)
    assert found.kl == pytest.approx(0.25 / (2 * math.exp(-2)), rel=1e-5) and found.share == 0.5
    assert compare_params(squashed, teacher, gaussian, student, BOX).kl is None
    values = family_for("q_values", gym.spaces.Discrete(4))
    assert compare_params(values, teacher, values, student, gym.spaces.Discrete(4)).kl is None


def test_actions_of_different_kinds():
    discrete, box = family_for("categorical", gym.spaces.Discrete(2)), family_for("deterministic", BOX)
    with pytest.raises(UserError, match="cannot agree"):
        compare_params(discrete, torch.zeros(1, 2), box, torch.zeros(1, 2), BOX)


def test_a_policy_agrees_with_itself_on_its_own_states():
    policy, other = new_policy(seed=0), new_policy(seed=1)
    same = measure_agreement(policy, policy, episodes=6)
    assert same.share == 1 and same.kl == pytest.approx(0, abs=1e-6)
    apart = measure_agreement(other, policy, episodes=6)
    assert apart.share < 1 and apart.kl > 0 and apart.states == same.states


def test_a_memory_lives_through_the_students_episodes():
    rng = np.random.default_rng(0)
    policy = new_policy(lstm=8)
    starts = np.zeros((12, 3), bool)
    starts[0] = starts[7] = True
    visited = Visited(rng.normal(size=(12, 3, 4)).astype(np.float32), starts, np.ones((12, 3), bool))
    visited.valid[5:7, 1] = False
    params, _ = label_visited(policy, visited), None
    assert params.shape == (34, 2)
    # Step by step, each episode with a fresh state.
    state, stepped = policy.initial_state(3), []
    for t in range(12):
        target, state = policy.label(visited.obs[t : t + 1], state, starts[t : t + 1])
        stepped.append(target.params[0].reshape(3, -1))
    expected = torch.stack(stepped)[torch.as_tensor(visited.valid)]
    torch.testing.assert_close(params, expected, atol=1e-5, rtol=1e-5)
    memoryless = new_policy(seed=2)
    assert agreement(policy, memoryless, visited).states == 34
    steps = evaluate(memoryless, episodes=3).env_steps
    assert measure_agreement(policy, memoryless, episodes=3).states == steps, "nothing is left out"


def _visit(step, active=(True, True)):
    row = np.full((2, 1), step, np.float32)
    return Visit({"a": row, "b": row}, np.zeros(2), np.zeros(2), np.array(active), step)


def test_recorder_thins_evenly():
    recorder = StateRecorder(max_states=20)
    for step in range(100):
        recorder(_visit(step))
    visited = recorder.visited()
    steps = visited.obs["a"][:, 0, 0]
    assert 6 <= len(steps) <= 10 and len(set(np.diff(steps))) == 1 and steps[-1] > 80


def test_recorder_keeps_sequences_whole_and_copies():
    recorder, visit = StateRecorder(max_states=20, whole_sequences=True), _visit(0)
    recorder(visit)
    visit.obs["a"][:] = 99
    for step in range(1, 30):
        recorder(_visit(step, (True, step < 3)))
    visited = recorder.visited()
    assert visited.obs["a"][0, 0, 0] == 0
    assert visited.obs["b"][:, 0, 0].tolist() == list(range(len(visited.valid)))
    assert visited.episode_start[0].all() and not visited.episode_start[1:].any()
    assert visited.valid[:, 1].sum() == 3 and 20 <= visited.valid.sum() <= 22


def test_policies_that_only_act():
    class Acts:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), int), state

    with pytest.raises(UserError, match="only acts"):
        measure_agreement(Acts(), new_policy())
