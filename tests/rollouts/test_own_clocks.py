"""Rollouts from rows with their own clocks: whole columns of real steps, whoever asks when, whoever fails."""

import gymnasium as gym
import numpy as np
import pytest

from understudy.data import EnvSpec
from understudy.envs.base import Step
from understudy.learning.from_replay import OffPolicy, replayed_policy, replayed_spec
from understudy.policies.family import Family
from understudy.policies.policy import About
from understudy.rollouts import behaviour
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.collect import Collector
from understudy.rollouts.episodes import run_episodes
from understudy.rollouts.jump_start import JumpStart
from understudy.rollouts.own_clocks import OwnClocksCollector, collector_for
from understudy.rollouts.replay import Replay
from understudy.teachers.acting import EnsembleActor
from understudy.training import resolve_training

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACT = gym.spaces.Box(-1, 1, (1,), np.float32)


class Clocks:
    """Row b is answered every ``periods[b]`` calls; it sees (row, life, step) and is paid 100 row + step.

    An episode ends after ``length`` steps, late in even rows and by termination in odd ones; row b then pauses for
    ``pause`` calls. ``cuts`` is a set of (call, row); ``gone`` the rows that vanish with their first end.
    """

    spec, observation_space, action_space = EnvSpec("clocks"), OBS, ACT

    def __init__(self, periods, length=5, pause=0, cuts=(), gone=(), own_clocks=True):
        self.periods, self.length, self.pause = periods, length, pause
        self.cuts, self.gone, self.own_clocks = set(cuts), set(gone), own_clocks
        self.num_envs = len(periods)
        self.restarts = self.lost_episodes = 0
        self.calls, self.given = 0, {}

    def reset(self, seeds):
        count = self.num_envs
        self.life, self.time = np.zeros(count, int), np.zeros(count, int)
        self.due, self.rests = np.zeros(count, int), np.zeros(count, int)
        self.busy, self.asks = np.zeros(count, bool), np.ones(count, bool)
        return self._see()

    def _see(self):
        return np.stack([np.arange(self.num_envs), self.life, self.time], axis=1).astype(np.float32)

    def take_stats(self):
        return {"calls": float(self.calls)}

    def step(self, actions, active=None):
        count = self.num_envs
        stepped, cut, terminated, truncated = (np.zeros(count, bool) for _ in range(4))
        reward, final = np.full(count, np.nan, np.float32), np.full((count, 3), np.nan, np.float32)
        self.calls += 1
        for b in range(count):
            if self.asks[b]:
                self.given[b, self.life[b], self.time[b]] = float(actions[b, 0])
                self.busy[b], self.due[b] = True, self.calls + self.periods[b] - 1
            self.asks[b] = False
            if self.busy[b] and (self.calls, b) in self.cuts:
                cut[b], self.busy[b] = True, False
                self.lost_episodes += 1
                self.restarts += 1
                self._next(b, 0)
            elif self.busy[b] and self.calls >= self.due[b]:
                stepped[b], self.busy[b], reward[b] = True, False, 100 * b + self.time[b]
                self.time[b] += 1
                if self.time[b] == self.length:
                    (terminated if b % 2 else truncated)[b] = True
                    final[b] = b, self.life[b], self.time[b]
                    self._next(b, self.pause)
            if not self.busy[b] and self.calls >= self.rests[b]:
                self.asks[b] = True
        obs = self._see()
        ended = (terminated | truncated).any()
        if not self.own_clocks:
            return Step(obs, np.nan_to_num(reward), terminated, truncated, final if ended else None)
        obs[~self.asks] = np.nan  # nobody may use what has no meaning
        self.stepped, self.cut = stepped, cut
        return Step(np.nan_to_num(obs, nan=-1.0), reward, terminated, truncated, final if ended else None)

    def _next(self, b, pause):
        self.life[b], self.time[b] = self.life[b] + 1, 0
        self.rests[b] = 10**9 if b in self.gone else self.calls + pause

    def close(self):
        pass


