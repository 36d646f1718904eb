"""Whole runs in Unity scenes: every execution, every command, players that fail, mistakes."""

import json
import os
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
from tests.envs.unity_helpers import PLAYER, free_port, order_fault, scene

from understudy.cli import main
from understudy.cli_parser import command_parser
from understudy.data import EnvSpec
from understudy.distillation import distill
from understudy.envs.make import make, spaces_of
from understudy.errors import OutsideError, UserError
from understudy.evaluation.evaluate import evaluate
from understudy.io.export.export import export
from understudy.kickstart_job import prepare
from understudy.kickstarting import kickstart
from understudy.policies.files import load_policy, save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import members, space_to_json
from understudy.policies.spec import Encoder, PolicySpec
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.episodes import random_policy
from understudy.rollouts.own_clocks import collector_for
from understudy.scene_flags import describe_scene, words_of
from understudy.training import resolve_training, train
from understudy.training_session import TrainSession

SMALL = {
    "policy": {"hidden": [16]},
    "rollout": {"num_envs": 2, "steps": 32},
    "update": {"minibatch": 96},
    "evaluation": {"every": 0, "final": 0},
}


def small(spec, env_steps=768, **more):
    """Settings of a run of seconds."""
    return resolve_training({**SMALL, "env": spec.to_json(), "stop": {"env_steps": env_steps}, **more}, "ppo-3dball")


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_players_in_one_process_or_in_two_workers_are_the_same_run(tmp_path):
    spec, found = scene("--agents", 6, "--limit", 20), {}
    for execution in ({"type": "single"}, {"type": "sync", "num_workers": 2}):
        folder = tmp_path / execution["type"]
        result = train(settings=small(spec, execution=execution), run=folder)
        assert result.env_steps == 768, "two players, six agents each, 32 steps, two rollouts"
        found[execution["type"]] = named_arrays(load_policy(folder / "last.safetensors"))
        rows = rows_of(folder)
        # Episodes of 20 steps at most on 12 rows: somebody ended in every rollout.
        assert rows[-1]["episodes"] >= 24 and all(row["episode_length"] <= 20 for row in rows)
    for name, array in found["single"].items():
        np.testing.assert_allclose(array, found["sync"][name], atol=1e-6, err_msg=name)


def test_async_runs_on_while_a_player_fails(tmp_path, capfd, monkeypatch):
    fault, runs, begin = tmp_path / "fault", [], TrainSession.run
    monkeypatch.setattr(TrainSession, "run", lambda *given: runs.append(begin(*given)) or runs[0])
    spec = scene("--agents", 4, "--limit", 1000, "--fault", fault, timeout_wait=12.0)
    # Workers wait longer for a player that hangs than they may be silent themselves: they give signs of life.
    execution = {"type": "async", "num_workers": 2, "worker_timeout": 3.0}
    settings = small(spec, 10**6, execution=execution, update={"minibatch": 64})
    done = threading.Event()

    def inject():
        for kind in ("die", "hang", "nan"):
            order_fault(fault, kind)
            while fault.exists() and not done.wait(0.01):
                pass

    thread = threading.Thread(target=inject)

    def report(metrics):
        if thread.ident is None:  # not before: the first player of all only looks around
            thread.start()
        if metrics["restarts"] == 3:  # the learner has heard of all three: the next round is the last
            runs[0].env_steps = metrics["env_steps"]

    try:
        result = train(settings=settings, run=tmp_path / "run", report=report)
    finally:
        done.set()
    thread.join()
    text = capfd.readouterr().err
    assert result.stopped == "env_steps" and result.restarts == 3
    assert text.count("unfinished episodes lost, restart") == 3 and "worker" not in text
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["restarts"] == 3


def test_a_player_that_fails_while_it_is_reset_is_counted(tmp_path, capfd):
    fault = tmp_path / "fault"
    with closing(make(scene("--agents", 2, "--limit", 8, "--fault", fault), 2)) as env:
        order_fault(fault, "die")
        collector = collector_for(env, [0, 1])
        assert not fault.exists() and "restart 1 of 10" in capfd.readouterr().err
        out = new_rollout(env.observation_space, env.action_space, 4, 2)
        found = [collector.collect(4, Mixture(1.0), None, random_policy(env.action_space, 0), out) for _ in range(2)]
        assert [info.restarts for info in found] == [1, 0]


