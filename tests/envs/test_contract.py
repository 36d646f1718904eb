"""Every library keeps the one contract: same-step resets, final observations, two kinds of ends, seeds, active rows."""

import importlib.util
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.make import env_backend, make, max_episode_steps, spaces_of

ATARI = ({"type": "atari", "screen_size": 42},)
CASES = {
    "gymnasium": EnvSpec("CartPole-v1", {"max_episode_steps": 15}, backend="gymnasium"),
    "gymnasium-dict": EnvSpec("understudy/Privileged-v0"),
    "gymnasium-mujoco": EnvSpec("Hopper-v5", {"max_episode_steps": 15}),
    "envpool": EnvSpec("CartPole-v1", {"max_episode_steps": 15}, backend="envpool"),
    "envpool-dict": EnvSpec("MiniGrid-Empty-5x5-v0", {"max_episode_steps": 12}),
    "ale": EnvSpec("ALE/Pong-v5", {"max_num_frames_per_episode": 80}, ATARI),
    "multitask": EnvSpec("multitask", {"tasks": ["CartPole-v1", "understudy/ConstantAction-v0"]}),
}
NEEDS = {"envpool": "envpool", "ale": "ale_py", "gymnasium-mujoco": "mujoco"}


@pytest.fixture(params=CASES)
def spec(request):
    for prefix, package in NEEDS.items():
        if request.param.startswith(prefix) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return CASES[request.param]


def copied(obs):
    return {k: v.copy() for k, v in obs.items()} if isinstance(obs, dict) else {"": obs.copy()}


def play(spec, seeds, steps, active=None):
    """The whole history of an environment under fixed actions."""
    env = make(spec, len(seeds))
    rng = np.random.default_rng(0)  # every row is given the same actions
    first = copied(env.reset(seeds))
    history = []
    for _ in range(steps):
        if isinstance(env.action_space, gym.spaces.Box):
            one = rng.uniform(-1, 1, env.action_space.shape)
        else:
            one = rng.integers(env.action_space.n)
        actions = np.array([one] * len(seeds))
        step = env.step(actions, active)
        final = None if step.final_obs is None else copied(step.final_obs)
        ends = step.terminated.copy(), step.truncated.copy()
        history.append((copied(step.obs), step.reward.copy(), *ends, final))
    spaces = env.observation_space, env.action_space
    env.close()
    env.close()
    return spaces, first, history


def test_shapes_dtypes_and_ends(spec):
    (space, _), first, history = play(spec, [3, 4], 40)
    members = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}
    assert set(first) == set(members)
    ended = 0
    for obs, reward, terminated, truncated, final in history:
        for key, part in members.items():
            assert obs[key].shape == (2, *part.shape) and obs[key].dtype == part.dtype
            assert all(part.contains(row) for row in obs[key]), key
        assert reward.dtype == np.float32 and reward.shape == (2,)
        assert terminated.dtype == truncated.dtype == bool
        assert not (terminated & truncated).any()
        assert (final is not None) == bool((terminated | truncated).any())
        ended += int((terminated | truncated).sum())
    assert ended > 1


def test_seeds_reproduce_and_rows_do_not_depend_on_each_other(spec):
    tasks = len(spec.kwargs.get("tasks", [0]))
    _, first, once = play(spec, [5, 6], 30)
    _, again, twice = play(spec, [5, 6], 30)
    _, other, _ = play(spec, [7, 8], 1)
    for (a, ra, *_), (b, rb, *_) in zip(once, twice, strict=True):
        assert all(np.array_equal(a[k], b[k]) for k in a) and np.array_equal(ra, rb)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    if "MiniGrid-Empty" not in spec.id and "ALE" not in spec.id:
        assert any(not np.array_equal(first[k], other[k]) for k in first)
    if tasks == 1:
        _, _, single = play(spec, [6], 30)
        for (a, ra, *_), (b, rb, *_) in zip(once, single, strict=True):
            assert all(np.array_equal(a[k][1:], b[k]) for k in a) and ra[1] == rb[0]


def test_a_second_reset_starts_the_same_episodes_again(spec):
    env = make(spec, 2)
    first = copied(env.reset([1, 2]))
    for _ in range(3):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    again = copied(env.reset([1, 2]))
    env.close()
    assert all(np.array_equal(first[k], again[k]) for k in first)


def test_inactive_rows_leave_the_others_as_they_were(spec):
    _, _, full = play(spec, [3, 4, 5, 6], 12)
    mask = np.array([False, True, False, True])
    _, _, part = play(spec, [3, 4, 5, 6], 12, mask)
    for (a, ra, ta, ua, _), (b, rb, tb, ub, _) in zip(full, part, strict=True):
        assert all(np.array_equal(a[k][mask], b[k][mask]) for k in a)
        assert np.array_equal(ra[mask], rb[mask])
        assert np.array_equal((ta | ua)[mask], (tb | ub)[mask])


