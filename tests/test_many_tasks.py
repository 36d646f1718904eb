"""Several teachers, one student, end to end; and judging by task."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from understudy.cli import main
from understudy.config import nest
from understudy.data import EnvSpec
from understudy.distill_job import prepare
from understudy.distillation import distill
from understudy.envs.make import make, spaces_of
from understudy.envs.multitask import task_names, whole_tasks
from understudy.errors import UserError
from understudy.evaluation.compare import compare
from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.judge import Judge
from understudy.evaluation.parity import SequentialParity
from understudy.execution.base import EvaluationJob, Setup
from understudy.execution.portable import portable
from understudy.execution.sync import SyncExecution
from understudy.policies.files import save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.episodes import Episodes, merge_episodes, random_policy, run_episodes
from understudy.settings import EvaluationSettings, StopSettings
from understudy.student import fit_normalizer, new_student, student_spec
from understudy.teachers.combine import combine

torch.set_num_threads(1)
FAST = {
    "student.hidden": [32],
    "data.num_envs": 3,
    "data.steps": 150,
    "data.first_steps": 0,
    "learning.update_to_data": 0.5,
    "learning.batch_size": 64,
    "learning.average": 0.9,
    "behaviour.noise": "0.3",
    "evaluation.episodes": 4,
    "evaluation.num_envs": 3,
    "evaluation.final": 0,
    "stop.env_steps": 3000,
    "stop.ratio": 0.8,
}


def settings(**more):
    return nest({**FAST, **{name.replace("__", "."): value for name, value in more.items()}})


def linear(env, family, weight, wrappers=(), **more):
    """A teacher whose parameters are a linear function of the observation."""
    spec = EnvSpec(env, {}, tuple(wrappers))
    observations, actions = spaces_of(spec)
    described = PolicySpec(
        space_to_json(observations), space_to_json(actions), family, hidden=(), head_bias=False, **more
    )
    policy = Policy(described, About("linear", env, spec)).eval()
    with torch.no_grad():
        policy.head.weight.copy_(torch.tensor(np.array(weight), dtype=torch.float32))
    return policy


def cart_pole():
    push = np.array([0.1, 0.5, 3.0, 1.0]) * 5
    return linear("CartPole-v1", "categorical", [-push, push], [{"type": "time_limit", "max_steps": 60}])


def identity():
    return linear("understudy/IdentityDiscrete-v0", "q_values", np.eye(3))


def continuous():
    hill = [{"type": "time_limit", "max_steps": 200}]
    return [
        linear("MountainCarContinuous-v0", "deterministic", [[0.0, 100.0]], hill),
        linear("understudy/IdentityBox-v0", "deterministic", np.eye(2)),
    ]


@pytest.fixture(scope="module")
def discrete_run(tmp_path_factory):
    rounds = []
    folder = tmp_path_factory.mktemp("multitask") / "run"
    result = distill(
        [cart_pole(), identity()], None, settings(execution__type="single"), run=folder, report=rounds.append
    )
    return result, rounds, folder


def test_one_student_learns_two_discrete_tasks(discrete_run):
    result, rounds, folder = discrete_run
    names = ["CartPole-v1", "understudy/IdentityDiscrete-v0"]
    assert rounds[0]["env_steps"] == 4 * 150  # 3 environments became 4: as many for each task
    assert rounds[-1]["loss"] < rounds[0]["loss"] or len(rounds) == 1
    assert list(result.ratios) == names and result.ratio == min(result.ratios.values())
    assert result.ratio > 0.5
    assert f"ratio/{names[1]}" in json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert json.loads((folder / "summary.json").read_text())["ratios"] == result.ratios
    assert result.student.spec.tasks == 2 and result.student.spec.task_actions == (2, 3)


def test_the_student_never_takes_an_action_that_its_task_has_not(discrete_run):
    student = discrete_run[0].student
    rng = np.random.default_rng(0)
    obs = {
        "observation": rng.normal(size=(500, 4)).astype(np.float32) * 3,
        "task": np.eye(2, dtype=np.float32)[[0] * 500],
    }
    for deterministic in (True, False):
        assert set(student.predict(obs, deterministic=deterministic)[0]) <= {0, 1}


def test_evaluation_and_comparison_say_what_happens_in_each_task(discrete_run):
    result = discrete_run[0]
    found = evaluate(result.student, episodes=3, num_envs=3)
    assert [task.env for task in found.tasks] == list(result.ratios) and found.episodes == 6
    assert [task.episodes for task in found.tasks] == [3, 3] and len(found.to_json()["tasks"]) == 2
    table = compare([result.teacher, result.student], episodes=3, num_envs=4, measure_latency=False)
    own = [evaluate(member, episodes=3) for member in result.teacher.members]
    for task, alone in zip(table.rows[0].evaluation.tasks, own, strict=True):
        np.testing.assert_allclose(task.returns, alone.returns)
    assert table.rows[1].agreement.share > 0.5 and np.isfinite(table.rows[1].agreement.kl)
    assert any("IdentityDiscrete" in note for note in table.notes)


def test_a_run_resumes(tmp_path):
    job = settings(execution__type="single", stop__env_steps=600, stop__ratio=1.9)
    first = distill([cart_pole(), identity()], None, job, run=tmp_path / "run")
    job["stop"]["env_steps"] = 1200
    again = distill([cart_pole(), identity()], None, job, run=tmp_path / "run", resume=True)
    assert (first.env_steps, again.env_steps) == (600, 1200) and len(again.ratios) == 2


@pytest.mark.parametrize("one_hot", [False, True])
def test_continuous_tasks_with_workers(tmp_path, one_hot):
    rounds = []
    job = settings(execution__type="sync" if one_hot else "single", student__one_hot_task=one_hot, stop__env_steps=1200)
    result = distill(continuous(), None, job, run=tmp_path / "run", report=rounds.append, stop__ratio=1.9)
    spec = result.student.spec
    assert spec.tasks == (1 if one_hot else 2) and spec.task_actions == (1, 2)
    assert {e.key for e in spec.encoders} == ({"observation", "task"} if one_hot else {"observation"})
    assert rounds[-1]["loss"] < rounds[0]["loss"] and result.stopped == "env_steps"
    assert result.student.get_buffer("normalizer_mean:observation").shape == (2, 2)


@pytest.mark.parametrize("ensemble", ["distributions", "losses"])
def test_ensembles_with_workers(tmp_path, ensemble):
    teachers = [cart_pole(), cart_pole()]
    job = settings(execution__type="sync", stop__env_steps=1200)
    result = distill(teachers, None, job, run=tmp_path / "run", ensemble=ensemble)
    assert result.teacher.kind == ensemble and result.ratio > 0.5 and list(result.ratios) == ["CartPole-v1"]


def test_the_command_line_pairs_teachers_and_environments(tmp_path, capsys):
    ids = ["understudy/ConstantAction-v0", "understudy/IdentityDiscrete-v0"]
    constant = linear(ids[0], "categorical", np.zeros((2, spaces_of(ids[0])[0].shape[0])))
    teachers = [constant, identity()]
    for teacher, name in zip(teachers, ("a", "b"), strict=True):
        teacher.about.env = None
        save_policy(teacher, tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    job = prepare(files, ids, None, run=tmp_path / "run")
    assert task_names(job.env) == tuple(ids) and job.settings.data.num_envs % 2 == 0
    with pytest.raises(SystemExit):
        main(["distill", *files, "--env", *ids, "--ensemble", "losses", "--run", str(tmp_path / "x")])
    assert "--ensemble is for teachers of one task" in capsys.readouterr().err


# --- the parts


def multitask(*teachers):
    return combine(teachers).about.env


def test_every_seed_is_played_in_every_task():
    teachers = [cart_pole(), identity()]
    both, spec = combine(teachers), multitask(*teachers)
    expected = [evaluate(teacher, episodes=3, seed=5).returns for teacher in teachers]
    for rows in (2, 4, 8):
        env = make(spec, rows)
        found = run_episodes(both, env, [5, 6, 7])
        env.close()
        np.testing.assert_array_equal(found.task, [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(found.seeds, [5, 6, 7] * 2)
        for part, alone in zip(found.by_task(), expected, strict=True):
            np.testing.assert_allclose(part.returns, alone)


def test_workers_share_seeds_and_tasks_out():
    teachers = [cart_pole(), identity()]
    both, spec = combine(teachers), multitask(*teachers)
    student = student_spec(prepare_settings().student, *spaces_of(spec), both)
    execution = SyncExecution(Setup(spec, (0, 1, 2, 3), 5, student, portable(both), 3), 2)
    try:
        (found,) = execution.evaluate([EvaluationJob("teacher", (5, 6, 7))])
        execution.begin_collect(Mixture(1.0), None, 5)
        rollout, _ = execution.end_collect()
        task = rollout.obs["task"].argmax(axis=2)
    finally:
        execution.close()
    np.testing.assert_array_equal(task, [[0, 1, 0, 1]] * 5)
    for part, teacher in zip(found.by_task(), teachers, strict=True):
        np.testing.assert_array_equal(part.seeds, [5, 6, 7])
        np.testing.assert_allclose(part.returns, evaluate(teacher, episodes=3, seed=5).returns)


def prepare_settings():
    from understudy.distill_job import resolve

    return resolve(settings(), None)


def test_workers_need_environments_of_all_tasks():
    both = combine([cart_pole(), identity()])
    student = student_spec(prepare_settings().student, *spaces_of(both.about.env), both)
    with pytest.raises(UserError, match="3 workers cannot share 4 environments"):
        SyncExecution(Setup(both.about.env, (0, 1, 2, 3), 5, student, portable(both), 3), 3)


def test_the_random_policy_is_uniform_over_the_task_s_own_actions():
    space = spaces_of(multitask(cart_pole(), identity()))[1]
    obs = {"task": np.eye(2, dtype=np.float32)[[0, 1] * 3000]}
    drawn, _ = random_policy(space, 0, (2, 3)).predict(obs, None, np.ones(6000, bool))
    np.testing.assert_allclose(np.bincount(drawn[::2]) / 3000, [1 / 2] * 2, atol=0.04)
    np.testing.assert_allclose(np.bincount(drawn[1::2]) / 3000, [1 / 3] * 3, atol=0.04)


def test_statistics_are_of_each_task_alone():
    both = combine([cart_pole(), identity()])
    settled = prepare_settings().student
    student = new_student(student_spec(settled, *spaces_of(both.about.env), both), 0, About())
    task = np.array([0, 0, 1, 1])
    observation = np.array([[1, 2, 3, 4], [3, 2, 5, 8], [10, 0, 0, 0], [30, 0, 2, 0]], np.float32)
    columns = {"obs:observation": observation, "obs:task": np.eye(2, dtype=np.float32)[task]}
    fit_normalizer(student, settled, both, columns)
    np.testing.assert_allclose(student.get_buffer("normalizer_mean:observation"), [[2, 2, 4, 6], [20, 0, 1, 0]])
    np.testing.assert_allclose(
        student.get_buffer("normalizer_var:observation"), [[1, 1e-4, 1, 4], [100, 1e-4, 1, 1e-4]]
    )
    features = student.encode({k[4:]: torch.as_tensor(v) for k, v in columns.items()})
    np.testing.assert_allclose(features[2:], [[-1, 0, -1, 0], [1, 0, 1, 0]], atol=1e-6)  # padding stays 0


def test_names_and_multiples():
    tasks = [
        EnvSpec("CartPole-v1").to_json(),
        EnvSpec("CartPole-v1", {"x": 1}).to_json(),
        EnvSpec("Acrobot-v1").to_json(),
    ]
    spec = EnvSpec("multitask", {"tasks": tasks})
    assert task_names(spec) == ("CartPole-v1 #1", "CartPole-v1 #2", "Acrobot-v1")
    assert [whole_tasks(spec, n) for n in (1, 3, 4)] == [3, 3, 6]
    assert task_names(EnvSpec("CartPole-v1")) == ("CartPole-v1",) and whole_tasks(EnvSpec("CartPole-v1"), 5) == 5


def test_episodes_of_tasks_merge():
    def part(seeds, value):
        n = len(seeds)
        return Episodes(np.arange(2 * n) + value, np.ones(2 * n, int), np.tile(seeds, 2), 1.0, np.repeat([0, 1], n))

    merged = merge_episodes([part([0, 1], 0.0), part([2], 10.0)]).by_task()
    assert [p.returns.tolist() for p in merged] == [[0, 1, 10], [2, 3, 11]]
    assert [p.seeds.tolist() for p in merged] == [[0, 1, 2], [0, 1, 2]]


LEVELS = {"random": (0.0, -100.0), "teacher": (100.0, 0.0)}


def judge(student, **more):
    """Judge a student with these levels of return in two tasks, +-1 around them."""

    def run(jobs):
        found = []
        for job in jobs:
            levels = LEVELS.get(job.who, student)
            noise = np.random.default_rng(len(job.who)).uniform(-1, 1, (2, 1000))[:, np.array(job.seeds) % 1000]
            n = len(job.seeds)
            returns = (np.array(levels)[:, None] + noise).ravel()
            found.append(Episodes(returns, np.ones(2 * n, int), np.tile(job.seeds, 2), 1.0, np.repeat([0, 1], n)))
        return found

    return Judge(run, EvaluationSettings(**more), StopSettings(), ("a", "b"))


def test_the_student_must_be_on_par_in_every_task():
    good = judge((100.0, 0.0))
    parity, returns = good.look({})
    assert parity.passed and returns.shape == (2, 50) and good.sequential.looks == 1
    assert good.ratio(returns) == min(good.ratios(returns).values()) and list(good.ratios(returns)) == ["a", "b"]
    short = judge((100.0, -40.0))
    parity, returns = short.look({})
    assert parity is None and returns.shape == (2, 4) and abs(short.ratio(returns) - 0.6) < 0.02
    again = judge((100.0, 0.0))
    again.restore(json.loads(json.dumps(good.state())))
    np.testing.assert_array_equal(again.teacher, good.teacher)


def test_a_teacher_that_fails_in_one_task_is_named():
    with pytest.raises(UserError, match="in b .* is not above the random policy's"):
        broken = judge((0.0, 0.0))
        LEVELS["teacher"] = (100.0, -200.0)
        try:
            broken.look({})
        finally:
            LEVELS["teacher"] = (100.0, 0.0)


def test_the_worst_task_decides_and_each_look_counts_once():
    rng = np.random.default_rng(0)
    teacher, random = [np.full(20, 10.0) + rng.normal(size=20) for _ in range(2)], [np.zeros(20)] * 2
    sequential = SequentialParity(0.9)
    tests = sequential.look_each([teacher[0], teacher[1] * 0.8], teacher, random)
    assert [test.passed for test in tests] == [True, False] and sequential.looks == 1
    assert tests[0].alpha == tests[1].alpha == 0.025  # nothing is divided among the tasks