class Student:
    """Its value is ten times the step it sees, plus the life; its action is its noise."""

    family = Family("gaussian", (1,))

    def act(self, obs, state, episode_start, noise):
        return noise[:, :1], noise[:, 0] * 2, self.value_of(obs, state, episode_start), state

    def value_of(self, obs, state, episode_start):
        return (10 * obs[:, 2] + obs[:, 1]).astype(np.float32)

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(obs), 1), np.float32), state


@pytest.fixture
def traced(monkeypatch):
    """A rollout with a trace, for a student of one number."""

    class Spec:
        distribution, lstm, lstm_layers = Family("gaussian", (1,)), 0, 1

    return lambda steps, rows: new_rollout(OBS, ACT, steps, rows, Spec())


def collect(env, steps, rollouts, new, cls=None):
    collector = (cls or collector_for)(env, list(range(env.num_envs)))
    found = []
    for _ in range(rollouts):
        out = new(steps, env.num_envs)
        info = collector.collect(steps, Mixture(0.0, sample=True), Student(), None, out)
        found.append((out, info))
    return found


def check_real(env, out, steps):
    """Every step is one that happened, and steps that follow each other did so."""
    trace = out.trace
    for b in range(env.num_envs):
        for t in range(steps):
            row, life, time = (int(x) for x in out.obs[t, b])
            assert env.given[row, life, time] == pytest.approx(float(out.action[t, b, 0]))
            assert out.reward[t, b] == 100 * row + time
            assert trace.value[t, b] == 10 * time + life and trace.log_prob[t, b] == trace.choice[t, b, 0] * 2
            last = time == env.length - 1
            assert out.terminated[t, b] == (last and row % 2 == 1)
            if last and row % 2 == 0:
                assert out.truncated[t, b]
            if out.truncated[t, b]:
                assert trace.bootstrap[t, b] == 10 * (time + 1) + life, "of what was seen after this step"
            else:
                assert trace.bootstrap[t, b] == 0
            ended = out.terminated[t, b] or out.truncated[t, b]
            after = out.obs[t + 1, b] if t + 1 < steps else trace.last_obs[b]
            if not ended:
                assert after.tolist() == [row, life, time + 1], (t, b)
                if t + 1 == steps:
                    assert trace.last_value[b] == 10 * (time + 1) + life and not trace.last_start[b]
            if t + 1 < steps:
                assert out.episode_start[t + 1, b] == ended


