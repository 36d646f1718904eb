"""Settings given as an object: keywords lie over them, no preset lies under them, and none is ignored."""

import json

import pytest
import yaml
from tests.teachers_for_tests import swing_up
from tests.test_kickstart import CONSTANT, RIGHT, always

import understudy
from understudy.config import build, merge
from understudy.distill_job import prepare
from understudy.errors import UserError
from understudy.settings import TAUGHT, DistillSettings, KickstartSettings, TrainSettings

ONE = {"execution": {"type": "single"}, "stop": {"env_steps": 4000}, "evaluation": {"final": 0}}
LEARN = {"env": {"id": CONSTANT}, "rollout": {"num_envs": 2, "steps": 16}, "evaluation": {"final": 0, "every": 0}}
OBJECTS = {
    "distill": build(DistillSettings, {**ONE, "data": {"num_envs": 2, "steps": 100}}),
    "train": build(TrainSettings, merge(ONE, LEARN)),
    "kickstart": build(KickstartSettings, merge(ONE, LEARN)),
}


def start(name, settings, **more):
    """Call a function with settings."""
    if name == "distill":
        return understudy.distill(swing_up, "Pendulum-v1", settings, **more)
    if name == "train":
        return understudy.train(settings=settings, **more)
    return understudy.kickstart(teacher=always(RIGHT), settings=settings, **more)


@pytest.mark.parametrize("name", OBJECTS)
def test_keywords_lie_over_an_object(tmp_path, name):
    more = {"evaluation__after": 4000} if name == "distill" else {}
    result = start(name, OBJECTS[name], run=tmp_path / "run", stop__env_steps=64, seed=7, **more)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]
    assert result.env_steps < 1000 and saved["stop"]["env_steps"] == 64 and saved["seed"] == 7
    assert saved["execution"]["type"] == "single", "of the object"


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_beside_a_preset_or_of_another_function_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="leave preset out"):
        start(name, OBJECTS[name], preset="dagger", run=tmp_path / "run")
    other = OBJECTS["train" if name == "distill" else "distill"]
    with pytest.raises(UserError, match="settings is an object of .*; it must be "):
        start(name, other, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_neither_object_nor_mapping_is_refused(tmp_path, name):
    for settings in ("x.yaml", [1, 2]):
        with pytest.raises(UserError, match="settings is .*; it must be nested mappings"):
            start(name, settings, run=tmp_path / "run")
    (tmp_path / "bad.yaml").write_text("stop: {env_steps: none}")
    for preset in (tmp_path / "bad.yaml", [tmp_path / "bad.yaml"]):
        with pytest.raises(UserError, match="stop.env_steps is 'none'; it must be a whole number"):
            start(name, LEARN if name != "distill" else {}, preset=preset, run=tmp_path / "run")


def test_settings_with_teachers_are_kickstarts(tmp_path):
    for settings in (OBJECTS["kickstart"], TAUGHT["q_learning"]()):
        with pytest.raises(UserError, match="settings is .*, with teachers: give it to understudy.kickstart"):
            understudy.train(settings=settings, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_job_takes_no_other_settings(tmp_path):
    job = prepare([swing_up], "Pendulum-v1", OBJECTS["distill"], run=tmp_path / "run")
    with pytest.raises(UserError, match="give env, run, stop__env_steps, resume to prepare, not beside the job"):
        understudy.distill(job, "Pendulum-v1", run=tmp_path, resume=True, stop__env_steps=10)


def test_the_environment_of_a_kickstarted_object_can_be_named(tmp_path):
    settings = build(KickstartSettings, merge(merge(ONE, LEARN), {"env": {"id": "CartPole-v1"}}))
    understudy.kickstart(CONSTANT, always(RIGHT), settings=settings, run=tmp_path / "run", stop__env_steps=32)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]["env"]["id"] == CONSTANT


def test_a_sweep_takes_an_object(tmp_path):
    settings = build(DistillSettings, {**ONE, "data": {"num_envs": 2, "steps": 50}, "evaluation": {"episodes": 2}})
    more = {"stop__env_steps": 100, "evaluation__after": 4000, "evaluation__final": 2, "stop__seconds": 60}
    understudy.sweep(swing_up, "Pendulum-v1", ["2"], settings, run=tmp_path / "ladder", **more)
    saved = yaml.safe_load((tmp_path / "ladder" / "2" / "config.yaml").read_text())["settings"]
    assert saved["data"]["steps"] == 50 and saved["stop"]["env_steps"] == 100 and saved["student"]["hidden"] == [2]
    assert saved["learning"]["average"] == DistillSettings().learning.average, "no preset lies under an object"
    assert json.loads((tmp_path / "ladder" / "sweep.json").read_text())["students"][0]["name"] == "2"