@pytest.mark.parametrize("execution", ["single", "sync", "async"])
def test_a_replay_fills_from_the_agents_of_a_scene(execution, tmp_path):
    spec = scene("--agents", 6, "--limit", 8)  # no ball falls so soon
    workers = {} if execution == "single" else {"num_workers": 2}
    settings = resolve_training(
        {
            "env": spec.to_json(), "policy": {"hidden": [16]}, "rollout": {"num_envs": 2, "steps": 8},
            "replay": {"capacity": 5000, "warm_up": 96, "batch_size": 16}, "update": {"update_to_data": 0.125},
            "evaluation": {"every": 0, "final": 0}, "execution": {"type": execution, **workers},
            "stop": {"env_steps": 960},
        },
        "ddpg-3dball",
    )  # fmt: skip
    result = train(settings=settings, run=tmp_path / "run")
    assert result.env_steps == 960 and result.updates == (960 - 96) // 8
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["replay"] == 960 and rows[-1]["episodes"] == 960 / 8, "every agent's, each once"
    assert {row["episode_length"] for row in rows if "episode_length" in row} == {8}
    assert all(
        np.isfinite(array).all() for array in named_arrays(load_policy(tmp_path / "run" / "last.safetensors")).values()
    )


@pytest.mark.parametrize("execution", ["single", "sync", "async"])
def test_a_replay_of_a_ragged_scene_owes_updates_for_real_steps_only(execution, tmp_path):
    spec = scene("--agents", 4, "--uneven", 2, "--pause", 3, "--limit", 12, "--new-ids", agents=4)
    workers = {} if execution == "single" else {"num_workers": 2}
    given = {
        "env": spec.to_json(), "policy": {"hidden": [16]}, "rollout": {"num_envs": 2, "steps": 8},
        "replay": {"capacity": 5000, "warm_up": 100, "batch_size": 16}, "update": {"update_to_data": 0.3},
        "evaluation": {"every": 0, "final": 0}, "execution": {"type": execution, **workers},
    }  # fmt: skip
    for end in (350, 700):  # the second run goes on with the first
        settings = resolve_training({**given, "stop": {"env_steps": end}}, "ddpg-3dball")
        result = train(settings=settings, run=tmp_path / "run", resume=end > 350)
        rows = rows_of(tmp_path / "run")
        assert any(row["env_steps"] % 32 for row in rows), "some columns were filled up"
        assert result.updates == int(0.3 * (result.env_steps - 100) + 1e-9)
        assert rows[-1]["replay"] == result.env_steps


def test_ragged_scenes_learn_from_real_steps_only(tmp_path):
    spec = scene("--agents", 4, "--uneven", 2, "--pause", 3, "--limit", 12, "--stats", "--new-ids", agents=4)
    result = train(
        settings=small(spec, 900, rollout={"num_envs": 1, "steps": 32}, update={"minibatch": 64}), run=tmp_path
    )
    rows = rows_of(tmp_path)
    assert 900 <= result.env_steps < 900 + 128 and all(row["episode_length"] <= 12 for row in rows)
    assert any(row["env_steps"] % 128 for row in rows), "what was filled up does not count"
    assert all(row["scene/tilt"] > 0 for row in rows)


def test_every_command_in_a_scene(tmp_path):
    spec = scene("--agents", 3, "--limit", 15)
    result = train(settings=small(spec, 288, rollout={"num_envs": 1, "steps": 32}), run=tmp_path / "teacher")
    teacher = tmp_path / "teacher" / "last.safetensors"
    with pytest.raises(UserError, match="which starts a program: --env"):
        evaluate(str(teacher), episodes=2)
    found = evaluate(str(teacher), spec.id, episodes=7, num_envs=2)
    assert (
        found.episodes == 7 and found.backend == "unity" and (found.lengths <= 15).all() and (found.lengths > 0).all()
    )
    again = evaluate(result.policy, episodes=7, num_envs=3)
    assert np.array_equal(again.returns, found.returns)
    kicked = kickstart(
        spec, [str(teacher)], settings={**SMALL, "rollout": {"num_envs": 1, "steps": 32}, "stop": {"env_steps": 192}},
        preset=["kickstarting", "ppo-3dball"], run=tmp_path / "kicked",
    )  # fmt: skip
    assert kicked.env_steps == 192


