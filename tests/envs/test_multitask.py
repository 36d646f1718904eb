"""Tasks of different sizes as one environment."""

import numpy as np

from understudy.data import EnvSpec
from understudy.envs.make import make, spaces_of
from understudy.envs.multitask import MultiTaskEnv


def gymnasium(env_id):
    return EnvSpec(env_id, backend="gymnasium")


def test_continuous_tasks_are_padded_and_scaled():
    spec = EnvSpec("multitask", {"tasks": [gymnasium("Pendulum-v1").to_json(), gymnasium("Hopper-v5").to_json()]})
    env, alone = make(EnvSpec.from_json(spec.to_json()), 4), make(gymnasium("Pendulum-v1"), 2)
    assert env.task_of.tolist() == [0, 0, 1, 1]
    assert env.observation_space["observation"].shape == (11,) and env.action_space.shape == (3,)
    obs = env.reset([0, 1, 2, 3])
    alone.reset([0, 1])
    assert obs["task"].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    for t in range(200):
        actions = np.full((4, 3), 2.0 if t == 0 else -0.5)  # 2 is clipped to the bound, which is 2 for Pendulum
        step, expected = env.step(actions), alone.step(np.full((2, 1), 2.0 if t == 0 else -1.0))
        assert np.array_equal(step.obs["observation"][:2, :3], expected.obs)
        assert not step.obs["observation"][:2, 3:].any()
        assert np.array_equal(step.reward[:2], expected.reward)
        assert np.array_equal(step.truncated[:2], expected.truncated)
    assert np.array_equal(step.final_obs["observation"][:2, :3], expected.final_obs)
    assert step.final_obs["task"].tolist() == obs["task"].tolist()
    env.close()


def test_discrete_tasks_take_their_last_choice_for_what_they_lack():
    env = MultiTaskEnv([gymnasium("Acrobot-v1"), gymnasium("CartPole-v1")], [1, 2])
    alone = make(gymnasium("CartPole-v1"), 2)
    assert env.action_space.n == 3 and env.task_of.tolist() == [0, 1, 1]
    env.reset([0, 1, 2])
    alone.reset([1, 2])
    step, expected = env.step(np.array([2, 2, 0])), alone.step(np.array([1, 0]))
    assert np.array_equal(step.obs["observation"][1:, :4], expected.obs)
    step = env.step(np.array([2, 2, 0]), np.array([True, True, False]))
    expected = alone.step(np.array([1, 0]), np.array([True, False]))
    assert np.array_equal(step.obs["observation"][1, :4], expected.obs[0])


def test_dict_observations_and_choices_are_flattened():
    env = MultiTaskEnv([EnvSpec("understudy/Privileged-v0"), EnvSpec("understudy/ConstantAction-v0")], [1, 1])
    assert spaces_of(env.spec)[0] == env.observation_space
    obs = env.reset([0, 1])["observation"].copy()
    own = make("understudy/Privileged-v0", 1).reset([0])
    assert np.array_equal(obs[0], np.concatenate([own["observation"][0], own["privileged"][0]]))
    assert obs.shape == (2, 4) and not obs[1].any()
