"""Environments of users: modules that register them, classes, functions, what ``gym.make`` made, and their programs."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import understudy
from understudy.data import EnvSpec
from understudy.env_names import all_named, is_known, named
from understudy.envs.make import make
from understudy.errors import UserError
from understudy.imports import program
from understudy.policies.files import save_policy
from understudy.settings import EnvSettings
from understudy.training import resolve_training

MODULE = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

gym.register("OwnPole-v0", CartPoleEnv, max_episode_steps=7)
seven = 7


class Plain(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)


def short(steps=9):
    return gym.wrappers.TimeLimit(CartPoleEnv(), steps)
"""
PROGRAM = """
import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

import understudy


class Pole(CartPoleEnv):
    pass


def short():
    return gym.wrappers.TimeLimit(Pole(), 30)


def lean(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(np.int64)


gym.register("Pole-v0", Pole, max_episode_steps=40)
"""
RUNS = """
small = {"rollout": {"num_envs": 4, "steps": 32}, "stop": {"env_steps": 128}, "evaluation": {"final": 2},
         "execution": {"type": "sync", "num_workers": 2}}
print(understudy.train("Pole-v0", "ppo", small, run="run").policy.about.env.id)
"""
MORE = """
result = understudy.distill(lean, short, student__hidden=[8], stop__env_steps=2000, data__num_envs=4,
                            data__steps=50, execution__num_workers=2, run="distilled")
print(result.student.about.env.id, understudy.evaluate("run", episodes=2).mean_length <= 40)
"""


@pytest.fixture
def own_pole(tmp_path, monkeypatch):
    """A module in the current directory, which Python's path does not hold, as the console script has it."""
    (tmp_path / "own_pole.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p and Path(p) != tmp_path])
    yield
    gym.registry.pop("OwnPole-v0", None)
    sys.modules.pop("own_pole", None)


@pytest.mark.parametrize(
    ("spec", "steps"),
    [(EnvSpec("own_pole:OwnPole-v0"), 7), (EnvSpec("own_pole:short"), 9), (EnvSpec("own_pole:short", {"steps": 5}), 5)],
)
def test_a_module_in_the_current_directory_is_imported(own_pole, spec, steps):
    before = list(sys.path)
    env = make(spec, 2)
    assert env.reset([0, 1]).shape == (2, 4) and sys.path == before
    ends = [bool(env.step(np.full(2, t % 2)).truncated.all()) for t in range(steps)]
    assert ends == [False] * (steps - 1) + [True]
    env.close()


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ("own_pole:OwnPole-v1", "'own_pole' has no 'OwnPole-v1', and it registers no such id; did you mean OwnPole-v0"),
        ("own_pole:seven", "own_pole:seven is not a class or function that makes one"),
        ("own_pole.py:short", "name the module without its ending: own_pole"),
        ("no_such_module:short", "the module 'no_such_module' cannot be imported"),
        (CartPoleEnv(), r"\(CartPoleEnv\) that was not made by gym.make .*: give the class CartPoleEnv"),
        (gym.wrappers.ClipReward(gym.make("CartPole-v1"), -1, 1), "that is wrapped cannot be built again"),
        (partial(CartPoleEnv, True), "cannot be found again by its name"),
        (lambda: CartPoleEnv(), "lambda> cannot be found again by its name"),
        (3, "cannot be of the type int"),
    ],
)
def test_what_cannot_be_built_again_is_refused(own_pole, env, told):
    with pytest.raises(UserError, match=told):
        understudy.evaluate("random", env, episodes=1)


def test_a_module_may_load_a_policy(own_pole):
    Path("own_pole.py").write_text(f"{MODULE}\nimport understudy\nacts = understudy.load(short, env='CartPole-v1')")
    assert understudy.evaluate("random", "own_pole:short", episodes=2).mean_length <= 9


@pytest.mark.parametrize("env", ["own_pole:Plain", "own_pole:short"])
def test_what_takes_no_render_mode_cannot_be_drawn(own_pole, env, tmp_path):
    with pytest.raises(UserError, match="cannot be drawn: what makes it takes no render_mode"):
        understudy.play("random", env, video=tmp_path / "film.gif")


@pytest.mark.parametrize(
    ("code", "told"), [("1 / 0", "ZeroDivisionError: division by zero"), ("exit('usage')", "SystemExit: usage")]
)
def test_a_module_that_raises_is_named(own_pole, code, told):
    Path("own_pole.py").write_text(code)
    with pytest.raises(UserError, match=f"importing 'own_pole' raised {told}"):
        understudy.evaluate("random", "own_pole:short", episodes=1)


