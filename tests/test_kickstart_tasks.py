"""Several tasks, one student: weights, observations that keep their keys, and the score over tasks."""

import json
import math

import numpy as np
import pytest
from tests.test_kickstart import CONSTANT, RIGHT, WRONG, always, quick

from understudy.data import EnvSpec
from understudy.envs.make import make
from understudy.envs.multitask import MultiTaskEnv, whole_tasks
from understudy.errors import UserError
from understudy.evaluation.task_score import Level, capped_score
from understudy.teachers.combine import combine
from understudy.teachers.load import load

PRIVILEGED = "understudy/Privileged-v0"
MEMORY = "understudy/Memory-v0"


def described(*tasks, **more):
    return EnvSpec("multitask", {"tasks": list(tasks), **more})


def test_the_capped_score():
    levels = [Level(10.0, 0.0), Level(-10.0, -20.0), Level(3.0, 5.0)]  # the last teacher is worse than chance
    assert capped_score([5.0, -15.0, 100.0], levels) == 0.5
    assert capped_score([1000.0, -20.0, 0.0], levels) == 0.5  # 1, not 100, and 0
    assert capped_score([-5.0, -10.0, 0.0], levels) == 0.25  # below chance counts
    assert math.isnan(capped_score([1.0], levels[2:]))


def test_tasks_have_environments_by_their_weights():
    spec = described(CONSTANT, MEMORY, weights=[1, 3])
    env = make(spec, 8)
    assert env.task_of.tolist() == [0, 0] + [1] * 6
    assert whole_tasks(spec, 5) == 8
    with pytest.raises(UserError, match=r"6 environments do not divide among 2 tasks of weights \[1, 3\]; take 8"):
        make(spec, 6)
    for weights in ([1], [1, 0], [1, 0.5], "12"):
        with pytest.raises(UserError, match="'weights' must be 2 whole numbers above 0"):
            make(described(CONSTANT, MEMORY, weights=weights), 4)


def test_tasks_that_see_the_same_dict_keep_its_keys():
    env = make(described(PRIVILEGED, PRIVILEGED), 4)
    alone = make(PRIVILEGED, 4)
    obs, expected = env.reset([1, 2, 3, 4]), alone.reset([1, 2, 3, 4])
    assert set(obs) == {"observation", "privileged", "task"} == set(env.observation_space.spaces)
    for _ in range(12):
        for key in ("observation", "privileged"):
            np.testing.assert_array_equal(obs[key], expected[key])
            assert obs[key].dtype == env.observation_space[key].dtype
        actions = np.array([0, 1, 0, 1])
        step, own = env.step(actions), alone.step(actions)
        obs, expected = step.obs, own.obs
        if own.final_obs is not None:
            np.testing.assert_array_equal(step.final_obs["privileged"], own.final_obs["privileged"])
    assert obs["task"].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    mixed = MultiTaskEnv([EnvSpec(PRIVILEGED), EnvSpec(CONSTANT)], [1, 1])
    assert set(mixed.observation_space.spaces) == {"observation", "task"}  # flattened, as before


def test_teachers_of_dict_tasks_see_their_own():
    """The first teacher reads a key that it would not find in a flat observation; the other says always the same."""
    spaces = make(PRIVILEGED, 1)

    def reads(obs):
        return 5 * np.asarray(obs["privileged"], np.float32)[:, :1] * np.float32([-1, 1])

    options = {"observation_space": spaces.observation_space, "action_space": spaces.action_space, "output": "logits"}
    other = EnvSpec(PRIVILEGED, wrappers=({"type": "time_limit", "max_steps": 3},))
    constant = load(lambda obs: np.tile(np.float32([4, -4]), (len(obs["privileged"]), 1)), env=other, **options)
    team = combine([load(reads, env=EnvSpec(PRIVILEGED), **options), constant])
    env = make(team.about.env, 4)
    obs = env.reset([1, 2, 3, 4])
    params = team.label(obs)[0].params.numpy()
    expected = reads({"privileged": obs["privileged"][:2]})
    np.testing.assert_allclose(params[:2, 1] - params[:2, 0], expected[:, 1] - expected[:, 0], rtol=1e-4)
    assert (params[2:, 0] > params[2:, 1]).all()


def test_evaluations_tell_every_task_and_the_capped_score(tmp_path):
    teachers = [always(RIGHT), always(WRONG, MEMORY)]
    settings = {"evaluation__every": 1024, "evaluation__episodes": 8, "env__kwargs": {"weights": [3, 1]}}
    _, _, rows = quick(tmp_path, teachers, env=None, teaching__assignment="task", evaluation__wait=True, **settings)
    levels = json.loads((tmp_path / "scores.json").read_text())["tasks"]
    assert list(levels) == [CONSTANT, MEMORY] and levels[CONSTANT]["teacher"] == 10
    told = [row for row in rows if "eval_return" in row]
    assert len(told) >= 3
    for row in told:
        own = [row[f"eval_return/{name}"] for name in levels]
        assert row["eval_return"] == pytest.approx(np.mean(own))
        assert row["eval_capped_score"] == capped_score(own, [Level(**level) for level in levels.values()])
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert any("eval_capped_score" in line for line in logged)
    with pytest.raises(UserError, match=r"2 tasks of weights \[3, 1\] need environments in whole shares: 6 for every"):
        quick(tmp_path / "b", teachers, env=None, teaching__assignment="task", rollout__num_envs=6, **settings)