def test_a_teacher_of_a_scene_is_distilled(tmp_path):
    spec = scene("--agents", 3, "--limit", 60)
    settings = {
        "student": {"hidden": [16]}, "data": {"num_envs": 2, "steps": 100}, "learning": {"batch_size": 64},
        "evaluation": {"after": 0, "episodes": 6, "screen": 3, "final": 0, "num_envs": 3},
        "stop": {"env_steps": 3000},
    }  # fmt: skip
    result = distill("tests.envs.unity_helpers:balance", spec, settings=settings, run=tmp_path)
    assert result.env_steps % 600 == 0, "a player of three for each of two workers, 100 steps"
    assert result.stopped == "parity"


def test_a_teacher_with_a_memory_may_act_in_a_scene_but_not_label(tmp_path):
    """Rollouts do not hold every step of an agent, so what the teacher would say of them comes from a wrong memory."""
    spec = scene("--agents", 2)
    seen, done = map(space_to_json, spaces_of(spec))
    policy = Policy(PolicySpec(seen, done, "deterministic", hidden=(), std="none", lstm=4), About("memory"))
    teacher = save_policy(policy, tmp_path / "teacher.safetensors")
    with pytest.raises(UserError, match="has a memory, but agents of a Unity scene have their own clocks"):
        distill(teacher, spec, run=tmp_path / "run")
    settings = {**SMALL, "stop": {"env_steps": 192}, "rollout": {"num_envs": 1, "steps": 32}}
    settings |= {"update": {"minibatch": 64}, "env": spec.to_json()}
    with pytest.raises(UserError, match="has a memory, but agents of a Unity scene have their own clocks"):
        prepare([str(teacher)], settings=settings, preset=["kickstarting", "ppo-3dball"], run=tmp_path / "run")
    job = prepare([str(teacher)], settings=settings, preset=["ppo-3dball", "jsrl"], run=tmp_path / "run")
    assert job.settings.teaching.behaviour.acts


def test_the_command_line_knows_the_flags_of_mlagents_learn(tmp_path, capsys):
    words = ["train", "--preset", "ppo-3dball", "--env", f"unity:{PLAYER}", "--num-envs", "2", "--time-scale", "20"]
    words += ["--no-graphics", "--base-port", str(free_port()), "--env-steps", "128", "--rollout.steps", "16"]
    words += [
        "--update.minibatch",
        "32",
        "--evaluation.every",
        "0",
        "--evaluation.final",
        "2",
        "--run",
        str(tmp_path / "run"),
    ]
    main([*words, "--env-args", "--agents", "4", "--limit", "9"])
    text = capsys.readouterr().out
    assert "2 players, single" in text and "over 2 fresh episodes" in text
    main(["evaluate", str(tmp_path / "run"), "--env", f"unity:{PLAYER}", "--episodes", "3"])
    assert "unity" in capsys.readouterr().out
    main(["train", "--resume", str(tmp_path / "run"), "--env-steps", "256"])
    assert "256 env steps" in capsys.readouterr().out


def test_flags_are_written_as_they_are_read():
    told = {"agents": 3, "bins": 5, "no_graphics": True, "behavior": "A?team=0", "companions": {"B": "b", "C": "c"}}
    told |= {"time_scale": 2.5, "parameters": {"gravity": 9.8}, "env_args": ["--scene", "two"]}
    words = ["evaluate", "x", "--env", f"unity:{PLAYER}", *words_of(EnvSpec(f"unity:{PLAYER}", told))]
    arguments = command_parser().parse_args(words)
    describe_scene(arguments, {})
    assert dict(arguments.env.kwargs) == told


