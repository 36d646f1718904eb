"""The command line as a user meets it: in an empty folder, in processes of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from understudy.cli import main
from understudy.cli_parser import command_parser, given_by
from understudy.errors import UserError
from understudy.policies.files import load_policy
from understudy.preset_files import merged_presets, preset, presets
from understudy.terminal_training import print_policies

COMMAND = [sys.executable, "-m", "understudy"]
QUICK = [
    "--data.num_envs", "2", "--data.steps", "250", "--data.first_steps", "0", "--learning.update_to_data", "0.8",
    "--evaluation.episodes", "10",
    "--evaluation.final", "10",
]  # fmt: skip
BALANCE = """
import numpy as np

def balance(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] + 0.1 * obs[:, 1] > 0).astype(np.int64)
"""


def understudy(*words, cwd, **options):
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400, check=False, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole path once: a teacher in a file, two workers, a 16x16 student, the table at the end."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine.py").write_text(BALANCE)
    done = understudy(
        "distill",
        "mine:balance",
        "--env",
        "CartPole-v1",
        "--student.hidden",
        16,
        16,
        "--stop.alpha",
        0.04,
        "--run",
        "run",
        *QUICK,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_distill_ends_with_a_verdict_and_a_table(run):
    folder, out = run
    assert "on par: at 96 % confidence the student reaches at least 95% of the teacher's return" in out
    assert "paired one-sided t-test at level 0.04" in " ".join(out.split())
    for word in ("teacher", "student", "95 % interval", "parameters", "kB", "µs", "agreement"):
        assert word in out
    names = {p.name for p in (folder / "run").iterdir()}
    assert names >= {"best.safetensors", "last.safetensors", "state.safetensors", "config.yaml", "log.jsonl",
                     "result.json", "result.png", "tensorboard"}  # fmt: skip
    assert load_policy(folder / "run" / "best.safetensors").spec.hidden == (16, 16)
    rows = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["ratio"] >= 0.95 and rows[-1]["env_steps"] == 500 * len(rows)


def test_inspect_evaluate_compare_play(run, monkeypatch, capsys):
    folder, _ = run
    monkeypatch.chdir(folder)
    main(["inspect", "run"])
    shown = capsys.readouterr().out
    assert "CartPole-v1" in shown and "MLP 16x16" in shown
    main(["evaluate", "run", "--episodes", "5", "--json", "e.json"])
    assert "95 % interval" in capsys.readouterr().out
    assert len(json.loads((folder / "e.json").read_text())["returns"]) == 5
    main(["evaluate", "random", "--env", "CartPole-v1", "--episodes", "5", "--num-envs", "2"])
    assert "random" in capsys.readouterr().out
    main(["compare", "run/best.safetensors", "run/last.safetensors", "--episodes", "5"])
    shown = capsys.readouterr().out
    assert "best" in shown and "last" in shown
    main(["compare", "random", "run", "--episodes", "2"])  # anybody can be the reference
    assert "1 is random" in capsys.readouterr().out
    main(["play", "run", "--video", "film.gif"])
    assert (folder / "film.gif").stat().st_size > 1000


def test_resume_after_a_kill(run):
    folder, _ = run
    command = [*COMMAND, "distill", "mine:balance", "--env", "CartPole-v1", "--run", "killed",
               "--stop.ratio", "1.9", "--stop.env_steps", "100000", *QUICK]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (folder / "killed" / "data" / "00003.safetensors").exists():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    until = len(list((folder / "killed" / "data").glob("*.safetensors"))) + 4  # it may have gone on for a while
    words = ["--stop.env_steps", 500 * until, "--evaluation.final", 0]
    done = understudy("distill", "--resume", "killed", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "budget ended (env_steps)" in done.stdout
    rounds = [json.loads(line)["round"] for line in (folder / "killed" / "log.jsonl").read_text().splitlines()]
    assert rounds[-1] == until and len(set(rounds)) == until


def test_ctrl_c_ends_cleanly_and_leaves_nobody(run):
    folder, _ = run
    command = [*COMMAND, "distill", "mine:balance", "--env", "CartPole-v1", "--run", "stopped",
               "--stop.ratio", "1.9", *QUICK]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs its tests in the background has them ignore Ctrl-C; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.time() + 120
    while not (folder / "stopped" / "state.safetensors").exists():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("understudy: interrupted; go on with")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    load_policy(folder / "stopped" / "last.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill"], "needs a teacher"),
        (["distill", "nothing.zip"], "no teacher at nothing.zip"),
        (
            ["distill", "nothing.zip", "--studnet.hidden", "64"],
            r"unknown argument --studnet.hidden; did you mean --student.hidden",
        ),
        (["distil", "x"], "invalid choice: 'distil'"),
        (["distill", "x.zip", "--preset", "distill-discreet"], "no teacher|did you mean distill-discrete"),
        (["distill", "--resume", "nowhere"], "no run to resume at nowhere"),
        (["evaluate", "nothing.onnx"], "no teacher at nothing.onnx"),
        (["inspect", "x.txt"], "no teacher at x.txt"),
        (["evaluate", ""], "no teacher is named"),
        (["kickstart", "--preset", "qdagger", "--pbt"], "not from a replay as those of the method q_learning"),
        (["kickstart", "--preset", "sac-from-teacher", "--against-scratch"], "--against-scratch are .* method soft"),
        (["train", "--env", "CartPole-v1", "--run", ""], "the run's folder has no name"),
        (["distill", "tests.teachers_for_tests:swing_up", "--env", "Pendulum-v1", "--run", ""], "folder has no name"),
        (
            ["sweep", "tests.teachers_for_tests:swing_up", "--env", "Pendulum-v1", "--sizes", "2", "--run", ""],
            "folder has no name",
        ),
        (["train", "--env", "A", "--env.kwargs", "{foo: 1"], "env.kwargs is '{foo: 1'; it must be a mapping"),
        (["train", "--env", "A", "--env.kwargs", "{on: 2020-13-99}"], "env.kwargs is .* must be a mapping"),
        (["train", "--env", "A", "--env.wrappers", "{type: frame_stack"], "env.wrappers is '{type: frame_stack'"),
        (["train", "--env", "A", "--env.wrappers", "[frame_stack"], r"env.wrappers is '\[frame_stack'; it must be"),
        (["train", "--env", "unity:x", "--time-scale", "3", "--env.kwargs", "{foo: 1"], "env.kwargs is '{foo: 1'"),
        (["train", "--env", "unity:x", "--time-scale", "3", "--env.kwargs", "5"], "env.kwargs is '5'"),
        (["train", "--env", "unity:x", "--env-parameters", "{a: 1"], "--env-parameters: '{a: 1' cannot be read as"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("understudy: error: ") and error.count("\n") == 1
    assert re.search(message, error)


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    out = capsys.readouterr().out
    for flag in ("--student.hidden", "--stop.ratio", "--behaviour.beta", "--execution", "--distance.temperature"):
        assert flag in out


def help_of(capsys, *words):
    """Return the help as one line."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_of_a_preset_shows_its_method_and_its_values(capsys):
    out = help_of(capsys, "train", "--preset", "td3-lunarlander")
    assert out.startswith("usage: understudy train [--preset NAME] [--KEY VALUE ...] Train")
    assert "--policy.hidden [N ...] widths of the actor's hidden layers [256 256]" in out
    assert "schedule of the learning rate on env steps [1e-3]" in out and "[LunarLanderContinuous-v3]" in out
    assert "--objective.target_noise" in out and "--objective.lam" not in out and "--objective.temperature" not in out
    plain = help_of(capsys, "train")
    assert "--objective.lam" in plain and "--replay" not in plain
    out = help_of(capsys, "kickstart", "--preset", "qdagger")
    assert "usage: understudy kickstart --teacher FILE" in out and "--replay.capacity" in out
    assert "--teaching.offline_steps" in out and "--objective.lam" not in out
    assert "--objective.lam" in help_of(capsys, "kickstart")
    own = "presets or YAML files, merged from left to right"
    assert own in help_of(capsys, "kickstart", "--preset", "kickstarting", "eer")


