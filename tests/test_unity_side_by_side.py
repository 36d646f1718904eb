"""Several behaviours of a scene from the command line: a student each, a teacher each, judged together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import yaml
from tests.envs.test_unity_behaviours import balance, echo
from tests.envs.unity_helpers import PLAYER, order_fault, scene

from understudy.cli import main
from understudy.data import EnvSpec
from understudy.envs.unity import hub
from understudy.errors import UserError
from understudy.policies.files import load_policy, save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec
from understudy.side_by_side.judge import among, own_scene
from understudy.side_by_side.parts import write_index
from understudy.teachers.load import load
from understudy.terminal_progress import ProgressLine

SCENE = ["--env", f"unity:{PLAYER}"]
ARGUMENTS = ["--env-args", "--scene", "two", "--agents", "4", "--limit", "12"]
SMALL = ["--preset", "ppo-3dball", "--rollout.steps", "16", "--update.minibatch", "32", "--policy.hidden", "8"]


def train(run, *words, arguments=ARGUMENTS):
    main(
        ["train", *SMALL, *SCENE, "--env-steps", "64", "--evaluation.final", "2", "--run", str(run), *words, *arguments]
    )


def rows_of(folder):
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def learning(run):
    """Say whether all behaviours have learnt from something."""
    return all(rows_of(run / name) for name in ("3DBall", "Goalie"))


def test_each_behaviour_gets_a_student_of_its_own(tmp_path, capsys):
    ball, goalie = tmp_path / "ball.yaml", tmp_path / "goalie.yaml"
    ball.write_text("policy: {hidden: [6]}\nrollout: {num_envs: 2, steps: 16}\nupdate: {minibatch: 32}\n")
    goalie.write_text(
        "method: deterministic\npolicy: {hidden: [4]}\nrollout: {num_envs: 2, steps: 8}\n"
        "replay: {capacity: 500, warm_up: 16, batch_size: 8}\nupdate: {update_to_data: 0.125}\n"
    )
    words = ["train", *SCENE, "--behavior", f"3DBall={ball}", "--behavior", f"Goalie={goalie}"]
    words += ["--env-steps", "96", "--evaluation.final", "2"]
    run = tmp_path / "two"
    main([*words, "--run", str(run), *ARGUMENTS])
    text = capsys.readouterr().out
    assert "2 behaviours side by side, 2 players" in text and "3DBall: 4 agents, actor_critic" in text
    assert "Goalie: 4 agents, deterministic" in text
    ball, goalie = (load_policy(run / name / "last.safetensors") for name in ("3DBall", "Goalie"))
    assert ball.observation_space.shape == (8,) and goalie.observation_space.shape == (1,)
    assert goalie.spec.hidden == (4,) and ball.spec.hidden == (6,)
    told = json.loads((run / "summary.json").read_text())["behaviours"]
    for name in ("3DBall", "Goalie"):
        assert told[name]["env_steps"] >= 96 and len(told[name]["returns"]) == 2 and told[name]["updates"] > 0
        rows = rows_of(run / name)
        assert rows[-1]["episodes"] >= 4 and all(row.get("episode_length", 0) <= 12 for row in rows)
    assert told["3DBall"]["mean_length"] <= 12 == told["Goalie"]["mean_length"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of two short runs side by side."""
    run = tmp_path_factory.mktemp("runs") / "two"
    train(run)
    return run


def test_a_folder_of_several_is_resumed_and_evaluated(two, tmp_path, capsys):
    run = tmp_path / "again"
    shutil.copytree(two, run)
    main(["train", "--resume", str(run), "--env-steps", "128"])
    summary = json.loads((run / "summary.json").read_text())["behaviours"]
    assert [summary[name]["env_steps"] for name in ("3DBall", "Goalie")] == [128, 128]
    saved = yaml.safe_load((run / "Goalie" / "config.yaml").read_text())["settings"]
    assert saved["env"]["kwargs"]["behavior"] == "Goalie"
    with pytest.raises(UserError, match="a policy for each behaviour.*name one of .*3DBall"):
        load(str(run))
    words = ["--num-envs", "2", "--episodes", "5", "--json", str(tmp_path / "found.json")]
    main(["evaluate", str(run), *SCENE, *words, *ARGUMENTS])
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: one["episodes"] for name, one in found.items()} == {"3DBall": 5, "Goalie": 5}
    assert found["Goalie"]["lengths"] == [12] * 5
    main(["evaluate", str(run), *SCENE, *words])
    assert json.loads((tmp_path / "found.json").read_text())["Goalie"]["lengths"] == [12] * 5, "the scene of its run"
    spec = own_scene(EnvSpec(SCENE[1]), str(run / "Goalie"))
    assert spec.kwargs["env_args"] and own_scene(EnvSpec("unity:other"), str(run / "Goalie")).kwargs == {}
    assert own_scene(replace(spec, kwargs={"agents": 3}), str(run / "Goalie")).kwargs == {"agents": 3}


