"""A ladder of students: sizes, what is not done twice, and which one is called the smallest on par."""

import json
import os
from types import SimpleNamespace

import pytest

from understudy.cli import main
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.errors import UserError
from understudy.evaluation.ladder import smallest_on_par
from understudy.policies.files import load_policy, save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec
from understudy.settings import StudentSettings
from understudy.student import new_student, student_spec
from understudy.sweeping import network_of, sweep

BALANCE = """
import numpy as np

def balance(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] + 0.1 * obs[:, 1] > 0).astype(np.int64)
"""
QUICK = {
    "execution": {"type": "single"}, "data": {"num_envs": 2, "steps": 250}, "learning": {"update_to_data": 0.8},
    "evaluation": {"episodes": 10, "final": 10}, "stop": {"env_steps": 1000},
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(BALANCE)
    return tmp_path


def test_a_ladder_from_the_command_line(here, capsys):
    flags = ["--execution", "single", "--data.num_envs", "2", "--data.steps", "250", "--learning.update_to_data", "0.8",
             "--evaluation.episodes", "10", "--evaluation.final", "10", "--stop.env_steps", "1000"]  # fmt: skip
    main(["sweep", "mine:balance", "--env", "CartPole-v1", "--sizes", "16x16", "4", "--run", "ladder", *flags])
    out = capsys.readouterr().out
    data = json.loads((here / "ladder" / "sweep.json").read_text())
    assert [s["name"] for s in data["students"]] == ["4", "16x16"], "sorted by size"
    assert [s["parameters"] for s in data["students"]] == [4 * 4 + 4 + 4 * 2 + 2, 4 * 16 + 16 + 16 * 17 + 16 * 2 + 2]
    assert data["comparison"]["alpha"] == pytest.approx(0.025), "each test has its part of 0.05"
    passed = [s["name"] for s in data["students"] if s["on_par"]]
    assert data["smallest"] == (passed[0] if passed else None)
    assert (f"smallest on par: {passed[0]}" if passed else "no student of these sizes") in out
    assert (here / "ladder" / "sweep.png").stat().st_size > 10_000
    assert load_policy(here / "ladder" / "4" / "best.safetensors").spec.hidden == (4,)


def test_finished_sizes_are_not_repeated_and_broken_off_ones_go_on(here):
    told = []
    first = sweep("mine:balance", "CartPole-v1", ["4"], QUICK, run="ladder", tell=lambda *line: told.append(line))
    log = here / "ladder" / "4" / "log.jsonl"
    before = log.read_bytes(), os.stat(log).st_mtime_ns
    assert told[0] == ("4", "distilling")
    told.clear()
    second = sweep("mine:balance", "CartPole-v1", ["4", "8"], QUICK, run="ladder", tell=lambda *line: told.append(line))
    assert (log.read_bytes(), os.stat(log).st_mtime_ns) == before
    assert ("4", "distilling") not in told and ("8", "distilling") in told
    assert second.comparison.rows[1].evaluation.returns.tolist() == first.comparison.rows[1].evaluation.returns.tolist()
    (here / "ladder" / "8" / "summary.json").unlink()  # as after Ctrl-C
    told.clear()
    sweep("mine:balance", "CartPole-v1", ["8"], QUICK, run="ladder", tell=lambda *line: told.append(line))
    assert told[0] == ("8", "going on")
    with pytest.raises(UserError, match=r"another learning.update_to_data \(0.8 instead of 0.4\)"):
        sweep("mine:balance", "CartPole-v1", ["4"], QUICK, run="ladder", learning__update_to_data=0.4)


def test_more_episodes_and_settings_that_are_new_repeat_no_size(here):
    """More episodes decide what few left open; folders of earlier versions lack what is new."""
    settings = {**QUICK, "evaluation": {"final": 4, "after": 10_000}, "stop": {"env_steps": 500}}
    told = []

    def again(**more):
        return sweep("mine:balance", "CartPole-v1", ["4"], settings, run="ladder", **more)

    again()
    config = here / "ladder" / "4" / "config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "confirm:" not in line))
    found = again(evaluation__final=6, tell=lambda *line: told.append(line))
    assert found.comparison.rows[1].evaluation.episodes == 6 and ("4", "distilling") not in told
    with pytest.raises(UserError, match=r"another evaluation.confirm \(50 instead of 0\)"):
        again(evaluation__confirm=0)
    with pytest.raises(UserError, match=r"a sweep decides on fresh episodes: evaluation.final is 0"):
        again(evaluation__final=0)


def test_a_linear_student_and_another_average_of_teachers(here):
    settings = {**QUICK, "evaluation": {"final": 4, "after": 10_000}, "stop": {"env_steps": 500}}

    def two(**more):
        return sweep(["mine:balance", "mine:balance"], "CartPole-v1", ["0"], settings, run="ladder", **more)

    assert two().comparison.rows[1].parameters == 4 * 2 + 2
    two(ensemble="distributions")  # as by default
    with pytest.raises(UserError, match=r"another --ensemble \(distributions instead of losses\)"):
        two(ensemble="losses")


@pytest.mark.parametrize("share", ["25%", "7%", "4%"])
def test_shares_of_the_teacher(here, share):
    spaces = spaces_of("CartPole-v1")
    spec = PolicySpec(*map(space_to_json, spaces), "q_values", hidden=(256, 256))
    save_policy(Policy(spec, About("by hand", "")), here / "teacher.safetensors")
    teacher = load_policy(here / "teacher.safetensors")
    own = network_of(share, teacher, EnvSpec("CartPole-v1"), StudentSettings())
    width = own["hidden"][0]
    assert own == {"hidden": [width, width]}

    def parameters(width):
        student = student_spec(StudentSettings(hidden=(width, width)), *spaces, teacher)
        return new_student(student, 0, About()).parameters_count

    most = float(share[:-1]) / 100 * teacher.parameters_count
    assert parameters(width) <= most < parameters(width + 1)


def test_the_smallest_that_passed():
    def row(name, parameters, passed):
        return SimpleNamespace(
            name=name, parameters=parameters, parity=passed and SimpleNamespace(passed=passed == "yes")
        )

    rows = [row("a", 10, "no"), row("c", 1000, "yes"), row("b", 100, "yes"), row("d", 1, None)]
    assert smallest_on_par(rows).name == "b"
    assert smallest_on_par(rows[:1]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "8by8"], "the size '8by8' cannot be read"),
        (["--sizes", "0", "0x8"], "the size '0x8' cannot be read"),
        (["--sizes", "8", "8"], "each once"),
        (["--sizes", "25%"], "which are not known"),
        (["--student.hidden", "8"], "--sizes 8x8 16x16"),
    ],
)
def test_mistakes(here, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "mine:balance", "--env", "CartPole-v1", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1
