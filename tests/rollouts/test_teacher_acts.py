"""Teachers that act: at which steps, with which draws, and what a student that learns from rewards sees of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.execution.base import EvaluationJob, Portable, Setup
from understudy.execution.single import SingleExecution
from understudy.execution.sync import SyncExecution
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.behaviours import TeacherActs
from understudy.learning.teaching import Guide, Teaching
from understudy.objectives.distances import Distance
from understudy.objectives.schedules import Constant, Linear
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.jump_start import JumpStart
from understudy.settings import TrainSettings

ENV = EnvSpec("understudy/ConstantAction-v0")


def policy(bias, env=ENV, value=True):
    """Whatever is seen, its logits are these."""
    made = Policy(
        PolicySpec(*map(space_to_json, spaces_of(env)), "categorical", hidden=(), value_hidden=(4,) if value else None)
    ).eval()
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.bias.copy_(torch.tensor(bias))
    return made


def setup(teacher, envs=4, steps=24, env=ENV, student=None):
    student = student or policy([0.0, 0.0], env)
    portable = Portable(teacher.spec, named_arrays(teacher))
    return Setup(env, tuple(range(envs)), steps, student.spec, portable, 2, traced=True), named_arrays(student)


def gather(mixture, teacher, rounds=2, **options):
    """Return copies of what each round gathered: who acted, the action, and the student's choice."""
    plan, weights = setup(teacher, **options)
    execution, found = SingleExecution(plan), []
    try:
        for _ in range(rounds):
            execution.begin_collect(mixture, weights, plan.steps)
            out, _ = execution.end_collect()
            found.append((out.teacher_acted.copy(), out.action.copy(), out.trace.choice.copy()))
    finally:
        execution.close()
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def test_the_teacher_plays_the_first_steps_of_every_episode():
    """Episodes of ten steps go on from rollout to rollout, of 24 steps each."""
    acted, action, choice = gather(Mixture(0.0, sample=True, jump=3), policy([-9.0, 9.0]))
    expected = np.arange(48) % 10 < 3
    assert (acted == expected[:, None]).all()
    assert (action[expected] == 1).all() and (action[~expected] == choice[~expected]).all()
    assert 0.2 < action[~expected].mean() < 0.8


def test_a_jump_that_begins_late_leaves_running_episodes_to_the_student():
    plan, weights = setup(policy([-9.0, 9.0]), steps=5)
    execution = SingleExecution(plan)
    acted = []
    for jump in (0, 4, 4):
        execution.begin_collect(Mixture(0.0, sample=True, jump=jump), weights, 5)
        acted += execution.end_collect()[0].teacher_acted[:, 0].tolist()
    execution.close()
    assert acted == [False] * 10 + [True] * 4 + [False]


@pytest.mark.parametrize("samples", [False, True])
def test_the_teacher_draws_its_actions_or_takes_its_mode(samples):
    acted, action, _ = gather(Mixture(1.0, sample=True, teacher_samples=samples), policy([0.0, 1.0]), envs=40)
    assert acted.all()
    # 1,920 draws: four standard errors are 0.04.
    assert action.mean() == pytest.approx(1 / (1 + np.exp(-1)) if samples else 1.0, abs=0.04)


@pytest.mark.parametrize("mixture", [
    Mixture(0.0, sample=True, jump=3, teacher_samples=True), Mixture(0.4, sample=True), Mixture(1.0, sample=True),
])  # fmt: skip
def test_workers_agree_with_the_single_process(mixture):
    plan, weights = setup(policy([0.0, 1.0]))
    found = []
    for execution in (SingleExecution(plan), SyncExecution(plan, 2)):
        try:
            execution.begin_collect(mixture, weights, plan.steps)
            out, _ = execution.end_collect()
            found.append(
                [out.teacher_acted.copy(), out.action.copy(), out.trace.log_prob.copy(), out.trace.value.copy()]
            )
        finally:
            execution.close()
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_episodes_of_teacher_and_student_together():
    """The teacher is right, the student wrong: the return counts the steps that the teacher played."""
    plan, _ = setup(policy([-9.0, 9.0]))
    execution = SingleExecution(plan)
    wrong = named_arrays(policy([9.0, -9.0]))
    jobs = [EvaluationJob("student", (1, 2, 3), wrong, jump=jump) for jump in (0, 4, 99)]
    returns = [episodes.returns.tolist() for episodes in execution.evaluate(jobs)]
    execution.close()
    assert returns == [[0.0] * 3, [4.0] * 3, [10.0] * 3]


