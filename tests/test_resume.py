"""What a resumed run takes over, what may change, and what is refused in one line."""

import json
import time

import pytest
from tests.test_kickstart import CONSTANT, RIGHT, WRONG, always
from tests.test_kickstart import quick as taught
from tests.test_training import quick

import understudy
from understudy.cli import main
from understudy.config import merge
from understudy.data import EnvSpec
from understudy.errors import Interrupted, UserError
from understudy.execution.base import Faults
from understudy.execution.evaluator import Evaluator
from understudy.execution.single import SingleExecution
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.io.log import RunLog, logged_curve
from understudy.io.run_folder import new_folder
from understudy.policies.files import load_policy, save_policy
from understudy.preset_files import read_yaml
from understudy.training import resolve_training, train

A3C = {"execution__type": "async", "execution__shared_gradients": True, "execution__num_workers": 1}
DQN = {
    "env": "CartPole-v1", "preset": "dqn", "policy__hidden": [8], "evaluation__every": 0, "evaluation__final": 0,
    "replay__capacity": 200, "replay__warm_up": 20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"policy__activation": "relu"}, r"another network \(activation tanh instead of relu\)"),
        ({"policy__normalize": True}, {"policy__normalize": False}, r"normalized \('',\) instead of \(\)"),
        ({}, {"policy__hidden": [4]}, "without changing policy"),
        ({}, {"objective__value_weight": 0.0}, r"without changing policy.\* and objective.value_weight"),
        ({}, A3C, "resume without execution.shared_gradients"),
        (A3C, {"execution__shared_gradients": False}, "resume with execution.shared_gradients true"),
        (A3C, A3C | {"update__optimizer": "rmsprop"}, "learnt with adam: resume it without changing update.optimizer"),
    ],
)
def test_another_network_or_learner_is_refused(tmp_path, before, after, message):
    quick(tmp_path, "CartPole-v1", stop__env_steps=128, **before)
    with pytest.raises(UserError, match=message):
        quick(tmp_path, "CartPole-v1", stop__env_steps=256, resume=True, **after)


def test_another_distribution_of_the_return_is_refused(tmp_path):
    settings = {"evaluation__every": 0, "evaluation__final": 0, "replay__capacity": 1000, "replay__warm_up": 64}
    train("CartPole-v1", "c51", run=tmp_path, stop__env_steps=64, **settings)
    with pytest.raises(UserError, match=r"support .* without changing policy\.\* and objective\.\*"):
        train(run=tmp_path, resume=True, objective__high=50)


def saved(folder):
    return read_yaml(folder / "config.yaml")["settings"]


def test_a_run_keeps_the_settings_that_are_not_named_again(tmp_path):
    quick(tmp_path, "CartPole-v1", preset="a2c", stop__env_steps=128, seed=3, update__lr="5e-3", objective__gamma=0.5)
    before = saved(tmp_path)
    result = train(run=tmp_path, resume=True, stop__env_steps=256, settings={"update": {"eps": 0.5}})
    assert result.env_steps == 256
    after = merge(before, {"stop": {"env_steps": 256}, "update": {"eps": 0.5}})
    assert saved(tmp_path) == after
    (tmp_path / "lr.yaml").write_text("update: {lr: 1e-4}")
    train(EnvSpec("CartPole-v1"), str(tmp_path / "lr.yaml"), run=tmp_path, resume=True)
    assert saved(tmp_path) == merge(after, {"update": {"lr": "1e-4"}})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"env": "Acrobot-v1"}, "id CartPole-v1, not Acrobot-v1"),
        (
            {"env": EnvSpec("CartPole-v1", {"sutton_barto_reward": True})},
            r"kwargs {}, not {'sutton_barto_reward': True}",
        ),
        ({"preset": "dqn"}, "the method actor_critic, which cannot become q_learning"),
        ({"run": None}, "say which with run"),
        ({"run": "nowhere"}, "no run to resume at nowhere"),
    ],
)
def test_another_environment_or_method_is_refused(tmp_path, more, message):
    quick(tmp_path, "CartPole-v1", stop__env_steps=128)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=message):
        train(**{"run": tmp_path, "resume": True, "stop__env_steps": 256, **more})
    with pytest.raises(UserError, match="is a run of understudy train: "):
        understudy.kickstart(run=tmp_path, resume=True)
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.parametrize("name", ["kickstarting", "qdagger"])
def test_a_kickstarted_run_keeps_settings_and_teachers(tmp_path, name):
    quick(tmp_path / "teacher", CONSTANT, stop__env_steps=128)
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    small = {"evaluation__final": 0, "stop__env_steps": 64, "rollout__num_envs": 2, "teaching__weight": "0.5"}
    small |= {"teaching__offline_updates": 0, "replay__warm_up": 16} if name == "qdagger" else {"rollout__steps": 32}
    understudy.kickstart(CONSTANT, teacher, name, run=run, update__lr="5e-3", evaluation__every=0, **small)
    before = saved(run)
    understudy.kickstart(run=run, resume=True, stop__env_steps=128)
    assert saved(run) == merge(before, {"stop": {"env_steps": 128}})
    with pytest.raises(UserError, match="not CartPole-v1"):
        understudy.kickstart("CartPole-v1", run=run, resume=True)


