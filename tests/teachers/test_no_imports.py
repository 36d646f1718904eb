"""A file that names an environment with a module does not make us import that module."""

import sys

import gymnasium as gym
import pytest

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.files import save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.teachers.load import load


@pytest.mark.parametrize("spec", [EnvSpec("this:Foo-v0"), EnvSpec("multitask", {"tasks": [{"id": "this:Foo-v0"}]})])
def test_an_environment_id_from_a_file_imports_nothing(tmp_path, spec):
    sys.modules.pop("this", None)
    spaces = [space_to_json(s) for s in (gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2))]
    path = save_policy(Policy(PolicySpec(*spaces, "categorical"), About(env=spec)), tmp_path / "p.safetensors")
    with pytest.raises(UserError, match="'this:Foo-v0', which imports a module: --env this:Foo-v0 allows it"):
        load(path)
    assert "this" not in sys.modules
    assert load(path, env=EnvSpec("CartPole-v1")).about.env.id == "CartPole-v1"


def test_nor_does_the_args_file_of_a_zoo_folder(tmp_path):
    from stable_baselines3 import PPO

    (tmp_path / "Foo-v0").mkdir()
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}).save(tmp_path / "Foo-v0.zip")
    (tmp_path / "Foo-v0" / "args.yml").write_text("env: 'this:Foo-v0'\nalgo: ppo\n")
    (tmp_path / "Foo-v0" / "config.yml").write_text("policy: MlpPolicy\n")
    sys.modules.pop("this", None)
    with pytest.raises(UserError, match="imports a module"):
        load(tmp_path)
    assert "this" not in sys.modules
