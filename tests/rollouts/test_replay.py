"""The replay against slow arithmetic of its own: what follows what, n-step returns across ends, priorities."""

import gymnasium as gym
import numpy as np
import pytest

from understudy.errors import UserError
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.priorities import SumTree, actor_errors
from understudy.rollouts.replay import EPSILON, Prioritised, Replay
from understudy.rollouts.replay_bytes import check_bytes

OBS, ACT = gym.spaces.Box(-1e9, 1e9, (1,)), gym.spaces.Box(-2, 2, (1,))
GAMMA = 0.9


class World:
    """Environments whose observation is a number that is never seen twice; everything that happens is written down."""

    def __init__(self, envs, seed=0):
        self.rng, self.envs, self.next = np.random.default_rng(seed), envs, 0.0
        self.obs = self._fresh(envs)
        self.start = np.ones(envs, bool)
        self.story = [[] for _ in range(envs)]
        """For each environment (obs, action, reward, terminated, truncated, what was seen next)."""

    def _fresh(self, count):
        self.next += count
        return np.arange(self.next - count, self.next, dtype=np.float32)[:, None]

    def rollout(self, steps):
        out = new_rollout(OBS, ACT, steps, self.envs, replayed=True)
        rng = self.rng
        for t in range(steps):
            out.obs[t], out.episode_start[t] = self.obs, self.start
            out.action[t] = rng.uniform(-2, 2, (self.envs, 1))
            out.reward[t] = rng.normal(size=self.envs)
            out.terminated[t] = rng.random(self.envs) < 0.15
            out.truncated[t] = ~out.terminated[t] & (rng.random(self.envs) < 0.15)
            ended = out.terminated[t] | out.truncated[t]
            seen = self._fresh(self.envs)
            out.sequel.final_obs[t] = np.where(ended[:, None], seen, -1)
            for e in range(self.envs):
                flags = bool(out.terminated[t, e]), bool(out.truncated[t, e])
                self.story[e].append((self.obs[e, 0], out.action[t, e, 0], out.reward[t, e], *flags, seen[e, 0]))
            self.obs = np.where(ended[:, None], self._fresh(self.envs), seen)
            self.start = ended
        out.sequel.last_obs[...] = self.obs
        return out

    def expected(self, n):
        """By observation: (unit action, n-step reward, discount, next observation)."""
        found = {}
        for story in self.story:
            for i, (obs, action, *_) in enumerate(story):
                total, discount = 0.0, 1.0
                for _, _, reward, terminated, truncated, after in story[i : i + n]:
                    total += discount * reward
                    discount *= GAMMA
                    last = after
                    if terminated or truncated:
                        discount *= not terminated
                        break
                found[float(obs)] = (action / 2, total, discount, last)
        return found