def test_inactive_rows_are_not_stepped():
    env = make(EnvSpec("understudy/Raising-v0", {"after": 1}), 2)
    env.reset([0, 1])
    with pytest.raises(RuntimeError, match="this probe raises"):
        env.step(np.zeros(2, int))
    env.reset([0, 1])
    env.step(np.zeros(2, int), np.zeros(2, bool))


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
def test_cartpole_falls_or_runs_out_of_time(backend):
    if backend == "envpool":
        pytest.importorskip("envpool")
    env = make(EnvSpec("CartPole-v1", {"max_episode_steps": 20}, backend=backend), 2)
    obs = env.reset([0, 1]).copy()
    for t in range(1, 21):
        # Row 0 pushes one way and falls; row 1 catches the pole.
        balance = int(obs[1, 2] + 0.3 * obs[1, 3] > 0)
        step = env.step(np.array([1, balance]))
        obs = step.obs.copy()
        if step.terminated[0]:
            assert t < 20 and not step.truncated[0]
            assert abs(step.final_obs[0, 2]) > 12 * np.pi / 180 or abs(step.final_obs[0, 0]) > 2.4
            assert np.all(np.abs(obs[0]) <= 0.05)
        assert step.truncated[1] == (t == 20) and not step.terminated[1]
    assert np.all(np.abs(obs[1]) <= 0.05) and not np.array_equal(step.final_obs[1], obs[1])
    env.close()


def test_both_ends_at_once_is_a_termination():
    env = make(EnvSpec("understudy/IdentityDiscrete-v0", {"max_episode_steps": 1}), 1)
    env.reset([0])
    step = env.step(np.array([0]))
    assert step.terminated[0] and not step.truncated[0]


def test_final_observations_are_those_of_a_plain_environment():
    env, plain = make(EnvSpec("Pendulum-v1", backend="gymnasium"), 1), gym.make("Pendulum-v1")
    env.reset([9])
    plain.reset(seed=9)
    for t in range(401):
        action = np.array([np.sin(t)], np.float32)
        step, (obs, reward, _, truncated, _) = env.step(action[None]), plain.step(action)
        assert step.reward[0] == np.float32(reward) and step.truncated[0] == truncated
        if truncated:
            assert np.array_equal(step.final_obs[0], obs)
            obs, _ = plain.reset()
        assert np.array_equal(step.obs[0], obs)


def test_actions_may_be_overwritten_by_the_caller():
    class Keeps(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.Box(-1, 1, (1,))
        kept = []

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.kept.append(action)
            return np.zeros(1, np.float32), 0.0, False, False, {}

    gym.register("Keeps-v0", Keeps)
    env, action = make("Keeps-v0", 1), np.full((1, 1), 0.25)
    env.reset([0])
    env.step(action)
    action[:] = 1
    env.step(action)
    assert [float(a[0]) for a in Keeps.kept] == [0.25, 1] and Keeps.kept[0].dtype == np.float32
    del gym.registry["Keeps-v0"]


def test_render():
    env = make("CartPole-v1", 2, render=True)
    env.reset([0, 1])
    picture = env.render()
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
    env.close()
    assert make("CartPole-v1", 1).render() is None


def test_spaces_and_limits():
    observation, action = spaces_of("CartPole-v1")
    assert observation == gym.make("CartPole-v1").observation_space and action == gym.spaces.Discrete(2)
    assert max_episode_steps("CartPole-v1") == 500
    assert max_episode_steps(EnvSpec("CartPole-v1", {"max_episode_steps": 7})) == 7
    for backend in ("gymnasium", "envpool") if importlib.util.find_spec("envpool") else ("gymnasium",):
        limited = EnvSpec("CartPole-v1", wrappers=({"type": "time_limit", "max_steps": 9},), backend=backend)
        assert max_episode_steps(limited) == 9
        env = make(limited, 1)
        env.reset([0])
        ends = [bool((s := env.step(np.array([t % 2]))).truncated[0] or s.terminated[0]) for t in range(9)]
        assert ends == [False] * 8 + [True]
    assert max_episode_steps("understudy/Memory-v0") is None
    assert max_episode_steps(EnvSpec("multitask", {"tasks": ["CartPole-v1", "Pendulum-v1"]})) == 500


def test_auto_keeps_to_what_a_library_can_do():
    if importlib.util.find_spec("envpool"):
        assert env_backend("BipedalWalker-v3") == env_backend("BabyAI-GoToLocal-v0") == "envpool"
        assert env_backend("BipedalWalker-v3", render=True) == "gymnasium"
        assert env_backend(EnvSpec("BipedalWalker-v3", {"hardcore": True})) == "gymnasium"
    assert env_backend(EnvSpec("BipedalWalker-v3", wrappers=({"type": "time_feature"},))) == "gymnasium"
    assert env_backend(EnvSpec("BipedalWalker-v3", backend="gymnasium")) == "gymnasium"
    assert env_backend("Ant-v5") == env_backend("ALE/Pong-v5") == "gymnasium"


def test_workers_need_no_torch():
    code = (
        "import sys, understudy.envs.make as m\n"
        "import understudy.envs.multitask, understudy.envs.wrappers, understudy.envs.probes, understudy.envs.ale_env\n"
        "for name in ('CartPole-v1', 'understudy/Memory-v0'): m.make(name, 2).reset([0, 1])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
