"""Rollouts: what is stored, who acted, and that it does not depend on how environments are shared out."""

import numpy as np
import pytest
import torch

from understudy.data import EnvSpec
from understudy.envs.make import make, spaces_of
from understudy.errors import UserError
from understudy.execution.base import EvaluationJob, Portable, Setup
from understudy.execution.columns import shares
from understudy.execution.restarts import WorkerError
from understudy.execution.single import SingleExecution
from understudy.execution.sync import SyncExecution
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.collect import Collector

PENDULUM = EnvSpec("Pendulum-v1", backend="gymnasium")


class Constant:
    """Acts always alike."""

    def __init__(self, action):
        self.action = action

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        batch = len(observation["observation"] if isinstance(observation, dict) else observation)
        return np.stack([np.asarray(self.action)] * batch), state


def network(env, seed=0):
    torch.manual_seed(seed)
    observations, actions = spaces_of(env)
    box = hasattr(actions, "high")
    spec = PolicySpec(
        space_to_json(observations), space_to_json(actions), "deterministic" if box else "categorical", hidden=(8,)
    )
    return Policy(spec).eval()


def collect(mixture, steps=50, envs=3, student=0.5, teacher=-0.5):
    env = make(PENDULUM, envs)
    out = new_rollout(env.observation_space, env.action_space, steps, envs)
    collector = Collector(env, [7, 8, 9][:envs])
    actors = [Constant(np.array([a], np.float32)) for a in (student, teacher)]
    info = collector.collect(steps, mixture, *actors, out)
    return out, info


def test_pure_behaviours():
    out, info = collect(Mixture(beta=1.0))
    assert (out.action == -0.5).all() and out.teacher_acted.all()
    out, info = collect(Mixture(beta=0.0))
    assert (out.action == 0.5).all() and not out.teacher_acted.any()
    assert info.env_steps == 150


def test_mixture_acts_as_often_as_beta_says():
    out, _ = collect(Mixture(beta=0.25), steps=400)
    assert (out.action[..., 0] == np.where(out.teacher_acted, -0.5, 0.5)).all()
    assert out.teacher_acted.mean() == pytest.approx(0.25, abs=0.04)  # 1200 draws: 3 standard errors


def test_noise_has_its_size_and_share():
    out, _ = collect(Mixture(beta=1.0, noise=0.1, noise_share=0.5), steps=400)
    moved = out.action[..., 0] != -0.5
    assert moved.mean() == pytest.approx(0.5, abs=0.05)
    # Pendulum's bounds are -2..2: a unit action is 2 wide, so noise 0.1 is 0.2 of torque.
    assert out.action[..., 0][moved].std() == pytest.approx(0.2, rel=0.1)


def test_episodes_and_their_starts():
    out, info = collect(Mixture(beta=1.0), steps=450)
    starts = np.flatnonzero(out.episode_start[:, 0])
    assert starts.tolist() == [0, 200, 400]  # Pendulum's time limit is 200
    assert out.truncated[[199, 399]].all() and out.truncated.sum() == 6 and not out.terminated.any()
    assert info.lengths == [200] * 6
    assert info.returns[0] == pytest.approx(out.reward[:200, 0].sum(), rel=1e-4)


def test_missing_policies_are_refused():
    with pytest.raises(UserError, match="beta > 0 needs a teacher"):
        env = make(PENDULUM, 1)
        out = new_rollout(env.observation_space, env.action_space, 2, 1)
        Collector(env, [0]).collect(2, Mixture(beta=0.5), Constant([0.0]), None, out)


def setup(env=PENDULUM, envs=8, steps=30, teacher=True):
    student, other = network(env, 0), network(env, 1)
    portable = Portable(other.spec, named_arrays(other)) if teacher else None
    return Setup(env, tuple(range(100, 100 + envs)), steps, student.spec, portable, eval_envs=4), named_arrays(student)


def gather(execution, arrays, steps):
    """Two rollouts of a noisy mixture and one evaluation, copied."""
    found = []
    try:
        for beta in (0.5, 0.0):
            execution.begin_collect(Mixture(beta, noise=0.3, noise_share=0.5), arrays, steps)
            rollout, info = execution.end_collect()
            found += [np.copy(a) for a in (rollout.obs, rollout.action, rollout.reward, rollout.teacher_acted)]
            found.append(np.array([info.env_steps]))
        jobs = [EvaluationJob("student", tuple(range(6)), arrays), EvaluationJob("teacher", tuple(range(6)))]
        found += [result.returns for result in execution.evaluate(jobs)]
    finally:
        execution.close()
    return found


def test_sync_equals_single():
    """Two workers of four environments give what one process of eight gives (DESIGN.md, decision 4)."""
    plan, arrays = setup()
    single = gather(SingleExecution(plan), arrays, plan.steps - 7)
    sync = gather(SyncExecution(plan, 2, timeout=60), arrays, plan.steps - 7)
    for one, other in zip(single, sync, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_shares_cover_everything():
    assert [list(r) for r in shares(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]
    with pytest.raises(UserError, match="9 workers cannot share 8 environments"):
        SyncExecution(setup()[0], 9)


def test_an_exception_in_a_worker_is_shown():
    plan, arrays = setup(EnvSpec("understudy.envs.probes:understudy/Raising-v0", {"after": 5}), envs=2)
    execution = SyncExecution(plan, 2, timeout=60)
    try:
        with pytest.raises(WorkerError, match=r"worker [01] raised") as caught:
            execution.begin_collect(Mixture(0.0), arrays, plan.steps)
            execution.end_collect()
        assert "Traceback" in caught.value.details
    finally:
        execution.close()
    assert all(process.poll() is not None for process in execution.pool.processes)


def test_a_killed_worker_is_named_and_nothing_is_left():
    plan, arrays = setup(envs=2, steps=20_000)
    execution = SyncExecution(plan, 2, timeout=60)
    try:
        execution.begin_collect(Mixture(0.0), arrays, plan.steps)
        execution.pool.processes[1].kill()
        with pytest.raises(WorkerError, match=r"worker 1 died \(exit code -9\)"):
            execution.end_collect()
    finally:
        execution.close()
    assert all(process.poll() is not None for process in execution.pool.processes)


def test_a_hanging_worker_is_named():
    plan, arrays = setup(EnvSpec("understudy.envs.probes:understudy/Hanging-v0", {"after": 3}), envs=1)
    execution = SyncExecution(plan, 1, timeout=1)
    try:
        execution.begin_collect(Mixture(0.0), arrays, plan.steps)
        with pytest.raises(WorkerError, match="made no step for 1 s"):
            execution.end_collect()
    finally:
        execution.close()
    assert execution.pool.processes[0].poll() is not None