def test_a_population_keeps_its_size(tmp_path, monkeypatch):
    asked = {"settings": {"env": {"id": CONSTANT}, "seed": 7, "pbt": {"population": 6}, "teaching": {}}}
    (tmp_path / "config.yaml").write_text(json.dumps(asked))
    monkeypatch.setattr("understudy.population.train.train_population", lambda job, tell: job.settings)
    found = understudy.kickstart_population(None, always(RIGHT), run=tmp_path, resume=True, pbt__concurrent=2)
    assert (found.seed, found.pbt.population, found.pbt.concurrent, found.env.id) == (7, 6, 2, CONSTANT)


def test_runs_of_before_say_no_network_and_no_times(tmp_path):
    quick(tmp_path, "CartPole-v1", stop__env_steps=128)
    path = tmp_path / "state.safetensors"
    arrays, data = read_arrays(path)
    del data["spec"], data["progress"]["spent"]
    write_arrays(path, arrays, data)
    result, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=256, resume=True)
    assert result.env_steps == 256 and result.seconds["total"] > sum(data["progress"]["seconds"].values())


def test_a_replay_without_priorities_is_refused(tmp_path):
    train(**DQN, run=tmp_path, stop__env_steps=64)
    with pytest.raises(UserError, match="without changing replay.prioritised"):
        train(**DQN, run=tmp_path, stop__env_steps=128, resume=True, replay__prioritised=True)


@pytest.mark.parametrize(
    ("env", "name", "learnt", "harmless"),
    [
        ("CartPole-v1", "dqn", {"policy__dueling": True, "policy__noisy": 0.5}, {}),
        ("CartPole-v1", "rainbow", {"policy__dueling": False, "policy__noisy": 0.0}, {"policy__noisy": 0.1}),
        (
            "Pendulum-v1",
            "td3",
            {"objective__critics": 1, "policy__critic_hidden": [12, 12], "policy__hidden": [12, 12]},
            {"policy__critic_hidden": [16, 16]},
        ),
    ],
)
def test_networks_beside_the_policy_are_kept_by_the_name_of_their_setting(tmp_path, env, name, learnt, harmless):
    settings = DQN | {"env": env, "preset": name, "policy__hidden": [16, 16]}
    train(**settings, run=tmp_path, stop__env_steps=64)
    for key, value in learnt.items():
        kept = "policy\\.\\*" if key == "policy__hidden" else key.replace("__", r"\.")
        with pytest.raises(UserError, match=f"resume (it )?without changing {kept}$"):
            train(run=tmp_path, resume=True, stop__env_steps=128, **{key: value})
    assert train(run=tmp_path, resume=True, stop__env_steps=128, **harmless).env_steps == 128