def test_rows_in_step_are_gathered_as_anywhere_else(traced):
    env, plain = Clocks([1] * 4), Clocks([1] * 4, own_clocks=False)
    assert isinstance(collector_for(env, range(4)), OwnClocksCollector)
    assert type(collector_for(plain, range(4))) is Collector
    ours, theirs = collect(env, 8, 3, traced), collect(plain, 8, 3, traced)
    for (one, info), (other, same) in zip(ours, theirs, strict=True):
        for name in ("obs", "action", "reward", "terminated", "truncated", "episode_start", "teacher_acted"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        for name in ("choice", "log_prob", "value", "bootstrap"):
            assert np.array_equal(getattr(one.trace, name), getattr(other.trace, name)), name
        going = ~(one.terminated | one.truncated)[-1]
        assert np.array_equal(one.trace.last_value[going], other.trace.last_value[going])
        assert (info.env_steps, info.returns, info.lengths) == (same.env_steps, same.returns, same.lengths)


@pytest.mark.parametrize(
    "env",
    [
        Clocks([1, 1, 1]),
        Clocks([1, 2, 3]),
        Clocks([2, 2, 3], pause=3),
        Clocks([1, 1, 7], length=4),
        Clocks([1, 1, 1, 1], pause=6, length=3),
        Clocks([1, 1, 1], cuts={(3, 1), (9, 0), (10, 0), (14, 2), (15, 2)}),
        Clocks([1, 2, 2], cuts={(5, 1), (8, 2), (21, 1)}, pause=1),
        Clocks([1, 1, 1], gone={0, 2}),
        Clocks([1, 40, 1]),
    ],
)
def test_every_step_is_real_and_seams_are_ends(env, traced):
    steps = 8
    for out, info in collect(env, steps, 4, traced):
        check_real(env, out, steps)
        assert 0 < info.env_steps <= steps * env.num_envs
        assert info.scene == {"calls": env.calls} or info.scene["calls"] <= env.calls


def test_only_real_steps_count_and_the_slow_do_not_hold_up(traced):
    env = Clocks([1, 40])
    (out, info), *_ = collect(env, 8, 1, traced)
    assert env.calls <= 17, "twice as long as the fastest needs"
    assert info.env_steps == 8, "the slow row was not answered once: its column is a copy"
    assert np.array_equal(out.obs[:, 1], out.obs[:, 0])
    (_, info), *_ = collect(Clocks([1, 1], gone={0}, length=3), 8, 1, traced)
    assert info.env_steps == 3 + 8


def test_a_whole_copy_goes_on_where_its_source_does(traced):
    (_, _), (out, info) = collect(Clocks([1, 40], length=30), 8, 2, traced)
    assert info.env_steps == 8 and not out.episode_start[0].any()
    assert np.array_equal(out.episode_start[:, 1], out.episode_start[:, 0])
    assert out.trace.last_value[1] == out.trace.last_value[0] and not out.trace.last_start.any()


def test_episodes_are_counted_per_agent_and_cut_ones_are_not(traced):
    env = Clocks([1, 2], length=4, cuts={(2, 0)})
    infos = [info for _, info in collect(env, 8, 3, traced)]
    lengths = [n for info in infos for n in info.lengths]
    assert lengths and set(lengths) == {4}
    assert {r for info in infos for r in info.returns} <= {0 + 1 + 2 + 3, 406}
    assert sum(info.restarts for info in infos) == sum(info.lost_episodes for info in infos) == 1


def test_without_a_trace_a_teacher_gathers_as_well():
    env = Clocks([1, 3], pause=2)
    out = new_rollout(OBS, ACT, 6, 2)
    info = collector_for(env, [0, 1]).collect(6, Mixture(1.0), None, Student(), out)
    assert info.env_steps <= 12 and out.teacher_acted.all()
    for b in range(2):
        for t in range(5):
            going = not (out.terminated[t, b] or out.truncated[t, b])
            assert not going or out.obs[t + 1, b, 2] == out.obs[t, b, 2] + 1


def test_memory_stands_still_in_rows_that_do_not_ask(traced):
    class Counts(Student):
        """Its memory counts the steps that it acted in."""

        def act(self, obs, state, episode_start, noise):
            h = np.zeros((1, len(obs), 1), np.float32) if state is None else state[0].copy()
            h[:, episode_start] = 0
            self.log.append((h[0, :, 0].copy(), obs[:, 2].copy()))
            choice, log_prob, value, _ = super().act(obs, None, episode_start, noise)
            return choice, log_prob, value, (h + 1, h.copy())

    class Spec:
        distribution, lstm, lstm_layers = Family("gaussian", (1,)), 1, 1

    env, student = Clocks([1, 2, 5], pause=1), Counts()
    student.log = []
    collector = collector_for(env, [0, 1, 2])
    for _ in range(3):
        out = new_rollout(OBS, ACT, 6, 3, Spec())
        collector.collect(6, Mixture(0.0, sample=True), student, None, out)
        before = {(b, int(out.obs[0, b, 1]), int(out.obs[0, b, 2])): out.trace.state[b, 0] for b in (0, 1)}
        for (_, _, time), h in before.items():
            assert time in (0, h), "a column begins with the memory before its first step"
    for memory, time in student.log:
        seen = time >= 0  # of rows that ask
        assert np.array_equal(memory[seen], time[seen])


def test_a_jump_start_counts_the_steps_of_each_row():
    env = Clocks([1, 3], length=6)
    collector = collector_for(env, [0, 1])
    for _ in range(3):
        out = new_rollout(OBS, ACT, 18, 2)
        collector.collect(18, Mixture(0.0, jump=3), Student(), Student(), out)
        assert np.array_equal(out.teacher_acted, out.obs[..., 2] < 3)


def test_noise_goes_on_from_the_last_step_of_its_row(monkeypatch):
    """With drawn noise of 0.01 that of step t of an episode is 0.01 (1 + m + ... + m^t)."""

    def draw(*args):
        drawn = behaviour_draw(*args)
        drawn.noise[...] = 0.01
        return drawn

    behaviour_draw = behaviour.draw
    monkeypatch.setattr(behaviour, "draw", draw)
    env = Clocks([1, 3], length=12, pause=2)
    collector = collector_for(env, [0, 1])
    for _ in range(4):
        out = new_rollout(OBS, ACT, 10, 2)
        collector.collect(10, Mixture(0.0, noise=0.1, memory=0.85), Student(), None, out)
        expected = 0.01 * (1 - 0.85 ** (out.obs[..., 2] + 1)) / 0.15
        np.testing.assert_allclose(out.action[..., 0], expected, rtol=1e-5)


class Always(Student):
    """Does the same in every step."""

    observation_space, action_space, family = OBS, ACT, Family("deterministic", (1,))

    def __init__(self, action):
        self._action = action

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        return np.full((len(obs), 1), self._action, np.float32), state


class Remembers(Always):
    """With a memory [1, B, 1] of the steps of the episode, it does a tenth of that."""

    def __init__(self):
        super().__init__(0.0)

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        h = np.zeros((1, len(obs), 1), np.float32) if state is None else np.where(episode_start[:, None], 0, state[0])
        return h[0] / 10, (h + 1, h)


@pytest.mark.parametrize("teacher", [Always(0.9), Remembers()], ids=["without", "with a memory"])
def test_evaluation_of_a_jump_start_counts_the_steps_of_each_row(teacher):
    """Its memory is of both policies and the ages of episodes."""
    env = Clocks([1, 3], length=6, pause=1)
    found = run_episodes(JumpStart(teacher, Remembers(), 3), env, range(5), True)
    assert found.lengths.tolist() == [6] * 5
    for (_, _, step), action in env.given.items():
        assert action == pytest.approx(0.9 if step < 3 and not isinstance(teacher, Remembers) else step / 10)


def test_one_member_of_an_ensemble_plays_an_episode_to_its_end():
    """Its memory is [B] numbers of members."""
    gathered, evaluated = Clocks([1, 2, 5], length=4, pause=1), Clocks([1, 2, 5], length=4, pause=1)
    ensemble = EnsembleActor([Always(-0.5), Always(0.5)], "losses")
    collector_for(gathered, range(3)).collect(40, Mixture(1.0), None, ensemble, new_rollout(OBS, ACT, 40, 3))
    run_episodes(ensemble, evaluated, range(20), True)
    for env in (gathered, evaluated):
        seen = {}
        for (row, life, _), action in env.given.items():
            seen.setdefault((row, life), set()).add(action)
        assert len(seen) >= 20 and all(len(actions) == 1 for actions in seen.values())
        assert set.union(*seen.values()) == {-0.5, 0.5}


def test_evaluation_takes_episodes_in_the_order_in_which_they_begin():
    env = Clocks([1, 2, 3], length=4, pause=1, cuts={(2, 0)})
    visits = []
    found = run_episodes(Student(), env, list(range(7)), True, visits.append)
    assert found.lengths.tolist() == [4] * 7 and set(found.returns.tolist()) <= {6.0, 406.0, 806.0}
    assert len({*found.returns.tolist()}) == 3, "the slow one's episode counts, too"
    assert sum(int(v.active.sum()) for v in visits) == 7 * 4 + 2, "two steps were cut with their episode"
    assert sum(int((v.active & v.starts).sum()) for v in visits) == 8


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Clocks([1, 1, 1]),
        lambda: Clocks([1, 2, 3]),
        lambda: Clocks([1, 1], pause=3),
        lambda: Clocks([1, 1, 2], cuts={(4, 1), (9, 2), (17, 0), (30, 1)}),
        lambda: Clocks([1, 2, 1], gone={1}),
    ],
    ids=["in step", "out of step", "pauses", "cuts", "vanishing"],
)
def test_a_replay_of_them_joins_only_what_belongs_together(make, n_step):
    check_joined(make(), 7, 6, n_step)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    "make",
    [lambda: Clocks([3, 4]), lambda: Clocks([1, 2, 1], pause=3), lambda: Clocks([1, 2, 1], pause=20)],
    ids=["out of step", "pauses", "long pauses"],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_replay_does_not_join_whole_copies_to_what_the_row_did(make, steps, n_step):
    """In short rollouts a row often has no step at all, though its episode goes on."""
    check_joined(make(), steps, 40, n_step)


