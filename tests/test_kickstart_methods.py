"""Presets in which teachers act, or pay: probe environments that each fail for one cause only."""

import json
import threading

import numpy as np
import pytest
from tests.teachers_for_tests import MemoryTeacher, along_the_chain
from tests.test_kickstart import CONSTANT, RIGHT, WRONG, always, chosen, quick, spaces, weights

import understudy
from understudy.errors import UserError
from understudy.kickstart_job import prepare
from understudy.policies.files import load_policy
from understudy.teachers.load import load

CHAIN = "understudy/Chain-v0"
LEADER = "tests.teachers_for_tests:along_the_chain"
CHAIN_RUN = {
    "env": CHAIN, "update__lr": "3e-3", "stop__env_steps": 8000, "rollout__steps": 32, "update__minibatch": 64,
    "update__epochs": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A teacher of our own format, p(action 1) = 0.73 everywhere."""
    folder = tmp_path_factory.mktemp("native")
    quick(folder, always([0, 1]), "distill-student", stop__env_steps=6000)
    return str(folder)


def test_jump_start_reaches_what_chance_never_finds(tmp_path):
    """Fourteen right actions in a row: without the teacher's first steps there is no reward to learn from."""
    jump = {"teaching__behaviour__jump": "linear(14, 0, 80%)"}
    led, _, rows = quick(tmp_path / "led", LEADER, "jsrl", **CHAIN_RUN, **jump)
    assert led.score == 1
    assert rows[0]["jump"] == 14 and rows[-1]["jump"] == 0 and rows[-1]["teacher_acted"] == 0
    half = CHAIN_RUN | {"stop__env_steps": 4000, "teaching__behaviour__jump": "0"}
    alone, _, _ = quick(tmp_path / "alone", LEADER, "jsrl", **half)
    assert alone.score == 0


def test_a_curriculum_lets_go_as_both_together_do_well(tmp_path):
    """Uchendu 2022: h falls by a stage after every evaluation that the pair passes; at the end the student is alone."""
    settings = CHAIN_RUN | {"stop__env_steps": 12_000, "evaluation__every": 256, "evaluation__episodes": 4}
    found, _, rows = quick(
        tmp_path, LEADER, "jsrl", teaching__behaviour__jump="curriculum(14, 14, 0.1)", **settings
    )  # fmt: skip
    assert found.score == 1
    jumps = [row["jump"] for row in rows]
    assert jumps[0] == 14 and jumps[-1] == 0 and sorted(jumps, reverse=True) == jumps
    for before, after in zip(rows[:-1], rows[1:], strict=True):
        passed = before.get("jump_return", 0) >= 0.9
        assert (after["jump"] < before["jump"]) == passed
    assert json.loads((tmp_path / "scores.json").read_text())["teachers"] == [1.0]


def test_a_curriculum_resumes_where_it_was(tmp_path):
    settings = CHAIN_RUN | {
        "evaluation__every": 256, "evaluation__episodes": 4, "evaluation__final": 0, "checkpoint_every": 1024,
        "teaching__behaviour__jump": "curriculum(14, 14, 0.1)",
    }  # fmt: skip
    _, whole, rows = quick(tmp_path / "whole", LEADER, "jsrl", **settings | {"stop__env_steps": 4096})
    quick(tmp_path / "parts", LEADER, "jsrl", **settings | {"stop__env_steps": 2048})
    _, parts, _ = quick(tmp_path / "parts", LEADER, "jsrl", **settings | {"stop__env_steps": 4096}, resume=True)
    whole, parts = weights(whole), weights(parts)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert rows[-1]["jump"] < rows[len(rows) // 2]["jump"] < 14


def test_jump_start_in_workers_equals_one_process(tmp_path):
    settings = CHAIN_RUN | {"stop__env_steps": 1024, "evaluation__final": 0}
    jump = {"teaching__behaviour__jump": "linear(14, 0, 80%)"}
    _, one, _ = quick(tmp_path / "1", LEADER, "jsrl", **settings, **jump)
    other = {"execution__type": "sync", "execution__num_workers": 2}
    _, two, _ = quick(tmp_path / "2", LEADER, "jsrl", **settings, **jump, **other)
    one, two = weights(one), weights(two)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_who_imitates_in_the_teachers_states_need_not_act(tmp_path, native):
    """q = teacher: it acts at every step, drawing its actions, and the student ends with its probabilities."""
    _, student, rows = quick(tmp_path, native, "distill-teacher")
    assert all(row["teacher_acted"] == 1 for row in rows)
    returns = [row["training_return"] for row in rows[1:] if "training_return" in row]
    assert np.mean(returns) == pytest.approx(7.3, abs=0.4)  # ten draws of 0.73
    np.testing.assert_allclose(chosen(student), chosen(load_policy(f"{native}/last.safetensors")), atol=0.02)


def test_in_the_teachers_states_places_are_learnt_that_the_student_does_not_reach(tmp_path):
    """With a handful of updates the student knows the chain's end; in its own states it has hardly seen it."""
    settings = CHAIN_RUN | {"stop__env_steps": 1024, "evaluation__final": 0}
    settings |= {"teaching__behaviour__samples": False, "teaching__distance__name": "nll"}
    ends = []
    for beta in ("1", "0"):
        _, student, _ = quick(
            tmp_path / beta, LEADER, "distill-teacher", teaching__behaviour__beta=beta, **settings
        )  # fmt: skip
        seen = np.eye(15, dtype=np.float32)[10:14]
        right = along_the_chain(seen)
        probabilities = student.label(seen)[0].params.softmax(-1).numpy()
        ends.append(probabilities[np.arange(4), right].mean())
    assert ends[0] > 0.75 and ends[1] < 0.6


def test_rewards_are_learnt_from_beside_a_harmful_teacher_that_acts(tmp_path):
    """It plays half of the steps at first, always wrong: the student learns from its own, and ends right."""
    beta = {"teaching__behaviour__beta": "linear(0.5, 0, 80%)", "teaching__weight": "0"}
    found, _, rows = quick(tmp_path, always(WRONG), **beta)
    assert 0.3 < rows[0]["teacher_acted"] < 0.7 and found.score == 10


@pytest.mark.parametrize(
    ("preset", "distance", "ending"),
    [
        ("n-distill", "forward_kl", "teacher"),
        ("n-distill", "cross_entropy", "teacher"),
        ("eer", "reverse_kl", "teacher"),
        ("eer", "reverse_cross_entropy", "mode"),
    ],
)
def test_without_the_environments_rewards_the_teacher_decides_alone(tmp_path, preset, distance, ending):
    """Action 1 pays, the teacher prefers 0 by e to 1: the student ends there, or at the likelier action alone."""
    settings = {"teaching__distance__name": distance, "update__lr": "3e-3", "stop__env_steps": 8000}
    _, student, rows = quick(tmp_path, always([1, 0]), preset, **settings)
    if ending == "teacher":
        assert chosen(student).mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.05)
        assert rows[-1]["kl/teacher"] < 0.02
    else:
        assert chosen(student).min() > 0.95


def test_with_the_environments_rewards_they_count_again(tmp_path):
    """The same teacher at a tenth of the weight, beside rewards: the student takes what pays."""
    settings = {"teaching__env_reward": True, "teaching__weight": "0.1"}
    with pytest.warns(UserWarning, match="ends at its teacher"):
        found, _, _ = quick(tmp_path, always([1, 0]), "n-distill", **settings)
    assert found.score == 10


@pytest.mark.parametrize(
    ("teachers", "settings", "message"),
    [
        (1, {"teaching": {"behaviour": {"beta": "1"}}}, "the student never acts"),
        (1, {"teaching": {"behaviour": {"beta": "linear(2, 0, 50%)"}}}, "between 0 and 1"),
        (1, {"teaching": {"behaviour": {"jump": "linear(9, -9, 50%)"}}}, "must not be negative"),
        (1, {"teaching": {"behaviour": {"jump": "curriculum()"}}}, "write curriculum"),
        (1, {"teaching": {"behaviour": {"jump": "curriculum(0)"}}}, "at least 1"),
        (1, {"teaching": {"behaviour": {"jump": "curriculum(9)"}}, "evaluation": {"every": 0}}, "evaluation.every is"),
        (1, {"teaching": {"behaviour": {"jump": "curriculum(9)"}}}, "evaluated in another process"),
        (1, {"teaching": {"behaviour": {"jump": "9"}}, "execution": {"type": "sync"}}, "take --execution single"),
        (1, {"teaching": {"behaviour": {"jump": "9", "samples": True}}}, "acts by its mode"),
        (2, {"teaching": {"behaviour": {"jump": "9"}}}, "one can act"),
        (1, {"teaching": {"env_reward": False}}, "leaves no reward"),
        (1, {"teaching": {"reward": "distance", "proximal": True}}, "leave teaching.gate"),
    ],
)
def test_contradictions_are_refused_before_anything_starts(tmp_path, teachers, settings, message):
    teacher = always(RIGHT)
    teacher.lock = threading.Lock()  # cannot be copied to another process
    with pytest.raises(UserError, match=message):
        prepare([teacher] * teachers, CONSTANT, settings, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_never_lets_go_is_noted():
    behaviour = {"teaching": {"behaviour": {"jump": "linear(9, 3, 50%)"}}}
    assert "never ends" in prepare([always(RIGHT)], CONSTANT, behaviour).notes[0]
    assert not prepare([always(RIGHT)], CONSTANT, {"teaching": {"behaviour": {"jump": "linear(9, 0, 50%)"}}}).notes


def test_jump_start_from_the_command_line(tmp_path, monkeypatch, capsys):
    from understudy.cli import main

    monkeypatch.chdir(tmp_path)
    words = f"--preset jsrl --env {CHAIN} --teacher {LEADER} --env-steps 512 --policy.hidden 8 --rollout.steps 16"
    words += " --update.minibatch 32 --evaluation.final 2 --evaluate-every 0 --teaching.behaviour.jump linear(14,0,50%)"
    main(["kickstart", *words.split(), "--run", "run"])
    assert "512 env steps" in capsys.readouterr().out
    assert understudy.load("run").action_space.n == 2


def write_states(folder, states):
    """Write stored states as a distillation does."""
    from understudy.io.checkpoint import write_arrays

    columns = {"obs:": np.float32(states), "params": np.zeros((len(states), 2), np.float32)}
    write_arrays(folder / "data" / "00001.safetensors", columns, {"round": 1})


def far_and_near(obs):
    """Action 1 near the start, action 0 far away."""
    return np.where(np.asarray(obs)[:, 0] < 15, 1, 0).astype(np.int64)


def test_rehearsal_keeps_what_the_student_no_longer_visits(tmp_path):
    """Rewards teach action 1 everywhere; stored states at 20 and more, which no episode reaches, keep action 0."""
    states = np.arange(20, 30)[:, None]
    write_states(tmp_path / "stored", states)
    settings = {"teaching__weight": "0", "policy__normalize": False, "stop__env_steps": 6000}
    teacher = load_rule(far_and_near)
    far = []
    for name in ("", str(tmp_path / "stored")):
        found, student, rows = quick(
            tmp_path / f"run{len(name)}", teacher, teaching__rehearsal__data=name, **settings
        )  # fmt: skip
        far.append(student.label(np.float32(states))[0].params.softmax(-1)[:, 0].numpy().min())
        assert found.score == 10
    assert far[0] < 0.2 and far[1] > 0.8
    assert rows[-1]["rehearsal"] < 0.1 < rows[0]["rehearsal"]


def load_rule(function, env=CONSTANT):
    return load(function, env=env, **spaces(env))


def test_rehearsal_resumes_bit_for_bit(tmp_path):
    """Which states are drawn next is part of a checkpoint."""
    write_states(tmp_path / "stored", np.arange(20, 40)[:, None])
    settings = {
        "teaching__rehearsal__data": str(tmp_path / "stored"), "teaching__rehearsal__batch": 4, "checkpoint_every": 512,
        "evaluation__final": 0, "teaching__weight": "linear(1, 0, 154)",
    }  # fmt: skip
    teacher = load_rule(far_and_near)
    _, whole, _ = quick(tmp_path / "whole", teacher, stop__env_steps=1024, **settings)
    quick(tmp_path / "parts", teacher, stop__env_steps=512, **settings)
    _, parts, _ = quick(tmp_path / "parts", teacher, stop__env_steps=1024, resume=True, **settings)
    whole, parts = weights(whole), weights(parts)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_stored_states_must_be_the_students(tmp_path):
    teacher = load_rule(far_and_near)
    with pytest.raises(UserError, match="no data"):
        quick(tmp_path / "a", teacher, teaching__rehearsal__data=str(tmp_path))
    write_states(tmp_path / "wide", np.zeros((3, 2)))
    with pytest.raises(UserError, match="shape"):
        quick(tmp_path / "b", teacher, teaching__rehearsal__data=str(tmp_path / "wide"))
    with pytest.raises(UserError, match="policy.lstm"):
        prepare([teacher], CONSTANT, {"teaching": {"rehearsal": {"data": "x"}}, "policy": {"lstm": 8}})


def test_a_key_of_the_observation_names_the_teacher(tmp_path):
    """Teacher 0 where ``who`` says 0, teacher 1 where it says 1: the student does as the one of its state."""
    env = "understudy/Whose-v0"

    def one(obs):
        return np.ones(len(obs["who"]), np.int64)

    def none(obs):
        return np.zeros(len(obs["who"]), np.int64)

    teachers = [load_rule(function, env) for function in (one, none)]
    _, student, rows = quick(
        tmp_path, teachers, "distill-student", env=env, teaching__assignment="key", teaching__key="who"
    )  # fmt: skip
    seen = {"observation": np.zeros((2, 1), np.float32), "who": np.arange(2)}
    probabilities = student.label(seen)[0].params.softmax(-1)[:, 1].numpy()
    assert probabilities[0] > 0.95 and probabilities[1] < 0.05
    assert rows[-1]["kl/teacher_1"] < 0.05 and rows[-1]["kl/teacher_2"] < 0.05


@pytest.mark.parametrize(
    ("count", "key", "message"),
    [(3, "who", "2 values and there are 3"), (1, "who", "the value 1 has none"), (2, "whom", "it shows"),
     (2, "observation", "has 1 values and there are 2 teachers"), (2, "", "belong together")],
)  # fmt: skip
def test_keys_that_name_no_teachers_are_refused(count, key, message):
    env = "understudy/Whose-v0"
    settings = {"teaching": {"assignment": "key", "key": key}}
    with pytest.raises(UserError, match=message):
        prepare([always(RIGHT, env)] * count, env, settings)


def test_every_task_has_a_schedule_of_its_own(tmp_path):
    """The first task's weight falls to 0 half-way, the second's stays: the first is left to its rewards."""
    other = "understudy/Memory-v0"
    teachers = [always(WRONG), always(WRONG, other)]
    with pytest.warns(UserWarning, match="ends at its teacher"):
        found, student, rows = quick(
            tmp_path, teachers, env=None, teaching__assignment="task", teaching__weight="2",
            teaching__rho=["linear(1, 0, 40%)", 1], stop__env_steps=8000, evaluation__final=4,
        )  # fmt: skip
    seen = {"observation": np.zeros((2, 2), np.float32), "task": np.eye(2, dtype=np.float32)}
    probabilities = student.label(seen)[0].params.softmax(-1)[:, 0].numpy()
    assert probabilities[0] < 0.1 and probabilities[1] > 0.9
    assert rows[0]["teacher_1_weight"] == rows[-1]["teacher_2_weight"] == 2 and rows[-1]["teacher_1_weight"] == 0


def test_the_tasks_of_an_environment_and_their_teachers(tmp_path):
    """The environment's order counts; a task without a teacher, with two, and a teacher without a task are refused."""
    one, two = always(RIGHT), always(WRONG, "understudy/Memory-v0")
    chain = "understudy/Chain-v0"

    def ready(teachers, *tasks):
        env = understudy.EnvSpec("multitask", {"tasks": [{"id": task} for task in tasks]})
        return prepare(teachers, env, {"teaching": {"assignment": "task"}})

    made = ready([one, two], "understudy/Memory-v0", CONSTANT)
    assert [member.about.env.id for member in made.teachers[0].members] == ["understudy/Memory-v0", CONSTANT]
    with pytest.raises(UserError, match=f"the task {chain} has no teacher"):
        ready([one, two], "understudy/Memory-v0", CONSTANT, chain)
    with pytest.raises(UserError, match="both claim the task"):
        ready([one, two, always(WRONG)], "understudy/Memory-v0", CONSTANT)
    with pytest.raises(UserError, match="has no task"):
        ready([one, two, always(WRONG, chain)], "understudy/Memory-v0", CONSTANT)
    for said in ("kwargs", "wrappers"):
        more = {"kwargs": {"g": 1.0}} if said == "kwargs" else {"wrappers": [{"type": "time_limit", "max_steps": 3}]}
        with pytest.raises(UserError, match=f"env.{said}.*as they are: leave it out"):
            prepare([one, two], None, {"teaching": {"assignment": "task"}, "env": more})


def test_dagger_mixes_and_keeps_every_round(tmp_path):
    """The preset of ``understudy distill``: beta falls round by round, the dataset grows by every one of them."""
    rows = []
    settings = {
        "behaviour__beta": "linear(1, 0, 600)", "data__num_envs": 2, "data__steps": 100, "stop__env_steps": 800,
        "stop__ratio": 1.9, "evaluation__final": 0, "evaluation__every": 99, "student__hidden": [8],
        "execution__type": "single",
    }  # fmt: skip
    understudy.distill(always([0, 4]), CONSTANT, preset="dagger", run=tmp_path, report=rows.append, **settings)
    assert [round(row["beta"], 2) for row in rows] == [1.0, 0.67, 0.33, 0.0]
    assert [row["samples"] for row in rows] == [200, 400, 600, 800]


def test_a_student_with_memory_is_paid_for_its_distance(tmp_path):
    """Parameters of the whole rollout come from the memory that its steps had: n-distill teaches an LSTM the cue."""
    settings = {
        "policy__lstm": 16, "rollout__num_envs": 16, "rollout__steps": 8, "update__minibatch": 64,
        "stop__env_steps": 3840, "evaluation__final": 20, "update__epochs": 4,
    }  # fmt: skip
    found, _, rows = quick(tmp_path, MemoryTeacher(), "n-distill", env=MemoryTeacher.env, **settings)
    assert found.score > 0.9 and rows[-1]["kl/teacher"] < 0.2 < rows[0]["kl/teacher"]