@pytest.mark.parametrize("lstm", [0, 4])
def test_a_file_for_unity_has_the_actions_of_its_hybrid_scene(lstm, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = scene("--scene", "hybrid", "--agents", 2, bins=5, masks=True)
    spaces = [space_to_json(space) for space in spaces_of(spec)]
    keys = tuple(Encoder(key, "flatten") for key in members(spaces_of(spec)[0]) if key != "action_mask")
    shape = {"hidden": (6,), "lstm": lstm, "mask": "action_mask"}
    policy = Policy(PolicySpec(*spaces, "multi_categorical", keys, **shape), About("ppo", env=spec))
    made = export(policy, "unity", tmp_path / "hybrid.onnx", states=30)
    assert made.difference.action == 0, "checked through onnxruntime, choices cut from the numbers again"
    session = onnxruntime.InferenceSession(str(made.path))
    feeds = {
        i.name: np.ones([d if isinstance(d, int) else 3 for d in i.shape], np.float32) for i in session.get_inputs()
    }
    feeds["action_masks"] = np.tile(np.float32([0, 1]), (3, 1))
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    for kind in ("", "deterministic_"):
        assert set(found[f"{kind}continuous_actions"].ravel()) <= {-1, -0.5, 0, 0.5, 1}
        assert found[f"{kind}continuous_actions"].shape == (3, 1)
        assert found[f"{kind}discrete_actions"].tolist() == [[1]] * 3, "the only one that is allowed"
    assert found["continuous_action_output_shape"].tolist() == [1]
    assert found["discrete_action_output_shape"].tolist() == [[2]]


def test_the_inputs_of_a_file_for_unity_are_numbered_as_the_scene_shows_its_sensors(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = scene("--scene", "watcher", "--agents", 2)
    spaces = spaces_of(spec)
    assert list(members(spaces[0])) == ["VectorSensor_size3", "action_mask", "camera"], "a space sorts them"
    keys = (Encoder("VectorSensor_size3", "flatten"), Encoder("camera", "flatten"))
    shape = {"hidden": (6,), "mask": "action_mask"}
    policy = Policy(PolicySpec(*map(space_to_json, spaces), "multi_categorical", keys, **shape), About("ppo", env=spec))
    made = export(policy, "unity", tmp_path / "watcher.onnx", states=30)
    assert made.difference.action == 0, "played through the loader, which feeds them by name"
    session = onnxruntime.InferenceSession(str(made.path))
    assert {i.name: i.shape[1:] for i in session.get_inputs()} == {
        "obs_0": [3, 12, 16],
        "obs_1": [3],
        "action_masks": [7],
    }
    rng, mask = np.random.default_rng(0), np.ones((50, 7), np.float32)
    camera, vector = rng.integers(0, 256, (50, 3, 12, 16), np.uint8), rng.random((50, 3), np.float32)
    feeds = {"obs_0": camera.astype(np.float32) / 255, "obs_1": vector, "action_masks": mask}
    (chosen,) = session.run(["deterministic_discrete_actions"], feeds)
    seen = {"camera": camera, "VectorSensor_size3": vector, "action_mask": mask}
    assert (chosen == policy.predict(seen, deterministic=True)[0]).mean() > 0.99, "pictures come as 0 to 1"


def test_an_exported_student_is_played_with_the_flags_of_its_scene(tmp_path, capsys):
    spec = scene("--scene", "hybrid", "--agents", 2, "--limit", 12, bins=5)
    spaces = [space_to_json(space) for space in spaces_of(spec)]
    keys = tuple(Encoder(key, "flatten") for key in members(spaces_of(spec)[0]) if key != "action_mask")
    policy = Policy(PolicySpec(*spaces, "multi_categorical", keys, hidden=()), About("ppo", env=spec))
    student = save_policy(policy, tmp_path / "student.safetensors")
    words = ["export", str(student), "--format", "onnx", "--env", spec.id, "--states", "20"]
    main(words)
    assert f"--env {spec.id} --timeout-wait 90.0 --env-bins 5 --env-args --scene hybrid" in capsys.readouterr().out
    main([*words, "--force", "--check-episodes", "2"])
    assert "same seeds" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--env", "unity:/nowhere/Ball"], "there is no Unity player at /nowhere/Ball"),
        (["--env", "CartPole-v1", "--time-scale", "20"], "--time-scale is for Unity scenes"),
        (["--env", f"unity:{PLAYER}?behavior=3DBal"], "no behaviour '3DBal'; did you mean 3DBall?"),
        (["--env", f"unity:{PLAYER}", "--env-args", "--scene", "hybrid"], "policies here act with one kind"),
        (["--env", f"unity:{PLAYER}", "--preset", "dqn"], "needs one discrete action, not Box"),
        (
            ["--env", f"unity:{PLAYER}", "--preset", "ddpg-3dball", "--env-args", "--scene", "chooser"],
            "method deterministic needs continuous actions, not MultiDiscrete([4 3]): take --preset ppo",
        ),
        (["--env", f"unity:{PLAYER}", "--env-args", "--version", "2.0.0"], "speaks version 2.0.0"),
        (["--env", "unity:editor"], "unity:editor has one scene"),
        (["--env", f"unity:{PLAYER}", "--checkpoint_every", "100"], "--env-reseed"),
        (["--env", f"unity:{PLAYER}", "--policy.family", "categorical"], "categorical"),
        (["--env", f"unity:{PLAYER}", "--update.minibatch", "7"], "does not divide the 3072 samples"),
    ],
)
def test_mistakes_end_in_one_line(words, text, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--preset", "ppo-3dball", "--run", str(tmp_path / "run"), *words])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and text in error and "Traceback" not in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("execution", ["single", "async"])
def test_a_run_whose_players_die_too_often_ends(execution, tmp_path):
    """As a program, so that whatever holds it at its end would be seen."""
    fault = tmp_path / "fault"
    order_fault(fault, "die")
    words = [
        "train",
        "--preset",
        "ppo-3dball",
        "--env",
        f"unity:{PLAYER}",
        "--num-envs",
        "2",
        "--max-lifetime-restarts",
        "0",
    ]
    words += ["--execution", execution, "--evaluation.every", "0", "--run", str(tmp_path / "run")]
    process = subprocess.run(
        [sys.executable, "-m", "understudy.cli", *words, "--env-args", "--fault", str(fault)],
        capture_output=True, text=True, timeout=400, env={**os.environ}, check=False,
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    # Whoever takes the order: the first player to look around, or one that trains.
    assert "died (exit code 139)" in process.stderr and "Traceback" not in process.stderr


@pytest.mark.parametrize("execution", [{"type": "single"}, {"type": "sync", "num_workers": 2}])
def test_what_was_learnt_is_saved_when_players_are_used_up(execution, tmp_path):
    spec = scene("--agents", 4, "--die-at", 50, restarts=1)
    settings = small(spec, 10_000, execution=execution, rollout={"num_envs": 2, "steps": 16}, update={"minibatch": 64})
    with pytest.raises(OutsideError, match=r"all 1 restarts are used up\); .* env steps are saved in .*; go on with"):
        train(settings=settings, run=tmp_path / "run")
    assert (tmp_path / "run" / "state.safetensors").exists()


def test_a_distillation_whose_players_are_used_up_says_how_to_go_on(tmp_path):
    settings = {"data": {"steps": 10, "first_steps": 10, "num_envs": 4}, "execution": {"type": "single"}}
    settings |= {"learning": {"batch_size": 8}, "evaluation": {"after": 400}}
    spec = scene("--agents", 4, "--die-at", 40, restarts=0)
    with pytest.raises(OutsideError, match=r"died \(exit code 11\); go on with: understudy distill --resume"):
        distill("tests.envs.unity_helpers:balance", spec, settings, run=tmp_path / "run")


def test_a_mistake_in_the_loop_does_not_hold_the_program(tmp_path):
    code = (
        "from tests.envs.unity_helpers import scene, still\nfrom understudy.envs.make import make\n"
        "env = make(scene('--agents', 2), 2); env.reset([0, 1]); env.step(still(env)); raise RuntimeError('mine')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400, check=False)
    assert process.returncode == 1 and "RuntimeError: mine" in process.stderr


def test_a_preset_that_cannot_act_there_says_so():
    with pytest.raises(UserError, match="hybrid|one kind"):
        train(settings=small(scene("--scene", "hybrid", "--agents", 2)))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", ["ppo-3dball", "ddpg-3dball"])
@pytest.mark.parametrize("execution", ["single", "sync", "async"])
def test_twelve_balls_are_solved(execution, preset, tmp_path):
    """Mean episode length of at least 95 % of the limit."""
    settings = resolve_training(
        {
            "env": scene("--limit", 200).to_json(),
            "rollout": {"num_envs": 1 if execution == "single" else 2},
            "evaluation": {"every": 0},
            "stop": {"env_steps": 100_000},
            "execution": {"type": execution, "num_workers": 2},
        },
        preset,
    )
    result = train(settings=settings, run=tmp_path)
    assert evaluate(result.policy, episodes=48, num_envs=12, seed=77).mean_length >= 0.95 * 200
