"""Stacks whose pictures are kept once are read as they were written, whatever the environment puts below the first."""

import gymnasium as gym
import numpy as np
import pytest
from test_replay import ACT, GAMMA, World

from understudy.data import EnvSpec
from understudy.envs.stacking import stacked_pictures
from understudy.errors import UserError
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.replay import Prioritised, Replay
from understudy.rollouts.replay_bytes import check_bytes, row_bytes

COUNT = 4
PIXELS = gym.spaces.Box(0, 255, (COUNT, 2, 3), np.uint8)
ATARI = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)


class Pictures(World):
    """The same story told in stacks of four pictures; every picture is another one, also those before an episode."""

    def __init__(self, envs):
        super().__init__(envs)
        self.stacks = {}
        self.noise = np.random.default_rng(9)

    def _stack(self, number, before=None):
        """[4, 2, 3] of the observation that World calls by a number; ``before`` is the stack that it follows."""
        if number not in self.stacks:
            picture = np.array([number // 250, number % 250, 1, 2, 3, 4], np.uint8).reshape(1, 2, 3)
            first = self.noise.integers(0, 255, (COUNT - 1, 2, 3), np.uint8)
            self.stacks[number] = np.concatenate((first if before is None else before[1:], picture))
        return self.stacks[number]

    def number(self, stack):
        return float(stack[-1, 0, 0]) * 250 + float(stack[-1, 0, 1])

    def pictures(self, steps):
        told = super().rollout(steps)
        out = new_rollout(PIXELS, ACT, steps, self.envs, replayed=True)
        for name in ("action", "reward", "terminated", "truncated", "episode_start"):
            getattr(out, name)[...] = getattr(told, name)
        for t in range(steps):
            for e in range(self.envs):
                stack = out.obs[t, e] = self._stack(float(told.obs[t, e, 0]))
                ended = told.terminated[t, e] or told.truncated[t, e]
                if ended:
                    out.sequel.final_obs[t, e] = self._stack(float(told.sequel.final_obs[t, e, 0]), stack)
                after = told.obs[t + 1, e, 0] if t + 1 < steps else told.sequel.last_obs[e, 0]
                known = self._stack(float(after), None if ended else stack)
                if t + 1 == steps:
                    out.sequel.last_obs[e] = known
        return out


@pytest.mark.parametrize("prioritised", [None, Prioritised()])
@pytest.mark.parametrize(("capacity", "n"), [(1000, 1), (400, 3), (110, 2)])
def test_what_is_drawn_is_what_happened(capacity, n, prioritised):
    """As of whole stacks: ends of both kinds, rollouts that join, a ring that wraps in the middle of episodes."""
    world, rng = Pictures(2), np.random.default_rng(5)
    kept = {"gamma": GAMMA, "n_step": n, "prioritised": prioritised}
    once, whole = (Replay(PIXELS, ACT, 2, capacity, stacks=stacks, **kept) for stacks in ({"": COUNT}, {}))
    for _ in range(20):
        rollout = world.pictures(7)
        expected = world.expected(n)
        for replay in (once, whole):
            replay.append(rollout)
            batch = replay.sample(48, rng)
            for obs, action, reward, discount, after in zip(*batch[:5], strict=True):
                number = world.number(obs)
                assert np.array_equal(obs, world.stacks[number])
                want = expected[number]
                np.testing.assert_allclose((action[0], reward, discount), want[:3], rtol=1e-5, atol=1e-6)
                assert np.array_equal(after, world.stacks[float(want[3])])
    assert once.columns["obs:"].nbytes * COUNT == whole.columns["obs:"].nbytes
    assert once.size > capacity / 4 or capacity == 1000


def test_a_cleared_replay_begins_in_the_middle_of_episodes():
    """QDagger's student goes on where its teacher was: the older pictures of its first stacks are nowhere else."""
    world = Pictures(2)
    once, whole = (Replay(PIXELS, ACT, 2, 400, gamma=GAMMA, stacks=stacks) for stacks in ({"": COUNT}, {}))
    for _ in range(3):
        rollout = world.pictures(7)
        for replay in (once, whole):
            replay.append(rollout)
    for replay in (once, whole):
        replay.clear()
    rollout = world.pictures(7)
    assert not rollout.episode_start[0].all()
    for replay in (once, whole):
        replay.append(rollout)
        index = np.flatnonzero(replay.columns["valid"])
        assert len(index) == 14 and replay.added == 14
        batch = replay.batch(index, np.ones(14, np.float32))
        for stack in (*batch.obs, *batch.next_obs):
            assert np.array_equal(stack, world.stacks[world.number(stack)])


def test_a_replay_of_single_pictures_resumes_exactly_and_not_from_one_of_stacks():
    world = Pictures(2)
    replays = [Replay(PIXELS, ACT, 2, 200, gamma=GAMMA, stacks={"": COUNT}) for _ in range(2)]
    for _ in range(6):
        replays[0].append(world.pictures(6))
    arrays, data = replays[0].state()
    replays[1].restore({name: array.copy() for name, array in arrays.items()}, data)
    more = world.pictures(6)
    for replay in replays:
        replay.append(more)
    one, other = (replay.sample(40, np.random.default_rng(1)) for replay in replays)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(UserError, match="without changing replay.frames_once"):
        Replay(PIXELS, ACT, 2, 200, gamma=GAMMA).restore(arrays, data)


def test_stacks_that_do_not_slide_are_refused():
    rollout = Pictures(2).pictures(6)
    rollout.obs[...] = np.random.default_rng(0).integers(0, 255, rollout.obs.shape, np.uint8)
    rollout.episode_start[1:] = False
    with pytest.raises(UserError, match="--replay.frames_once false"):
        Replay(PIXELS, ACT, 2, 200, gamma=GAMMA, stacks={"": COUNT}).append(rollout)


def test_stacks_are_known_from_the_last_wrapper_and_counted_in_bytes():
    atari = {"type": "atari"}
    assert stacked_pictures(EnvSpec("ALE/Pong-v5", wrappers=(atari,)), ATARI) == {"": 4}
    assert stacked_pictures(EnvSpec("ALE/Pong-v5", wrappers=({**atari, "stack": 1},)), ATARI) == {}
    assert stacked_pictures(EnvSpec("x", wrappers=({"type": "frame_stack", "n": 2},)), ATARI) == {"": 2}
    assert stacked_pictures(EnvSpec("x", wrappers=(atari, {"type": "time_feature"})), ATARI) == {}
    vector = gym.spaces.Box(-1, 1, (8,))
    assert stacked_pictures(EnvSpec("x", wrappers=({"type": "frame_stack", "n": 2},)), vector) == {}
    act = gym.spaces.Discrete(6)
    assert row_bytes(ATARI, act) - row_bytes(ATARI, act, {"": 4}) == 3 * 84 * 84
    check_bytes(ATARI, act, 500_000, False, 4e9, {"": 4})
    with pytest.raises(UserError, match="more than replay.max_bytes"):
        check_bytes(ATARI, act, 500_000, False, 4e9)


def test_the_emulators_stacks_are_read_as_they_came():
    pytest.importorskip("ale_py")
    from understudy.envs.make import make
    from understudy.rollouts.behaviour import Mixture
    from understudy.rollouts.collect import Collector
    from understudy.rollouts.episodes import random_policy

    spec = EnvSpec("ALE/Breakout-v5", wrappers=({"type": "atari", "episodic_life": True},))
    env = make(spec, 2)
    out = new_rollout(env.observation_space, env.action_space, 60, 2, replayed=True)
    replays = [
        Replay(env.observation_space, env.action_space, 2, 2000, gamma=GAMMA, stacks=stacks)
        for stacks in (stacked_pictures(spec, env.observation_space), {})
    ]
    collector, episodes, player = Collector(env, [1, 2]), 0, random_policy(env.action_space, 0)
    for _ in range(3):
        episodes += len(collector.collect(60, Mixture(0.0, uniform=True), player, None, out).lengths)
        for replay in replays:
            replay.append(out)
    env.close()
    assert episodes > 2
    for e in range(2):
        drawn = []
        for replay in replays:
            rows = np.flatnonzero(replay.columns["valid"])
            rows = rows[rows % 2 == e]
            drawn.append(replay.batch(rows, np.ones(len(rows), np.float32)))
        once, whole = drawn
        assert len(once.reward) == 180
        for name in ("obs", "action", "reward", "discount", "next_obs"):
            assert np.array_equal(getattr(once, name), getattr(whole, name))