def test_help_of_a_preset_that_does_not_exist(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--preset=td3-lunarlandr", "--help"])
    assert ended.value.code == 2
    assert re.match(r"understudy: error: no preset .*did you mean td3-lunarlander", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "name", "found"),
    [
        (["kickstart", "--preset", "jsrl", "--preset", "ppo-cartpole"], "preset", ["jsrl", "ppo-cartpole"]),
        (["distill", "t", "--env", "A", "--env", "B", "C"], "env", ["A", "B", "C"]),
        (["sweep", "t", "--env", "A", "--env", "B"], "env", ["A", "B"]),
        (["sweep", "t", "--sizes", "4", "--sizes", "8"], "sizes", ["4", "8"]),
        (["train", "--env.wrappers", "{a: 1}", "--env.wrappers", "{b: 1}"], "env.wrappers", ["{a: 1}", "{b: 1}"]),
        (["distill", "t", "--student.hidden", "64", "32"], "student.hidden", ["64", "32"]),
        (["sweep", "t"], "sizes", ["8x8", "16x16", "32x32", "64x64"]),
        (["kickstart"], "preset", []),
    ],
)
def test_flags_of_lists_add_up(words, name, found):
    for _ in range(2):
        assert vars(command_parser().parse_args(words))[name] == found
    if name == "preset":
        given = given_by(words[0], words[1:])
        assert given == merged_presets(found or "kickstarting")


@pytest.mark.parametrize("words", [["train", "--policy.hidden"], ["kickstart", "--pbt.lr"]])
def test_numbers_of_a_list_are_given_at_once(words):
    flag = words[1]
    assert vars(command_parser().parse_args([*words, "64", "32"]))[flag[2:]] == ["64", "32"]
    with pytest.raises(UserError, match=f"{flag} is given twice: give all its numbers at once, as {flag} 64 32 "):
        command_parser().parse_args([*words, "64", f"{flag}=32"])


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "understudy", "inspect", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "no teacher at nothing" in done.stderr