def test_teachers_may_count_otherwise_from_now_on(tmp_path):
    """A controller that was none begins at its own number; a teacher may begin to act; their number stays."""
    small = {"stop__env_steps": 256, "evaluation__final": 2, "evaluation__every": 256, "evaluation__episodes": 2}
    taught(tmp_path, always(RIGHT), teaching__weight="gated(1)", **small)
    small["stop__env_steps"] = 512
    with pytest.raises(UserError, match="the run has 1 teachers, not 2"):
        taught(tmp_path, [always(RIGHT), always(WRONG)], teaching__weight="gated(1)", resume=True, **small)
    _, _, rows = taught(
        tmp_path, always(RIGHT), teaching__weight="target_kl(0.1, 0.7)", teaching__behaviour__beta="0.5", resume=True,
        **small,
    )  # fmt: skip
    assert rows[0]["teacher_weight"] == pytest.approx(0.7)


@pytest.mark.parametrize("damage", [None, "{", "{}", '{"teachers": ["a"], "random": null}'])
def test_scores_are_measured_again_where_they_are_not_those_of_the_teachers(tmp_path, damage):
    """Damaged, or of another teacher: scores lead the weight, so those of before would be wrong for good."""
    small = {"evaluation__final": 2, "evaluation__every": 512, "teaching__weight": "gated(1)"}
    taught(tmp_path, always(RIGHT, name="good"), stop__env_steps=128, **small)
    path = tmp_path / "scores.json"
    assert json.loads(path.read_text())["teachers"] == [10]
    if damage is not None:
        path.write_text(damage)
    name, expected = ("good", 10) if damage else ("bad", 0)
    teacher = always(RIGHT if damage else WRONG, name=name)
    taught(tmp_path, teacher, stop__env_steps=256, resume=True, **small)
    assert json.loads(path.read_text())["teachers"] == [expected]


def test_rows_of_evaluations_that_are_not_whole_are_left_out(tmp_path):
    rows = [{"env_steps": 5, "eval_return": 1.0}, {"env_steps": 6, "eval_return": 2.0, "eval_env_steps": 4}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert logged_curve(tmp_path / "log.jsonl", 10) == [(4, 2.0)]


def test_logs_of_killed_runs_go_on(tmp_path):
    """A line that was not written to its end spoils no other, and an evaluation that was made again counts once."""
    path, rows = (
        tmp_path / "log.jsonl",
        [{"env_steps": 640, "eval_return": r, "eval_env_steps": 640} for r in (1.0, 2.0)],
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"env_steps": 700, "eval_ret')
    log = RunLog(tmp_path)
    log.write(800, {"eval_return": 3.0, "eval_env_steps": 768})
    log.close()
    assert logged_curve(path, 1000) == [(640, 2.0), (768, 3.0)]


def test_the_best_policy_may_be_younger_than_the_last_checkpoint(tmp_path):
    best = tmp_path / "best.safetensors"
    quick(tmp_path, "CartPole-v1", stop__env_steps=256, evaluation__every=128, evaluation__wait=True)
    save_policy(load_policy(best), best, {"score": 501.0, "env_steps": 200})
    kept = best.read_bytes()
    result, _ = quick(
        tmp_path, "CartPole-v1", stop__env_steps=512, evaluation__every=128, evaluation__wait=True, resume=True
    )
    assert len(result.curve) > 2 and best.read_bytes() == kept


def test_a_finished_run_stays_finished_and_its_times_are_of_one_kind(tmp_path):
    first, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=512, evaluation__final=2)
    second, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=1024, resume=True, evaluation__final=2)
    again, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=1024, resume=True)
    assert second.stopped == again.stopped == "env_steps"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["stopped"] == "env_steps" and summary["score"] is None and summary["interval"] == [None, None]
    for result in (first, second, again):
        assert result.seconds["total"] > result.seconds["start"] + result.seconds["collect"] + result.seconds["learn"]
    assert again.seconds["learn"] == second.seconds["learn"] > first.seconds["learn"]


def test_an_interrupted_run_names_the_command_that_resumes_it(tmp_path):
    def stop(metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f"understudy kickstart --resume {tmp_path / 'taught'}"):
        understudy.kickstart(
            CONSTANT, always(RIGHT), run=tmp_path / "taught", report=stop, evaluation__every=0, evaluation__final=0
        )
    with pytest.raises(KeyboardInterrupt, match=f"understudy train --resume {tmp_path / 'alone'}"):
        train("CartPole-v1", run=tmp_path / "alone", report=stop, evaluation__every=0, evaluation__final=0)