def test_a_policy_of_a_run_does_not_say_what_is_imported_for_its_companions(two, tmp_path):
    policy = load_policy(two / "Goalie" / "last.safetensors")
    env = policy.about.env
    policy.about.env = replace(env, kwargs={**env.kwargs, "companions": {"Other": "module:function"}})
    save_policy(policy, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="'module:function', which imports a module"):
        own_scene(EnvSpec(env.id), str(tmp_path / "foreign.safetensors"))


def test_each_behaviour_is_distilled_from_a_teacher_of_its_own(tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(ProgressLine, "__enter__", lambda self: shown.append(self) or self)
    teachers = {"3DBall": balance(tmp_path / "ball.safetensors"), "Goalie": echo(tmp_path / "goalie.safetensors")}
    students = tmp_path / "students"
    words = ["--student.hidden", "4", "--data.steps", "20", "--data.first_steps", "20", "--learning.batch_size", "16"]
    words += ["--evaluation.final", "2", "--evaluation.after", "0", "--evaluation.episodes", "4", "--evaluation.screen"]
    words += ["2", "--stop.env_steps", "40", "--execution.type", "single", "--num-envs", "1", "--run", str(students)]
    given = [f"{name}={path}" for name, path in teachers.items()]
    scene = ["--env-args", "--scene", "two", "--agents", "4", "--limit", "60"]
    main(["distill", *given, *SCENE, *words, *scene])
    text = capsys.readouterr().out
    assert len(shown) == 2, "a progress line each, on a terminal"
    assert "all students together against all teachers together" in text and "env_steps" in text
    told = json.loads((students / "summary.json").read_text())["behaviours"]
    assert set(told) == {"3DBall", "Goalie"} and all("student" in one for one in told.values())
    assert told["3DBall"]["teacher"]["mean_length"] == 60 and abs(told["Goalie"]["teacher"]["return"]) < 1e-4
    assert load_policy(students / "Goalie" / "last.safetensors").spec.hidden == (4,)
    described = yaml.safe_load((students / "3DBall" / "config.yaml").read_text())
    assert described["environment"]["kwargs"]["companions"] == {"Goalie": str(teachers["Goalie"])}
    assert described["settings"]["data"]["num_envs"] == 2, "one player of two agents"
    with pytest.raises(SystemExit):
        main(["distill", *given, *SCENE, "--run", str(students), *scene])
    assert "holds runs already" in capsys.readouterr().err


def test_one_behaviour_among_companions_from_the_command_line(tmp_path, capsys):
    goalie = echo(tmp_path / "echo.safetensors")
    run = tmp_path / "ball"
    train(run, "--behavior", "3DBall", "--companion", f"Goalie={goalie}")
    assert load_policy(run / "last.safetensors").observation_space.shape == (8,)
    words = [*SCENE, "--behavior", "Goalie", "--companion", f"3DBall={run}", "--episodes", "2"]
    main(["evaluate", str(goalie), *words, *ARGUMENTS])
    assert "steps" in capsys.readouterr().out
    main(["play", str(run), *SCENE, "--behavior", "3DBall", "--companion", f"Goalie={goalie}", *ARGUMENTS])
    assert capsys.readouterr().out.startswith("return: ")


def test_a_player_that_dies_costs_all_behaviours_their_episodes_and_no_more(tmp_path, capsys, monkeypatch):
    fault, run, orders, ordered = tmp_path / "fault", tmp_path / "two", hub._Shared._orders, []

    def later(shared):
        """Between two exchanges of the player: no run can end before."""
        if not ordered and learning(run):
            ordered.append(order_fault(fault, "die"))
        return orders(shared)

    monkeypatch.setattr(hub._Shared, "_orders", later)
    train(run, "--env-steps", "512", arguments=[*ARGUMENTS, "--fault", str(fault)])
    told = json.loads((run / "summary.json").read_text())["behaviours"]
    assert not fault.exists() and [told[name]["restarts"] for name in ("3DBall", "Goalie")] == [1, 1]
    assert all(told[name]["env_steps"] >= 512 and 1 <= told[name]["lost_episodes"] <= 2 for name in told)


@pytest.mark.parametrize("words", [["watch"], ["report"], ["push", "me/two"]])
def test_commands_for_one_run_say_that_a_folder_holds_several(words, capsys, tmp_path):
    write_index(tmp_path, {"Goalie": tmp_path / "Goalie"})
    (tmp_path / "Goalie").mkdir()
    for path in (tmp_path, tmp_path / "Goalie"):
        (path / "config.yaml").write_text("behaviours: {}\n")
    with pytest.raises(SystemExit):
        main([words[0], str(tmp_path), *words[1:]])
    assert f"holds runs, and is none itself: name one of them, such as {tmp_path}/Goalie" in capsys.readouterr().err


def test_what_the_caller_said_of_agents_and_masks_is_kept(tmp_path):
    said = scene(agents=3, masks=True)
    assert {"agents": 3, "masks": True, "behavior": "A"}.items() <= among(said, "A", {}).kwargs.items()
    own = scene(agents=2, masks=False, settled=True)
    own = replace(own, kwargs={**own.kwargs, "behavior": "A"})
    assert among(own, "A", {}).kwargs.items() >= {"agents": 2, "masks": False, "settled": True}.items()
    assert not {"agents", "masks", "settled"} & set(among(own, "B", {}).kwargs)
    # A scene that shows masks late does not tell whether its policy sees them; the policy does.
    space = gym.spaces.Dict({"seen": gym.spaces.Box(-1, 1, (1,)), "action_mask": gym.spaces.Box(0, 1, (3,))})
    spaces, seen = map(space_to_json, (space, gym.spaces.Discrete(3))), (Encoder("seen", "flatten"),)
    spec = PolicySpec(*spaces, "categorical", seen, hidden=(), mask="action_mask")
    masked = save_policy(Policy(spec, About("masked")), tmp_path / "masked.safetensors")
    assert among(scene(), "A", {"A": masked}).kwargs["masks"]
    plain = echo(tmp_path / "echo.safetensors")
    assert "masks" not in among(scene(), "A", {"A": plain, "B": masked}).kwargs


def test_when_players_are_used_up_all_save_what_they_had(tmp_path, capsys):
    run = tmp_path / "two"
    with pytest.raises(SystemExit):
        train(run, "--env-steps", "9999", "--max-lifetime-restarts", "1", arguments=[*ARGUMENTS, "--die-at", "50"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "env steps are saved in" in error and error.count("--resume") == 1 and f"--resume {run}" in error
    assert all((run / name / "state.safetensors").exists() for name in ("3DBall", "Goalie"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_other_ends_save_all_of_them(number, code, tmp_path):
    run = tmp_path / "two"
    words = [sys.executable, "-m", "understudy.cli", "train", *SMALL, *SCENE, "--env-steps", "1000000"]
    process = subprocess.Popen(
        [*words, "--run", str(run), *ARGUMENTS], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True, env={**os.environ},
    )  # fmt: skip
    while not learning(run):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=400)
    assert process.returncode == code and "Traceback" not in error and "understudy train --resume" in error
    assert all((run / name / "state.safetensors").exists() for name in ("3DBall", "Goalie"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--num-envs", "2", "--execution", "sync"], "go with --execution single, not sync"),
        (["--checkpoint_every", "100"], "have no common moment for checkpoint_every"),
        (["--policy.init", "data"], "none plays alone first for policy.init data: take orthogonal"),
        (["--stop.score", "5"], "so stop.score cannot end one of them"),
        (["--behavior", "3DBall", "--behavior", "Gaolie"], "no behaviour 'Gaolie'; did you mean Goalie?"),
        (["--behavior", "3DBall=no-such-preset", "--behavior", "Goalie"], "no-such-preset"),
        (["--behavior", "Goalie?team=0", "--behavior", "Goalie"], "Goalie?team=0 is a part of --behavior Goalie"),
        (["--companion", "Goalie"], "as in --companion Goalie=FILE"),
        (["--companion", "Goalie=/nowhere"], "/nowhere"),
        (["--companion", "Goalie=a", "--companion", "Goalie=b"], "--companion Goalie is given twice, and differently"),
        (["--behavior", "Goalie", "--behavior", "Goalie=sac"], "--behavior Goalie is given twice, and differently"),
    ],
)
def test_mistakes_end_in_one_line(words, text, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", *words)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and text in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["distill", "3DBall=a", "b", *SCENE], "either all teachers are given as BEHAVIOUR=FILE, or none"),
        (["distill", "3DBall=a", "3DBall=b", *SCENE], "given two teachers"),
        (["distill", "3DBall=a", "Goalie=b"], "need the scene that they act in"),
        (["distill", "A=a", "B=b", "--env", "CartPole-v1"], "BEHAVIOUR=FILE is for Unity scenes"),
        (["evaluate", "x", *SCENE, "--behavior", "A", "--behavior", "B"], "takes one --behavior NAME, not A, B"),
        (["train", "--env", "CartPole-v1", "--behavior", "A", "--behavior", "B"], "--behavior is for Unity scenes"),
    ],
)
def test_mistakes_of_other_commands_end_in_one_line(words, text, capsys):
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err.strip()
    assert text in error and len(error.splitlines()) == 1


@pytest.mark.slow
def test_goalies_learn_beside_balls(tmp_path):
    """Both get better than agents that rest, from the steps that they made in the same players."""
    words = ["--env-steps", "20000", "--rollout.steps", "128", "--update.minibatch", "64", "--num-envs", "2"]
    arguments = ["--env-args", "--scene", "two", "--agents", "8", "--limit", "50"]
    train(tmp_path / "two", *words, "--evaluation.final", "20", arguments=arguments)
    told = json.loads((tmp_path / "two" / "summary.json").read_text())["behaviours"]
    assert told["Goalie"]["score"] > -5, "about -25 at rest"
    assert told["3DBall"]["mean_length"] >= 0.95 * 50 and np.isfinite(told["3DBall"]["score"])