class Counts:
    """Says how many steps it has seen of each episode."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        seen = np.zeros(len(observation), np.int64) if state is None else state
        seen = seen if episode_start is None else np.where(episode_start, 0, seen)
        return seen + 1, seen + 1


def test_both_see_every_step_of_an_episode_that_they_share():
    both, state, actions = JumpStart(Counts(), Counts(), 2), None, []
    for start in ([True, True], [False, False], [False, True], [False, False]):
        action, state = both.predict(np.zeros((2, 1)), state, np.array(start))
        actions.append(action.tolist())
    assert actions == [[1, 1], [2, 2], [3, 1], [4, 2]]


def learner(seed=0, **objective):
    torch.manual_seed(seed)
    settings = TrainSettings()
    settings = replace(
        settings,
        objective=replace(settings.objective, clip=0.2, normalize_advantage=True, entropy_weight="0.01", **objective),
        update=replace(settings.update, epochs=2, minibatch=0, lr="1e-2"),
        rollout=replace(settings.rollout, num_envs=4, steps=24),
    )
    student, teacher = policy([0.0, 0.3]), policy([-1.0, 1.0])
    guide = Guide("teacher", teacher, Distance("cross_entropy"), Constant(0.0))
    acts = TeacherActs(teacher, Linear(0.5, 0.0, 1000))
    return ActorCritic(student, settings, teaching=Teaching([guide], acting=acts)), student, teacher


def gathered(student, teacher):
    plan, weights = setup(teacher, student=student)
    execution = SingleExecution(plan)
    execution.begin_collect(Mixture(0.5, sample=True), weights, plan.steps)
    rollout, _ = execution.end_collect()
    execution.close()
    assert 0.2 < rollout.teacher_acted.mean() < 0.8
    return rollout


@pytest.mark.parametrize("estimator", ["gae", "vtrace"])
def test_what_the_teacher_did_changes_nothing_that_rewards_teach(estimator):
    """Rewards, choices and log-probabilities of the teacher's steps may be anything: the weights end alike."""
    after = []
    for junk in (False, True):
        made, student, teacher = learner(estimator=estimator)
        rollout = gathered(student, teacher)
        if junk:
            acted = rollout.teacher_acted
            rollout.reward[acted] = 77.0
            rollout.trace.choice[acted] = 1 - rollout.trace.choice[acted]
            rollout.trace.log_prob[acted] = -3.0
        made.update(rollout, 0)
        after.append({name: array.copy() for name, array in named_arrays(student).items()})
    assert all(np.array_equal(after[0][name], after[1][name]) for name in after[0])
    fresh = named_arrays(learner()[1])
    assert any(not np.array_equal(after[0][name], fresh[name]) for name in fresh)


def test_returns_end_where_the_teacher_takes_over():
    """Three steps, the teacher has the second: A_0 = r_0 + gamma V_1 - V_0, whatever follows."""
    made, student, teacher = learner()
    rollout = gathered(student, teacher).columns(slice(0, 1))
    rollout = rollout.first(3)
    rollout.teacher_acted[:, 0] = [False, True, False]
    rollout.reward[:, 0] = [1, 50, 2]
    rollout.terminated[:], rollout.truncated[:] = False, False
    trace = rollout.trace
    trace.value[:, 0], trace.last_value[:] = [0.5, 0.25, -0.5], [2.0]
    columns, _ = made._estimate(rollout, True)
    np.testing.assert_allclose(columns.advantage[:, 0], [1 + 0.99 * 0.25 - 0.5, 0, 2 + 0.99 * 2 + 0.5], rtol=1e-5)
    np.testing.assert_allclose(columns.target_value[:, 0], [1 + 0.99 * 0.25, 0.25, 2 + 0.99 * 2], rtol=1e-5)


def test_the_mixture_follows_its_schedules():
    acts = TeacherActs(policy([0.0, 0.0]), Linear(1.0, 0.0, 100), Linear(9.0, 0.0, 100), samples=True)
    assert acts.mixture(0) == Mixture(1.0, sample=True, jump=9, teacher_samples=True)
    assert acts.mixture(50) == Mixture(0.5, sample=True, jump=4, teacher_samples=True)
    assert acts.mixture(200) == Mixture(0.0, sample=True)