@pytest.mark.parametrize(
    ("command", "config", "given"),
    [
        ("train", {"settings": {}}, ["--preset", "ppo"]),
        ("train", {"settings": {}}, ["--run", "other"]),
        ("kickstart", {"settings": {"teaching": {}}}, ["--preset", "kickstarting"]),
        ("kickstart", {"settings": {"teaching": {}}}, ["--run", "other"]),
        ("distill", {"settings": {}, "teachers": []}, ["--preset", "dagger"]),
        ("distill", {"settings": {}, "teachers": []}, ["--run", "other"]),
        ("distill", {"settings": {}, "teachers": []}, ["--env", "CartPole-v1"]),
    ],
)
def test_what_a_resumed_run_cannot_change_is_refused(tmp_path, capsys, command, config, given):
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main([command, "--resume", str(tmp_path), *given])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"leave {given[0]} out" in error


def test_a_run_has_at_least_one_step():
    with pytest.raises(UserError, match="stop.env_steps is 0; it must be at least 1"):
        resolve_training({"env": {"id": "CartPole-v1"}, "stop": {"env_steps": 0}}, "ppo")


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20261130-020000")
    made = [new_folder("CartPole-v1") for _ in range(3)]
    assert [folder.name for folder in made] == [f"CartPole-v1-20261130-020000{end}" for end in ("", "-2", "-3")]
    assert all(folder.is_dir() for folder in made)


def test_a_run_whose_folder_was_taken_away_can_be_resumed(tmp_path):
    run = tmp_path / "run"

    def away(metrics):
        if metrics["round"] == 2:
            run.rename(tmp_path / "elsewhere")
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="saved in .*go on with: understudy train --resume"):
        quick(run, report=away, stop__env_steps=512)
    assert (run / "config.yaml").read_bytes() == (tmp_path / "elsewhere" / "config.yaml").read_bytes()
    assert train(run=run, resume=True).env_steps == 512


@pytest.mark.parametrize("wait", [False, True])
def test_an_evaluation_that_a_kill_ended_is_made_up(tmp_path, monkeypatch, wait):
    def killed(self, wait=False):
        if wait:
            raise KeyboardInterrupt

    def kill(metrics):
        if metrics["env_steps"] == 384:
            raise KeyboardInterrupt

    options = {"stop__env_steps": 640, "evaluation__every": 256, "evaluation__episodes": 2, "evaluation__wait": wait}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Evaluator, "result", killed)
        quick(tmp_path, "CartPole-v1", report=kill, **options)
    result, _ = quick(tmp_path, "CartPole-v1", resume=True, **options)
    assert result.curve[0][0] == (256 if wait else 384)
    again, _ = quick(tmp_path, "CartPole-v1", resume=True, **{**options, "stop__env_steps": 768})
    assert again.curve[: len(result.curve)] == result.curve and len(dict(again.curve)) == len(again.curve)


def test_a_resumed_run_goes_on_counting_faults(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SingleExecution, "faults", Faults(2, 3))
        quick(tmp_path, "CartPole-v1", stop__env_steps=128)
    result, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=256, resume=True)
    assert (result.restarts, result.lost_episodes) == (2, 3)
    result, _ = quick(tmp_path, "CartPole-v1", stop__env_steps=384, resume=True)
    assert (result.restarts, result.lost_episodes) == (2, 3)


def test_results_of_before_go_once_more_is_learnt_and_are_in_the_way_of_another_run(tmp_path):
    film = tmp_path / "side-by-side.mp4"
    film.touch()
    with pytest.raises(UserError, match="holds side-by-side.mp4 of an earlier run"):
        quick(tmp_path, "CartPole-v1", stop__env_steps=128)
    film.unlink()
    quick(tmp_path, "CartPole-v1", stop__env_steps=128)
    film.touch()
    quick(tmp_path, "CartPole-v1", stop__env_steps=256, resume=True)
    assert not film.exists() and (tmp_path / "summary.json").exists()