def test_a_file_where_the_run_folder_should_be(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    words = ["train", "--env", "CartPole-v1", "--preset", "ppo", "--env-steps", "200", "--run", str(tmp_path / "taken")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and (tmp_path / "taken").read_text() == "mine"
    assert re.fullmatch(r"understudy: error: cannot write .*config.yaml: .*\n", capsys.readouterr().err)


def test_resume_names_the_command_that_made_the_run(tmp_path, capsys):
    words = ["train", "--env", "CartPole-v1", "--preset", "ppo", "--env-steps", "2048", "--evaluation.final", "1"]
    main([*words, "--run", str(tmp_path / "run")])
    for command in ("distill", "kickstart"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--resume", str(tmp_path / "run")])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1
        assert "is a run of understudy train: understudy train --resume" in error
    (tmp_path / "run" / "config.yaml").write_text("settings: [")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert re.fullmatch(r"understudy: error: .* cannot be read as YAML: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "own", "words", "other"),
    [
        ("train", {}, ["--method", "q_learning"], "actor_critic, which cannot become q_learning"),
        ("kickstart", {"teaching": {}, "method": "soft"}, ["--method", "actor_critic"], "cannot become actor_critic"),
    ],
)
def test_a_run_keeps_its_method(command, own, words, other, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"settings": own}))
    with pytest.raises(SystemExit):
        main([command, "--resume", str(tmp_path), *words])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and other in error


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        (b"settings: 5", ["train", "--resume"], "does not describe a run that can be resumed"),
        (b"\xff\xfe", ["watch", "--once"], "cannot be read as YAML"),
        (b"a: [", ["report", "--no-play"], "cannot be read as YAML"),
        (b"settings: {teaching: {}}", ["train", "--resume"], "understudy kickstart --resume '.*a b' goes on"),
    ],
)
def test_a_broken_run_is_one_line(config, words, message, tmp_path, capsys):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "config.yaml").write_bytes(config)
    with pytest.raises(SystemExit) as ended:
        main([*words, str(tmp_path / "a b")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and re.search(message, error)


def test_presets_stand_under_the_command_that_they_are_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.yaml").write_text("# Mine.\nteaching: {weight: '1'}\n")
    monkeypatch.chdir(tmp_path)
    main(["presets"])
    parts = re.split(r"^understudy (\w+) --preset NAME$", capsys.readouterr().out, flags=re.MULTILINE)
    found = {
        command: re.findall(r"^  (\S+)", text, re.MULTILINE)
        for command, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    assert list(found) == ["train", "kickstart", "distill"]
    assert {"ppo", "sac", "ppo-pong"} <= set(found["train"])
    assert {"kickstarting", "qdagger", "finetune", "mine"} <= set(found["kickstart"])
    assert found["distill"] == ["dagger", "demo", "distill-continuous", "distill-discrete"]
    assert sum(map(len, found.values())) == len(presets())


def test_a_preset_is_printed_as_it_stands_in_its_file(capsys):
    main(["presets", "ppo-pong"])
    printed = capsys.readouterr().out
    assert printed.startswith("#") and yaml.safe_load(printed) == preset("ppo-pong")
    with pytest.raises(SystemExit) as ended:
        main(["presets", "ppo-ping"])
    assert ended.value.code == 2 and "did you mean ppo-pong" in capsys.readouterr().err


def test_the_value_functions_widths_may_be_several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--env", "understudy/ConstantAction-v0", "--env-steps", "256", "--evaluation.final", "2"]
    for given, widths in ((["8", "4"], (8, 4)), (["none"], (6,))):
        main([*words, "--policy.hidden", "6", "--policy.value_hidden", *given, "--run", given[0]])
        assert load_policy(f"{given[0]}/last.safetensors").spec.value_hidden == widths


@pytest.mark.parametrize(
    ("flag", "value"), [("--policy.hidden", "1000000000000000"), ("--rollout.steps", "100000000000000")]
)
def test_memory_that_is_not_there_is_one_line(flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--env", "understudy/ConstantAction-v0", flag, value])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "understudy: error: not enough memory; choose smaller" in said
    assert "Traceback" not in said


def test_an_output_without_the_letter_shows_a_question_mark_and_goes_on(tmp_path):
    """An alpha ended a run of SAC whose output went to a file in another encoding."""
    words = ["--preset", "reinforce", "--env", "CartPole-v1", "--env-steps", "256", "--evaluation.final", "0"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = understudy("train", *words, "--run", "α", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "run folder ?" in done.stdout
    assert (tmp_path / "α" / "last.safetensors").exists()


@pytest.mark.parametrize(("stopped", "told"), [("score", True), ("env_steps", False)])
def test_the_policy_that_reached_the_score_is_named(stopped, told, capsys):
    """The last weights are some updates younger than those that were judged."""
    print_policies(Path("runs/pong"), stopped)
    out = " ".join(capsys.readouterr().out.split())
    assert "policy: runs/pong/last.safetensors" in out and ("reached by best.safetensors" in out) == told