@pytest.mark.parametrize(
    ("file", "name"),
    [("own_pole.py", "own_pole"), ("a.b.py", "__main__"), ("bin/own_pole.py", "__main__"), ("tool", "__main__")],
)
def test_the_program_is_called_by_its_file(own_pole, monkeypatch, file, name):
    main = ModuleType("__main__")
    main.__file__ = str(Path(file).absolute())
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert program() == name


class Pole(CartPoleEnv):
    """An environment of this module."""


def test_names_are_those_that_other_processes_know():
    here = Pole.__module__
    assert named(Pole) == f"{here}:Pole" and named(EnvSpec(f"{here}:Pole")) == EnvSpec(f"{here}:Pole")
    assert named(None) is None and named("CartPole-v1") == "CartPole-v1" and all_named(None) == []
    assert named(gym.make("CartPole-v1")) == EnvSpec("CartPole-v1")
    short = gym.make("Pendulum-v1", g=9.0, max_episode_steps=30, render_mode="rgb_array")
    assert all_named(short) == [EnvSpec("Pendulum-v1", {"g": 9.0, "max_episode_steps": 30})]
    assert named(partial(Pole, sutton_barto_reward=True)) == EnvSpec(f"{here}:Pole", {"sutton_barto_reward": True})
    assert all_named(["CartPole-v1", Pole]) == ["CartPole-v1", f"{here}:Pole"]
    gym.register("PoleOfTests-v0", Pole)
    gym.register("PoleOfTests-v1", f"{here}:Pole")
    try:
        for env_id in ("PoleOfTests-v0", "PoleOfTests-v1"):
            assert named(env_id) == EnvSettings(env_id).spec().id == f"{here}:{env_id}"
            assert is_known(f"{here}:{env_id}") and not is_known(f"os:{env_id}x")
            assert make(f"{here}:{env_id}", 1).observation_space.shape == (4,)
    finally:
        gym.registry.pop("PoleOfTests-v0")
        gym.registry.pop("PoleOfTests-v1")


def test_an_environment_goes_over_the_one_of_a_settings_object(tmp_path):
    small = {"rollout": {"num_envs": 2, "steps": 32}, "update": {"minibatch": 32}, "stop": {"env_steps": 64},
             "evaluation": {"final": 0}, "env": {"id": "Pendulum-v1", "kwargs": {"max_episode_steps": 9}}}  # fmt: skip
    result = understudy.train(Pole, settings=resolve_training(small, "ppo"), run=tmp_path / "run")
    assert result.policy.about.env == EnvSpec(f"{Pole.__module__}:Pole", {"max_episode_steps": 9})


def test_a_file_cannot_name_what_is_not_registered(tmp_path):
    """``os:system`` could be imported without importing anything new."""
    result = understudy.train("CartPole-v1", "ppo", stop__env_steps=64, rollout__num_envs=2, rollout__steps=32,
                              update__minibatch=32, evaluation__final=0, run=tmp_path / "run")  # fmt: skip
    result.policy.about.env = EnvSpec("os:system", {"command": "touch hacked"})
    save_policy(result.policy, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="names the environment 'os:system', which imports a module"):
        understudy.load(tmp_path / "bad.safetensors")


def outcome(words, typed, folder):
    """Run Python; returns the words that it printed."""
    done = subprocess.run(
        [sys.executable, *words], input=typed, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_a_script_defines_travels_to_workers(tmp_path):
    """Though the script does not ask whether it is the program: workers do not import it."""
    (tmp_path / "mine.py").write_text(PROGRAM + RUNS)
    assert outcome(["mine.py"], "", tmp_path) == ["mine:Pole-v0"]


def test_what_is_typed_travels_to_workers(tmp_path):
    """Into a notebook, or at a prompt."""
    found = outcome(["-"], PROGRAM + RUNS + MORE, tmp_path)
    assert found == ["__main__:Pole-v0", "__main__:short", "True"]
    assert "teachers:\n- __main__:lean\n" in (tmp_path / "distilled" / "config.yaml").read_text()


def test_a_module_that_begins_a_run_is_told_so(own_pole):
    Path("own_pole.py").write_text(f"{MODULE}\nimport understudy\nunderstudy.train(short, 'ppo')")
    with pytest.raises(UserError, match="own_pole begins a run when it is imported: put that under if __name__"):
        understudy.evaluate("random", "own_pole:short", episodes=1)
