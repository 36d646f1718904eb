"""EnvPool's environments are the same tasks as gymnasium's."""

import subprocess
import sys

import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.build import build
from understudy.envs.make import env_backend, make, max_episode_steps
from understudy.errors import UserError

pytest.importorskip("envpool")


def as_it_is(env, obs):
    env.state = tuple(obs)
    env.steps_beyond_terminated = None


def pendulum(env, obs):
    env.state = np.array([np.arctan2(obs[1], obs[0]), obs[2]])


def acrobot(env, obs):
    env.state = np.array([np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2]), obs[4], obs[5]])


def cheetah(env, obs):
    env.set_state(np.concatenate([[0], obs[:8]]), obs[8:])


STATES = {
    "CartPole-v1": as_it_is,
    "MountainCar-v0": as_it_is,
    "MountainCarContinuous-v0": as_it_is,
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "HalfCheetah-v4": cheetah,
    "HalfCheetah-v5": cheetah,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("env_id", STATES)
def test_transitions_are_gymnasiums(env_id):
    fast, plain = make(EnvSpec(env_id, backend="envpool"), 1), build(EnvSpec(env_id)).unwrapped
    plain.reset(seed=0)
    obs = fast.reset([4]).copy()
    assert fast.observation_space == plain.observation_space and fast.action_space == plain.action_space
    for _ in range(60):
        action = plain.action_space.sample()
        STATES[env_id](plain, obs[0].astype(float))
        expected, reward, terminated, _, _ = plain.step(action)
        step = fast.step(np.array([action]))
        ended = step.terminated[0] or step.truncated[0]
        np.testing.assert_allclose((step.final_obs if ended else step.obs)[0], expected, rtol=1e-5, atol=1e-5)
        assert abs(step.reward[0] - reward) < 1e-5 and step.terminated[0] == terminated
        obs = step.obs.copy()


@pytest.mark.parametrize("env_id", [*STATES, "LunarLander-v3", "BipedalWalker-v3"])
def test_episodes_start_alike_and_last_as_long(env_id):
    starts = []
    for backend in ("gymnasium", "envpool"):
        spec = EnvSpec(env_id, backend=backend)
        env = make(spec, 24)
        starts.append((env.reset(range(24)).copy(), max_episode_steps(spec)))
        env.close()
    (a, limit), (b, same_limit) = starts
    assert limit == same_limit and a.dtype == b.dtype
    spread = np.sqrt(a.var(0) + b.var(0))
    assert np.all(np.abs(a.mean(0) - b.mean(0)) <= 1.2 * spread + 1e-3)
    assert np.all((a.std(0) <= 2.5 * b.std(0) + 1e-3) & (b.std(0) <= 2.5 * a.std(0) + 1e-3))


def test_only_what_is_needed_is_imported():
    code = (
        "import sys; from understudy.envs.make import make; make('BipedalWalker-v3', 1); "
        "assert 'envpool' in sys.modules and 'matplotlib' not in sys.modules and 'torch' not in sys.modules; "
        "from understudy.data import EnvSpec; make(EnvSpec('FrozenLake-v1', backend='envpool'), 1).reset([0])"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_missions_have_the_length_that_the_wrapper_asks_for():
    """The wrapper ``mission`` is not built: EnvPool has the text as bytes already, of a length of its own."""

    def missions(length):
        env = make(EnvSpec("BabyAI-GoToLocal-v0", wrappers=({"type": "mission", "length": length},)), 3)
        assert type(env).__name__ == "EnvpoolVectorEnv"
        obs = env.reset([0, 1, 2])
        assert env.observation_space["mission"].shape == (length,) and obs["mission"].shape == (3, length)
        for _ in range(70):
            step = env.step(np.array([0, 1, 2]))
        assert step.obs["mission"].shape == (3, length)
        return [bytes(row).rstrip(b"\0").decode() for row in obs["mission"]]

    assert missions(40) == missions(600)  # EnvPool's own length is 512
    assert all(text.startswith("go to") for text in missions(40))
    with pytest.raises(UserError, match=r"a mission needs \d+ bytes: give the wrapper mission that length"):
        missions(8)


def test_other_wrappers_are_left_to_gymnasium():
    def backend(env_id, *options):
        return env_backend(EnvSpec(env_id, wrappers=options))

    mission, limit = {"type": "mission", "length": 64}, {"type": "time_limit", "max_steps": 9}
    assert backend("MiniGrid-DoorKey-5x5-v0", mission, limit) == "envpool"
    assert backend("MiniGrid-DoorKey-5x5-v0", {"type": "mission", "length": 0}) == "gymnasium"
    assert backend("MiniGrid-DoorKey-5x5-v0", {"type": "flatten_observation"}) == "gymnasium"
    assert backend("BipedalWalker-v3", mission) == "gymnasium"
    env = make(EnvSpec("MiniGrid-DoorKey-5x5-v0", wrappers=(mission, limit)), 1)
    env.reset([0])
    assert [bool(env.step(np.zeros(1, int)).truncated[0]) for _ in range(9)] == [False] * 8 + [True]


def episode(spec, actions):
    """The last reward and the length of the first episode that plays the actions again and again."""
    env = make(spec, 1)
    env.reset([0])
    for length in range(1, 1500):
        step = env.step(np.array([actions[(length - 1) % len(actions)]]))
        if step.terminated[0] or step.truncated[0]:
            return pytest.approx(float(step.reward[0])), length
    return None


@pytest.mark.parametrize("own", [None, 20, 500, -1])
@pytest.mark.parametrize("wrapped", [None, 20, 500])
def test_time_limits_of_minigrid_leave_its_rewards_and_its_own_limit(own, wrapped):
    """A reward is 1 - 0.9 t / T with the T of the level, whatever truncates before."""
    wrappers = () if wrapped is None else ({"type": "time_limit", "max_steps": wrapped},)
    spec = EnvSpec("MiniGrid-Empty-5x5-v0", {} if own is None else {"max_episode_steps": own}, wrappers, "envpool")
    shortest = 20 if 20 in (wrapped, own) else 100
    assert episode(spec, [2, 2, 1, 2, 2]) == (1 - 0.9 * 5 / 100, 5)
    assert episode(spec, [0]) == (0, shortest) and max_episode_steps(spec) == shortest


@pytest.mark.parametrize(("wrapped", "length"), [(None, None), (20, 20), (500, 500)])
def test_no_limit_is_none(wrapped, length):
    wrappers = () if wrapped is None else ({"type": "time_limit", "max_steps": wrapped},)
    spec = EnvSpec("MountainCar-v0", {"max_episode_steps": -1}, wrappers, backend="envpool")
    assert max_episode_steps(spec) == length and episode(spec, [1]) == (length and (-1, length))


def test_episodes_after_a_limit_are_whole():
    env = make(EnvSpec("BabyAI-GoToLocal-v0", {"max_episode_steps": 9}, ({"type": "mission", "length": 64},)), 2)
    env.reset([0, 1])
    ends = [env.step(np.zeros(2, int)).truncated.copy() for _ in range(27)]
    assert np.flatnonzero(np.all(ends, axis=1)).tolist() == [8, 17, 26] and np.sum(ends) == 6