def check_joined(env, steps, rollouts, n_step):
    """Fill a replay, and look at every transition in it."""
    collector, replay = (
        collector_for(env, range(env.num_envs)),
        Replay(OBS, ACT, env.num_envs, 900, gamma=0.5, n_step=n_step),
    )
    for _ in range(rollouts):
        out = new_rollout(OBS, ACT, steps, env.num_envs, replayed=True)
        collector.collect(steps, Mixture(0.0), Student(), None, out)
        assert np.isnan(out.sequel.chosen).all()
        replay.append(out)
    index = np.flatnonzero(replay.columns["valid"])
    assert len(index) == rollouts * steps * env.num_envs
    batch = replay.batch(index, np.ones(len(index), np.float32))
    for obs, reward, discount, after in zip(batch.obs, batch.reward, batch.discount, batch.next_obs, strict=True):
        row, life, time = (int(x) for x in obs)
        count = int(after[2]) - time
        assert after[:2].tolist() == [row, life] and 1 <= count <= n_step
        assert reward == pytest.approx(sum(0.5**k * (100 * row + time + k) for k in range(count)))
        terminated = time + count == env.length and row % 2 == 1
        assert discount == pytest.approx(0.0 if terminated else 0.5**count)


@pytest.mark.parametrize("periods", [[1, 1], [1, 3], [1, 40]], ids=["in step", "slow", "silent"])
def test_gradient_steps_are_owed_for_real_env_steps(periods):
    """What is a copy makes no warm-up shorter and owes nothing, before and after a resume."""
    given = {
        "env": {"id": "understudy/IdentityBox-v0"}, "rollout": {"num_envs": 2, "steps": 8}, "policy": {"hidden": [4]},
        "replay": {"warm_up": 50, "capacity": 1000, "batch_size": 8}, "update": {"update_to_data": 0.3},
    }  # fmt: skip
    settings = resolve_training(given, "sac")
    spec = replayed_spec(settings, OBS, ACT)
    learner, steps = OffPolicy(replayed_policy(spec, 0, About()), settings), 0
    collector = collector_for(Clocks(periods), [0, 1])
    for i in range(12):
        out = new_rollout(OBS, ACT, 8, 2, replayed=True)
        info = collector.collect(8, Mixture(0.0, uniform=True), Student(), None, out)
        learner.add(out, info)
        steps += info.env_steps
        assert learner.owed == pytest.approx(0.3 * max(steps - 50, 0))
        if i in (3, 8):  # in the warm-up, and after it
            saved = learner.state()
            learner = OffPolicy(replayed_policy(spec, 0, About()), settings)
            learner.restore(*saved)
    assert learner.replay.size == 12 * 8 * 2, "copies are there to learn from all the same"
