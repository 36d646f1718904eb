"""What a resumed distillation takes over, what may change, and what is refused in one line."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tests.teachers_for_tests import swing_up

import understudy
from understudy.cli import main
from understudy.data import EnvSpec
from understudy.errors import Interrupted, UserError
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.preset_files import read_yaml
from understudy.terminal import _verdict

QUICK = {
    "execution__type": "single", "data__num_envs": 2, "data__steps": 60, "data__first_steps": 0,
    "learning__update_to_data": 0.5, "learning__batch_size": 60, "evaluation__after": 10_000, "student__hidden": [8],
}  # fmt: skip
MEMORY = {"student__lstm": 4, "learning__sequence": 20, "learning__burn_in": 4}


def quick(run, env_steps, resume=False, env="Pendulum-v1", **more):
    """Distil for a few rounds that are never judged."""
    options = {**QUICK, **more, "stop__env_steps": env_steps}
    return understudy.distill(swing_up, env, run=run, resume=resume, **options)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"student__activation": "elu"}, "has another student .*activation"),
        ({}, {"student__normalize": "none"}, "has another student .*normalized"),
        (MEMORY, {"learning__sequence": 30}, "kept sequences of 20 steps, which do not divide into 30"),
    ],
)
def test_what_does_not_fit_what_was_learnt_is_refused(tmp_path, before, after, message):
    quick(tmp_path, 120, **before)
    with pytest.raises(UserError, match=message):
        quick(tmp_path, 240, resume=True, **{**before, **after})


def test_a_run_keeps_what_is_not_named_again(tmp_path):
    quick(tmp_path, 120, seed=7, distance__name="huber", distance__delta=0.3, student__activation="elu")
    before = read_yaml(tmp_path / "config.yaml")
    assert understudy.distill(run=tmp_path, resume=True, stop__env_steps=240).env_steps == 240
    assert understudy.distill(swing_up, run=tmp_path, resume=True).env_steps == 240
    before["settings"]["stop"]["env_steps"] = 240
    assert read_yaml(tmp_path / "config.yaml") == before
    other = EnvSpec("Pendulum-v1", {"g": 1.0})
    with pytest.raises(UserError, match=r"kwargs {}, not {'g': 1.0}"):
        understudy.distill(env=other, run=tmp_path, resume=True, stop__env_steps=360)
    with pytest.raises(UserError, match="needs a teacher"):
        understudy.distill(run=tmp_path / "other")


def test_sequences_may_become_parts_of_those_of_before(tmp_path):
    quick(tmp_path, 120, **MEMORY)
    assert quick(tmp_path, 240, resume=True, **{**MEMORY, "learning__sequence": 10}).env_steps == 240


def test_a_run_that_was_never_judged_names_the_student_that_it_kept(tmp_path, capsys):
    flags = [f"--{name.replace('__', '.')}={value}" for name, value in QUICK.items() if name != "student__hidden"]
    main([
        "distill", "tests.teachers_for_tests:swing_up", "--env", "Pendulum-v1", "--run", str(tmp_path / "run"), *flags,
        "--stop.env_steps", "120", "--evaluation.final", "0",
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert "before the student was judged" in out and "nan" not in out and "best" not in out
    assert f"student: {tmp_path / 'run' / 'last.safetensors'}" in out


def test_a_finished_run_stays_finished(tmp_path):
    """Another round would go beyond its budget, and another one with every resume."""
    first = quick(tmp_path, 120)
    log = (tmp_path / "log.jsonl").read_text()
    for _ in range(2):
        again = quick(tmp_path, 120, resume=True)
        assert (again.env_steps, again.updates, again.stopped) == (first.env_steps, first.updates, "env_steps")
    assert (tmp_path / "log.jsonl").read_text() == log and quick(tmp_path, 240, resume=True).env_steps == 240


@pytest.mark.parametrize(("ratio", "stopped"), [(0.5, "parity"), (0.9, "env_steps")])
def test_a_run_that_ended_on_par_stays_so_unless_more_is_asked_for(tmp_path, ratio, stopped):
    quick(tmp_path, 120, stop__ratio=0.5)
    path = tmp_path / "state.safetensors"
    arrays, data = read_arrays(path)
    data["progress"]["stopped"] = "parity"
    write_arrays(path, arrays, data)
    assert quick(tmp_path, 120, resume=True, stop__ratio=ratio).stopped == stopped


@pytest.mark.parametrize(
    ("more", "env_steps"),
    [
        ({}, 120),
        ({"stop__env_steps": 360}, 120),
        ({"stop__ratio": 0.9}, 240),
        ({"stop__alpha": 0.01}, 240),
        ({"evaluation__confirm": 100}, 240),
    ],
)
def test_a_run_that_ended_on_par_learns_no_more_unless_more_is_asked_for(tmp_path, more, env_steps):
    """It may have been killed, or interrupted, before all was written that is written at the end."""
    quick(tmp_path, 120)
    path = tmp_path / "state.safetensors"
    arrays, data = read_arrays(path)
    data["progress"]["stopped"] = "parity"
    write_arrays(path, arrays, data)
    (tmp_path / "summary.json").unlink()
    result = understudy.distill(swing_up, run=tmp_path, resume=True, **{"stop__env_steps": 240, **more})
    assert (result.env_steps, result.stopped) == (env_steps, "parity" if env_steps == 120 else "env_steps")
    assert (tmp_path / "summary.json").exists()


def test_the_verdict_says_what_was_asked_for():
    found = SimpleNamespace(stopped="parity", ratio=1.0)
    assert _verdict(found, 0.95, 0.05).startswith("on par: at 95 % confidence the student reaches at least 95% of")
    assert _verdict(found, 0.875, 0.2).startswith("on par: at 80 % confidence the student reaches at least 87.5% of")


@pytest.mark.parametrize(
    ("asked", "stopped"), [({"asked": 0.95}, "parity"), ({"asked": 0.9}, "env_steps"), ({}, "parity")]
)
def test_the_goal_of_runs_of_earlier_versions(tmp_path, asked, stopped):
    quick(tmp_path, 120)
    path = tmp_path / "state.safetensors"
    arrays, data = read_arrays(path)
    data["progress"]["stopped"] = "parity"
    del data["goal"]
    write_arrays(path, arrays, data | asked)
    assert quick(tmp_path, 240, resume=True).stopped == stopped


def test_a_table_that_cannot_be_written_is_one_line(tmp_path, capsys):
    quick(tmp_path, 120)
    (tmp_path / "result.json").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["distill", "--resume", str(tmp_path), "--evaluation.final", "2"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "cannot write" in error and error.count("\n") == 1


@pytest.mark.parametrize("aided", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_a_teacher_that_was_judged_by_single_lives_is_judged_again(tmp_path, monkeypatch, aided, whole):
    env = EnvSpec("Pendulum-v1", wrappers=({"type": "time_limit", "max_steps": 200},))
    quick(tmp_path, 120, env=env)
    path = tmp_path / "state.safetensors"
    arrays, data = read_arrays(path)
    assert data.pop("whole_games")
    data["judge"] |= {"teacher": [[5.0, 6.0]], "random": [[1.0, 2.0]]}
    write_arrays(path, arrays, data | ({"whole_games": True} if whole else {}))
    if aided:
        monkeypatch.setattr("understudy.distill_session.judged", lambda spec: replace(spec, wrappers=()))
    quick(tmp_path, 240, resume=True, env=env)
    kept = read_arrays(path)[1]["judge"]["teacher"]
    assert kept == ([[]] if aided and not whole else [[5.0, 6.0]])


def test_another_teacher_is_judged_itself(tmp_path):
    def still(obs):
        return np.zeros((len(obs), 1), np.float32)

    quick(tmp_path, 120)
    path = tmp_path / "state.safetensors"
    arrays, data = read_arrays(path)
    data["judge"] |= {"teacher": [[5.0, 6.0]], "random": [[1.0, 2.0]]}
    data["progress"] |= {"stopped": "parity", "best": 0.97}
    write_arrays(path, arrays, data)
    quick(tmp_path, 120, resume=True)
    assert read_arrays(path)[1]["judge"]["teacher"] == [[5.0, 6.0]]
    understudy.distill(still, run=tmp_path, resume=True, stop__env_steps=240)
    data = read_arrays(path)[1]
    assert data["progress"]["env_steps"] == 240, "it is not on par with this one"
    assert data["judge"]["teacher"] == [[]] and data["progress"]["best"] == -np.inf


@pytest.mark.parametrize("capacity", [600_000, 300])
def test_a_run_whose_folder_was_taken_away_can_be_resumed(tmp_path, capacity):
    run, whole = tmp_path / "run", tmp_path / "whole"
    more, saved = {"data__capacity": capacity, "data__first_steps": 30}, [0]

    def away(metrics):
        if metrics["round"] == 2:
            run.rename(tmp_path / "elsewhere")
        if metrics["round"] == 4:
            raise KeyboardInterrupt
        saved[0] = metrics["env_steps"]

    with pytest.raises(Interrupted, match="go on with: understudy distill --resume"):
        quick(run, 600, report=away, **more)
    assert (run / "config.yaml").read_bytes() == (tmp_path / "elsewhere" / "config.yaml").read_bytes()
    quick(whole, saved[0], **more)
    quick(whole, 600, resume=True, **more)
    understudy.distill(swing_up, run=run, resume=True)
    ours, theirs = (read_arrays(path / "state.safetensors")[0] for path in (run, whole))
    assert all((ours[name] == array).all() for name, array in theirs.items())


def test_a_run_whose_folder_was_taken_away_at_the_end_does_not_say_that_it_can_go_on(tmp_path):
    def away(metrics):
        if metrics["round"] == 2:
            (tmp_path / "run").rename(tmp_path / "elsewhere")
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted; nothing that was learnt is in .*run$"):
        quick(tmp_path / "run", 300, report=away)


def test_what_was_made_of_an_earlier_student_goes_once_more_is_learnt(tmp_path):
    def stop(metrics):
        if metrics["round"] == 3:
            raise KeyboardInterrupt

    made = [tmp_path / name for name in ("result.json", "result.png", "side-by-side.mp4")]
    quick(tmp_path, 120)
    for path in made:
        path.write_text("{}")
    quick(tmp_path, 120, resume=True)
    assert all(path.exists() for path in made), "nothing was learnt"
    with pytest.raises(Interrupted):
        quick(tmp_path, 600, resume=True, report=stop)
    assert not any(path.exists() for path in [*made, tmp_path / "summary.json"])
