"""Several behaviours in one scene: companions that act for the others, and a hub that shares players among runs."""

import os
import threading
from multiprocessing.process import current_process

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.envs.unity_helpers import order_fault, received, scene, still

from understudy.envs.make import make, spaces_of
from understudy.envs.unity import hub as hub_module
from understudy.envs.unity import vector as vector_module
from understudy.envs.unity.companions import load_companion
from understudy.envs.unity.hub import ADDRESS, Hub
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.probe import look_around, remember
from understudy.errors import UserError
from understudy.policies.files import save_policy
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec

ONE = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)


def linear(path, weight, **spec):
    """A linear policy that is certain of itself."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    observations = gym.spaces.Box(-np.inf, np.inf, (weight.shape[1],), np.float32)
    actions = gym.spaces.Box(-1, 1, (weight.shape[0],), np.float32)
    spaces = space_to_json(observations), space_to_json(actions)
    policy = Policy(PolicySpec(*spaces, "deterministic", hidden=(), std="none", **spec), About("linear"))
    with torch.no_grad():
        policy.head.weight.copy_(weight)
        policy.head.bias.zero_()
    return save_policy(policy, path)


def echo(path, size=1):
    """A policy of the goalies that does what it should: it repeats the number that it sees."""
    return linear(path, np.ones((size, 1)))


def balance(path):
    """A policy of the balls: tilt each plate against its ball's place and speed."""
    weight = np.zeros((2, 8))
    weight[[0, 1], [0, 1]], weight[[0, 1], [2, 4]], weight[[0, 1], [5, 7]] = -28.6, -4.3, -5.7
    return linear(path, weight)


def two(*arguments, **kwargs):
    return scene("--scene", "two", "--agents", 4, *arguments, **kwargs)


def earned(path, behavior):
    return np.array(received(path)["earned"][behavior])


def test_a_companion_acts_for_the_agents_of_another_behaviour(tmp_path):
    found = {}
    for name, companions in (("rest", {}), ("echo", {"Goalie": str(echo(tmp_path / "echo.safetensors"))})):
        told = tmp_path / name
        env = make(two("--report", told, "--limit", 20, behavior="3DBall", companions=companions), 2)
        env.reset([3, 4])
        for _ in range(45):
            step = env.step(still(env))
            assert env.stepped.all() and step.obs.shape == (2, 8)
        env.close()
        found[name] = earned(told, "Goalie?team=1")
    assert len(found["echo"]) >= 80 and np.abs(found["echo"]).max() < 1e-6
    assert found["rest"].mean() < -0.1


def test_companions_choose_the_behaviour_that_is_left(tmp_path):
    companions = {"Goalie": str(echo(tmp_path / "echo.safetensors"))}
    assert spaces_of(two(companions=companions))[0].shape == (8,)


def test_companions_that_remember_keep_a_memory_for_each_agent(tmp_path):
    """What a recurrent companion of agents that begin and end at different times does is what it does alone."""
    actions = gym.spaces.Box(-1, 1, (1,), np.float32)
    torch.manual_seed(1)
    spec = PolicySpec(space_to_json(ONE), space_to_json(actions), "deterministic", hidden=(), std="none", lstm=4)
    path = save_policy(Policy(spec, About("memory")), tmp_path / "memory.safetensors")
    told = tmp_path / "told"
    arguments = ("--report", told, "--limit", 6, "--ragged", 3, "--seen")
    env = make(two(*arguments, behavior="3DBall", companions={"Goalie": str(path)}), 2)
    env.reset([0, 1])
    for _ in range(30):
        env.step(still(env))
    env.close()
    alone, episodes = load_companion(str(path)), 0
    for history in received(told)["seen"].values():
        state, start = None, True
        for wanted, action, end in history:
            (expected,), state = alone.predict(np.array([[wanted]], np.float32), state, np.array([start]), True)
            assert action == pytest.approx(float(expected[0]), abs=1e-6)
            start, episodes = bool(end), episodes + bool(end)
    assert episodes >= 4


