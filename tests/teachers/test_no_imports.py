"""A file that names an environment with a module does not make us import that module."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.io.export.export import export
from understudy.policies.files import save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.policies.stored import behaviours_of
from understudy.teachers.load import load

MULTITASK = {"id": "multitask", "kwargs": {"tasks": ["this:Foo-v0"]}, "wrappers": [], "backend": "auto"}
HIDDEN = {
    "id": {"id": "this:Foo-v0"},
    "task": {"id": "multitask", "kwargs": {"tasks": [{"id": "this:Foo-v0"}]}},
    "text": MULTITASK,
    "odd module": {"id": "multitask", "kwargs": {"tasks": ["this :Foo-v0"]}},
    "nested": {"id": "multitask", "kwargs": {"tasks": [MULTITASK]}},
    "argument": {"id": "CartPole-v1", "kwargs": {"inner": {"env_id": ["this:Foo-v0"]}}},
    "program": {"id": "unity:/bin/sh"},
    "companion": {"id": "CartPole-v1", "kwargs": {"companions": {"Other": "runs/this.c"}}},
}


def policy_with(folder, env):
    """Write a policy whose environment is anything."""
    spaces = [space_to_json(s) for s in (gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2))]
    path = save_policy(Policy(PolicySpec(*spaces, "categorical"), About()), folder / "p.safetensors")
    with safe_open(path, "numpy") as file:
        meta, arrays = json.loads(file.metadata()["understudy"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    path.write_bytes(save(arrays, {"understudy": json.dumps({**meta, "env": env})}))
    return path


@pytest.mark.parametrize("env", HIDDEN.values(), ids=HIDDEN)
def test_an_environment_from_a_file_imports_nothing(tmp_path, env):
    sys.modules.pop("this", None)
    path = policy_with(tmp_path, {"kwargs": {}, "wrappers": [], "backend": "auto", **env})
    with pytest.raises(UserError, match=r"imports a module|starts a program|is compiled and run") as caught:
        load(path)
    if env["id"] not in ("CartPole-v1", "multitask"):
        assert f"--env {env['id']} allows it" in str(caught.value)
    if env["id"] == "CartPole-v1":  # its arguments would stay
        with pytest.raises(UserError, match="the argument"):
            load(path, env="CartPole-v1")
    assert "this" not in sys.modules
    assert load(path, env=EnvSpec("CartPole-v1")).about.env == EnvSpec("CartPole-v1")
    assert load(path, env="Acrobot-v1").about.env.id == "Acrobot-v1"


def test_the_tasks_of_a_file_are_allowed_by_name(tmp_path):
    path = policy_with(tmp_path, MULTITASK)
    with pytest.raises(UserError, match="--env multitask allows it"):
        load(path)
    assert load(path, env="multitask").about.env.kwargs == MULTITASK["kwargs"]


def test_ordinary_arguments_are_no_code(tmp_path):
    kwargs = {"start": "08:00", "host": "localhost:5555", "tasks": 3, "xml": "C:\\ant.xml", "page": "http://a.b"}
    path = policy_with(tmp_path, {"id": "CartPole-v1", "kwargs": kwargs, "wrappers": [], "backend": "auto"})
    assert load(path).about.env.kwargs == kwargs


@pytest.mark.parametrize("part", ["this:main", "x.c", "../run", "nowhere", 3])
def test_behaviours_are_folders_beside_their_list(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "behaviours.json").write_text(json.dumps({"Walker": part}))
    (tmp_path / "x.c").write_text("")
    for folder in (".", tmp_path):
        with pytest.raises(UserError, match="the run of Walker must be a folder beside it"):
            behaviours_of(folder)


def test_exported_files_import_nothing(tmp_path):
    policy = load(policy_with(tmp_path, MULTITASK), env="multitask")
    np.savez(tmp_path / "states.npz", obs=np.zeros((4, 2)))
    found = export(policy, "torchscript", tmp_path / "p.pt", data=tmp_path / "states.npz")
    with pytest.raises(UserError, match="'this:Foo-v0', which imports a module"):
        load(found.path)


@pytest.mark.parametrize("args", ["env: 'this:Foo-v0'", "env: multitask\nenv_kwargs: {tasks: ['this:Foo-v0']}"])
def test_nor_does_the_args_file_of_a_zoo_folder(tmp_path, args):
    from stable_baselines3 import PPO

    (tmp_path / "Foo-v0").mkdir()
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}).save(tmp_path / "Foo-v0.zip")
    (tmp_path / "Foo-v0" / "args.yml").write_text(f"{args}\nalgo: ppo\n")
    (tmp_path / "Foo-v0" / "config.yml").write_text("policy: MlpPolicy\n")
    sys.modules.pop("this", None)
    with pytest.raises(UserError, match="imports a module"):
        load(tmp_path)
    assert "this" not in sys.modules
