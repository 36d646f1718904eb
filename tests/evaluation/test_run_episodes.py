import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from evaluation_helpers import CountingEnv, new_policy

from understudy.data import EnvSpec
from understudy.envs.make import make
from understudy.errors import UserError
from understudy.rollouts.episodes import merge_episodes, random_policy, run_episodes


class Still:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation), 1), np.float32), state


@pytest.mark.parametrize("num_envs", [1, 3, 8, 20])
def test_every_seed_counts_once_whatever_its_length(num_envs):
    # Half of the episodes last 2 steps, half 40. Free-running environments would see almost only short ones.
    env = CountingEnv(num_envs, length=lambda seed: 2 if seed % 2 else 40)
    found = run_episodes(Still(), env, range(12))
    assert found.returns.tolist() == [40, 2] * 6
    assert found.lengths.tolist() == [40, 2] * 6
    assert found.seeds.tolist() == list(range(12))
    assert found.env_steps == env.stepped == 6 * 42, "environments that are done are not stepped"
    assert found.returns.dtype == np.float64


def test_memory_and_episode_starts():
    env, seen = CountingEnv(3, length=lambda seed: 4), []

    class Remembers:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            seen.append((None if state is None else state.copy(), episode_start.copy()))
            return np.zeros((3, 1), np.float32), np.zeros(3) if state is None else state + 1

    run_episodes(Remembers(), env, range(6))
    assert len(seen) == 8
    for wave in (seen[:4], seen[4:]):
        assert wave[0][0] is None and wave[0][1].all()
        assert [list(state) for state, _ in wave[1:]] == [[0] * 3, [1] * 3, [2] * 3]
        assert not any(start.any() for _, start in wave[1:])


def test_on_step_sees_what_the_policy_saw():
    env, visits = CountingEnv(2), []
    run_episodes(Still(), env, [1, 4], on_step=visits.append)
    assert [v.step for v in visits] == [0, 1, 2, 3, 4]
    assert [v.active.tolist() for v in visits] == [[True, True]] * 2 + [[False, True]] * 3
    assert [v.obs[1].tolist() for v in visits] == [[t, 4] for t in range(5)]


def test_endless_episode():
    with pytest.raises(UserError, match="seed 5 in Counting-v0 did not end within 10 steps"):
        run_episodes(Still(), CountingEnv(2, lambda seed: 1000 if seed == 5 else 3), [4, 5], max_steps=10)


def test_nan_actions_are_refused_by_name_and_step():
    class Breaks:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.where(observation[:, :1] == 3, np.nan, 0).astype(np.float32), state

    with pytest.raises(UserError, match="policy Breaks answers NaN or infinity at step 3"):
        run_episodes(Breaks(), CountingEnv(2, lambda seed: 9), [0, 1])
    # A row that is over may answer anything.
    run_episodes(Breaks(), CountingEnv(2, lambda seed: 2), [0, 1])


def test_fixed_seeds_reproduce_whatever_the_number_of_environments():
    policy = new_policy()
    results = []
    for num_envs in (1, 4, 4):
        env = make(EnvSpec("CartPole-v1"), num_envs)
        results.append(run_episodes(policy, env, range(10, 20)).returns.tolist())
        env.close()
    assert results[0] == results[1] == results[2]


def test_merge():
    parts = [run_episodes(Still(), CountingEnv(2), seeds) for seeds in ([3, 4], [5])]
    whole = merge_episodes(parts)
    assert whole.seeds.tolist() == [3, 4, 5] and whole.returns.tolist() == [4, 5, 6]
    assert whole.seconds == max(p.seconds for p in parts)
    assert len(merge_episodes([])) == 0


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(5, start=2),
        gym.spaces.MultiDiscrete([2, 7]),
        gym.spaces.MultiBinary(4),
        gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 1.0], np.float32)),
        gym.spaces.Box(0, 3, (2,), np.int64),
        gym.spaces.Box(-np.inf, np.inf, (3,)),
        gym.spaces.Box(0, np.inf, (3,)),
    ],
)
def test_random_policy(space):
    actions, _ = random_policy(space, 7).predict(None, None, np.ones(400, bool))
    again, _ = random_policy(space, 7).predict(None, None, np.ones(400, bool))
    assert (actions == again).all() and all(space.contains(a) for a in actions)
    single, _ = random_policy(space, 7).predict(None)
    assert space.contains(np.asarray(single)[()])
    if isinstance(space, gym.spaces.Box) and np.isfinite(space.high).all():
        assert (actions.min(0) < space.low + 0.2).all() and (actions.max(0) > space.high - 0.2).all()
    elif isinstance(space, gym.spaces.Box) and np.isinf(space.low).all():
        assert abs(actions.std() - 1) < 0.1
    if isinstance(space, gym.spaces.Discrete):
        assert set(actions.tolist()) == {2, 3, 4, 5, 6}


def test_workers_do_not_import_torch():
    code = "import understudy.rollouts.episodes, understudy.evaluation.statistics, understudy.evaluation.parity, sys"
    done = subprocess.run([sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True)
    assert done.stdout.strip() == b"False", done.stderr