@pytest.mark.parametrize(
    ("companions", "text"),
    [
        ({"Gaolie": "echo"}, r"no behaviour 'Gaolie'; did you mean Goalie\?"),
        ({"3DBall": "echo"}, "needs no companion"),
        ({"Goalie": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_mistakes_about_companions(companions, text, tmp_path):
    path = str(echo(tmp_path / "echo.safetensors"))
    named = {name: path if which == "echo" else which for name, which in companions.items()}
    with pytest.raises(UserError, match=text):
        spaces_of(two(behavior="3DBall", companions=named))


def test_a_companion_of_another_size_is_refused(tmp_path):
    wide = echo(tmp_path / "wide.safetensors", 3)
    env = make(two(behavior="3DBall", companions={"Goalie": str(wide)}), 2)
    env.reset([0, 1])
    with pytest.raises(UserError, match="companion of Goalie.*acts in Box.*but its agents take"):
        env.step(still(env))
    env.close()


def test_all_behaviours_are_seen_at_once():
    seen = look_around(two("--late", 5))
    assert {name: look.agents for name, look in seen.items()} == {"3DBall": 2, "Goalie": 2}
    assert seen["Goalie"].spaces[0].shape == (1,)
    assert list(look_around(two("--late", 60), ["Goalie"])) == ["Goalie"]


class Rests:
    """Acts for agents whose run is over: not at all."""

    def __init__(self, spaces):
        self.observation_space, self.action_space = spaces

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation), *self.action_space.shape), np.float32), None


class Run(threading.Thread):
    """Steps one behaviour's agents in shared players, as its run would, and leaves a policy behind."""

    def __init__(self, hub, name, look, spec, steps, players, policy, heir=None):
        super().__init__(daemon=True)
        self.hub, self.heir = hub, heir or Rests(look.spaces)
        self.name, self.steps, self.policy, self.rewards = name, steps, policy, []
        told = {"behavior": name, "agents": look.agents, "masks": False, "settled": True}
        self.spec = type(spec)(spec.id, {**spec.kwargs, **told})
        remember(self.spec, look)
        self.rows, self.restarts, self.error = players * look.agents, 0, None
        self.starts = threading.Event()

    def run(self):
        env = make(self.spec, self.rows)
        try:
            obs = env.reset(range(self.rows))
            self.starts.set()
            for _ in range(self.steps):
                step = env.step(self.policy(env, obs))
                obs = step.obs
                self.rewards += step.reward[env.stepped].tolist()
            self.restarts = env.restarts
            env.close()
            self.hub.retire(self.name, self.heir)
        except UserError as error:
            self.error = error
            env.close()


@pytest.fixture
def share(monkeypatch):
    hubs = []

    def _share(spec, players=1):
        seen = look_around(spec)
        hubs.append(Hub(UnityOptions.read(spec), list(seen), players, {}, bytes(current_process().authkey)))
        monkeypatch.setitem(os.environ, ADDRESS, hubs[-1].address)
        return hubs[-1], seen

    yield _share
    for each in hubs:
        each.close()
        assert not any(thread.is_alive() for thread in each._threads)


def repeat(env, obs):
    return obs.copy()


def rest(env, obs):
    return still(env)


def break_off(env, obs):
    """As a process does that is killed."""
    env._players[0].close(leave=False)
    return still(env)


@pytest.mark.parametrize("players", [1, 2])
def test_two_runs_share_players_and_neither_resets_the_other(share, players, tmp_path):
    spec = two("--limit", 20, "--pause", 2, "--report", tmp_path / "told")
    hub, seen = share(spec, players)
    runs = [
        Run(hub, "3DBall", seen["3DBall"], spec, 70, players, rest),
        Run(hub, "Goalie", seen["Goalie"], spec, 70, players, repeat),
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(150)
        assert run.error is None and not run.is_alive()
    assert np.abs(runs[1].rewards).max() < 1e-6 and len(runs[1].rewards) >= 100
    assert {round(reward, 3) for reward in runs[0].rewards} <= {0.1, -1.0}
    assert received(tmp_path / "told")["resets"] == 1


def test_a_run_that_is_over_leaves_its_policy_to_act_on(share, tmp_path):
    spec = two("--limit", 20, "--report", tmp_path / "told")
    hub, seen = share(spec)
    heir = load_companion(str(echo(tmp_path / "echo.safetensors")))
    goalie = Run(hub, "Goalie", seen["Goalie"], spec, 10, 1, rest, heir)
    ball = Run(hub, "3DBall", seen["3DBall"], spec, 60, 1, rest)
    goalie.start()
    ball.start()
    goalie.join(150)
    ball.join(150)
    assert ball.error is None and len(ball.rewards) == 120
    told = earned(tmp_path / "told", "Goalie?team=1")
    assert len(told) >= 118 and np.abs(told[20:]).max() < 1e-6 and np.abs(told[:20]).max() > 0.01


@pytest.mark.parametrize("kind", ["die", "garbage"])
def test_a_shared_player_that_fails_is_replaced_for_all(share, kind, tmp_path):
    fault = tmp_path / "fault"
    spec = two("--limit", 20, "--fault", fault)
    hub, seen = share(spec, 2)
    runs = [Run(hub, name, look, spec, 120, 2, rest) for name, look in seen.items()]
    for run in runs:
        run.start()
    assert all(run.starts.wait(150) for run in runs)
    order_fault(fault, kind)
    for run in runs:
        run.join(150)
        assert run.error is None and run.restarts == 1
        assert len(run.rewards) >= 400


def test_a_run_whose_agents_are_gone_does_not_wait_for_ever(share, monkeypatch):
    monkeypatch.setattr(vector_module, "SILENT", 15)
    spec = two("--agents", 2, "--limit", 8, "--mortal", 1, restarts=1)
    hub, seen = share(spec)
    gone = Run(hub, "3DBall", seen["3DBall"], spec, 100, 1, rest)
    for run in (gone, Run(hub, "Goalie", seen["Goalie"], spec, 10**6, 1, repeat)):
        run.start()
    gone.join(150)
    assert "went on for 15 exchanges without an agent that asked for a decision (all 1 rest" in str(gone.error)


def test_a_run_that_breaks_off_is_told_to_the_others(share, tmp_path):
    spec = two("--limit", 20, restarts=0)
    hub, seen = share(spec)
    ball = Run(hub, "3DBall", seen["3DBall"], spec, 10_000, 1, rest)
    goalie = Run(hub, "Goalie", seen["Goalie"], spec, 10_000, 1, break_off)
    ball.start()
    goalie.start()
    ball.join(150)
    assert "broke off" in str(ball.error)
    hub.close()
    goalie.join(150)
    assert not goalie.is_alive()


def test_strangers_cannot_take_part(share):
    hub, seen = share(two())
    with pytest.raises(Exception, match="digest"):
        hub_module.Client(hub.address, authkey=b"guess")
    run = Run(hub, "3DBall", seen["3DBall"], two(), 1, 1, rest)
    other = Run(hub, "Goalie", seen["Goalie"], two(), 1, 1, rest)
    run.start()
    other.start()
    run.join(150)
    assert len(run.rewards) == 2, "and do no harm"