def check(batch, expected):
    for obs, action, reward, discount, after in zip(
        batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs, strict=True
    ):
        want = expected[float(obs[0])]
        np.testing.assert_allclose((action[0], reward, discount, after[0]), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("capacity", [1000, 60])
def test_every_transition_is_what_happened(n, capacity):
    """Ends of both kinds, rollouts that join, a ring that wraps: nothing but true transitions is ever drawn."""
    world, rng = World(3), np.random.default_rng(5)
    replay = Replay(OBS, ACT, 3, capacity, gamma=GAMMA, n_step=n)
    for _ in range(25):
        replay.append(world.rollout(7))
        check(replay.sample(64, rng), world.expected(n))
    assert replay.added == 25 * 7 * 3


def test_uniform_sampling_reaches_every_transition_that_fits():
    world, rng = World(2), np.random.default_rng(0)
    replay = Replay(OBS, ACT, 2, 400, gamma=GAMMA)
    for _ in range(10):
        replay.append(world.rollout(8))
    drawn = np.concatenate([replay.sample(500, rng).obs[:, 0] for _ in range(20)])
    values, counts = np.unique(drawn, return_counts=True)
    assert len(values) == replay.size == 160
    assert abs(counts.mean() - 62.5) < 1 and counts.max() < 110 and counts.min() > 25


def test_a_lost_worker_leaves_a_cut_that_bootstraps():
    """A new episode begins though the last one did not end: what was seen last is bootstrapped from."""
    world = World(1)
    replay = Replay(OBS, ACT, 1, 100, gamma=GAMMA, n_step=3)
    first = world.rollout(1)
    while first.terminated.any() or first.truncated.any():
        first = world.rollout(1)
    replay.append(first)
    last, world.obs, world.start = world.obs.copy(), world._fresh(1), np.ones(1, bool)
    replay.append(world.rollout(5))
    batch = replay.batch(np.array([0]), np.ones(1, np.float32))
    assert batch.next_obs[0, 0] == last[0, 0] and batch.discount[0] == np.float32(GAMMA)
    assert batch.reward[0] == first.reward[0, 0]


def test_columns_of_one_environment_are_its_older_and_newer_steps():
    """In async, a batch may hold two rollouts of one worker and none of another."""
    world, rng = World(1), np.random.default_rng(2)
    both = new_rollout(OBS, ACT, 6, 2, replayed=True)
    both.columns(slice(0, 1)).copy_from(world.rollout(6))
    both.columns(slice(1, 2)).copy_from(world.rollout(6))
    replay = Replay(OBS, ACT, 2, 100, gamma=GAMMA, n_step=3)
    replay.append(both, envs=(1, 1))
    check(replay.sample(200, rng), world.expected(3))
    assert replay.size == 12


def test_state_restores_exactly_and_refuses_another_size():
    world = World(2)
    replays = [Replay(OBS, ACT, 2, 50, gamma=GAMMA, n_step=2, prioritised=Prioritised()) for _ in range(2)]
    for _ in range(6):
        replays[0].append(world.rollout(6))
    replays[0].set_errors(np.array([0, 5]), np.array([3.0, 0.1]))
    arrays, data = replays[0].state()
    replays[1].restore({name: array.copy() for name, array in arrays.items()}, data)
    more = world.rollout(6)
    batches = []
    for replay in replays:
        replay.append(more)
        batches.append(replay.sample(40, np.random.default_rng(1), 0.5))
    for one, other in zip(*batches, strict=True):
        assert np.array_equal(one, other)
    for envs, capacity, message in [(2, 40, "replay.capacity 50:"), (1, 50, "rollout.num_envs 2:")]:
        with pytest.raises(UserError, match=message + " resume without changing it"):
            Replay(OBS, ACT, envs, capacity, gamma=GAMMA).restore(arrays, data)


def test_bytes_are_estimated_and_refused():
    pixels = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    with pytest.raises(UserError, match=r"takes 2\d\.\d\d GB \(28,2\d\d bytes a step\).*capacity 1\d+"):
        check_bytes(pixels, gym.spaces.Discrete(4), 1_000_000, False, 4e9)
    check_bytes(pixels, gym.spaces.Discrete(4), 100_000, True, 4e9)


def test_sum_tree_finds_what_a_running_sum_finds():
    rng = np.random.default_rng(0)
    for leaves in (1, 2, 7, 64, 100):
        tree, priorities = SumTree(leaves), np.zeros(leaves)
        for _ in range(5):
            index = rng.integers(0, leaves, 10)
            value = rng.choice([0.0, 0.5, 1.0, 3.0], 10)
            tree.set(index, value)
            priorities[index] = value  # of a leaf that is named twice, the last one counts
            assert tree.total == pytest.approx(priorities.sum())
            np.testing.assert_array_equal(tree[np.arange(leaves)], priorities)
        if tree.total:
            mass = rng.random(200) * tree.total
            np.testing.assert_array_equal(tree.find(mass), np.searchsorted(np.cumsum(priorities), mass, "right"))


def test_priorities_set_frequencies_and_weights():
    world = World(1)
    replay = Replay(OBS, ACT, 1, 200, gamma=GAMMA, prioritised=Prioritised(alpha=0.5))
    replay.append(world.rollout(20))
    index = np.unique(replay.sample(4000, np.random.default_rng(0)).place)
    assert len(index) == 20
    errors = np.linspace(0.1, 2, 20)
    replay.set_errors(index, errors)
    share = np.sqrt(errors + EPSILON) / np.sqrt(errors + EPSILON).sum()
    batch = replay.sample(50_000, np.random.default_rng(1), beta=0.7)
    found = np.array([(batch.place == i).mean() for i in index])
    np.testing.assert_allclose(found, share, atol=0.005)
    expected = (20 * share) ** -0.7
    expected /= expected.max()
    for i, weight in zip(index, expected, strict=True):
        np.testing.assert_allclose(batch.weight[batch.place == i], weight, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_restored_priorities_are_of_the_new_alpha(alpha):
    world, errors = World(1), np.linspace(0.1, 2, 10)[:, None]
    replay, other, expected = (
        Replay(OBS, ACT, 1, 200, gamma=GAMMA, prioritised=Prioritised(a)) for a in (0.6, alpha, alpha)
    )
    rollout = world.rollout(10)
    replay.append(rollout, errors=errors)
    expected.append(rollout, errors=errors)
    other.restore(*replay.state())
    rows = np.arange(20)
    np.testing.assert_allclose(other._tree[rows], expected._tree[rows], rtol=1e-12)
    assert other._greatest == pytest.approx(expected._greatest)


def test_new_transitions_get_the_greatest_priority_or_the_actors_errors():
    world = World(1)
    replay = Replay(OBS, ACT, 1, 200, gamma=GAMMA, prioritised=Prioritised(alpha=1.0))
    replay.append(world.rollout(5), errors=np.full((5, 1), 4.0))
    replay.append(world.rollout(5))
    replay.append(world.rollout(2), errors=np.array([[0.5], [np.nan]]))
    valid = np.flatnonzero(replay.columns["valid"])
    np.testing.assert_allclose(replay._tree[valid], [4] * 10 + [0.5, 4], rtol=1e-5)


def test_errors_of_the_actors_by_hand():
    """Three steps of two environments, n = 2; the second one is truncated after its second step."""
    rollout = new_rollout(OBS, gym.spaces.Discrete(2), 3, 2, replayed=True)
    rollout.reward[:] = [[1, 1], [2, 2], [4, 4]]
    rollout.truncated[1, 1] = rollout.terminated[2, 0] = True
    sequel = rollout.sequel
    sequel.value[:] = [[10, 10], [20, 20], [30, 30]]
    sequel.chosen[:] = [[9, 9], [19, 19], [29, 29]]
    sequel.final_value[1, 1], sequel.last_value[:] = 50, [70, 80]
    found = actor_errors(rollout, 0.5, 2)
    expected = [
        [1 + 0.5 * 2 + 0.25 * 30 - 9, 1 + 0.5 * 2 + 0.25 * 50 - 9],
        [2 + 0.5 * 4 - 19, 2 + 0.5 * 50 - 19],
        [4 - 29, 4 + 0.5 * 80 - 29],
    ]
    np.testing.assert_allclose(found, expected)
