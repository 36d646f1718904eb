"""Updates in two halves: a second process changes no bit of the result, and its death no run."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from understudy.execution.line import LineError
from understudy.learning import continuous_updates, two_halves
from understudy.learning.continuous_learner import ContinuousLearner
from understudy.learning.from_replay import replayed_policy, replayed_spec
from understudy.learning.two_halves import _BOUT, _LATE, _LOOK, _SOON, ALONE, TOGETHER, Pace, TwoHalves
from understudy.policies.policy import About
from understudy.rollouts.replay import ReplayBatch
from understudy.training import resolve_training

OBS, ACT, N = gym.spaces.Box(-1, 1, (5,)), gym.spaces.Box(-2, 2, (3,)), 61


def learner_of(preset, threads, timeout=60.0, restarts=10, **more):
    given = {"env": {"id": "Pendulum-v1"}, "policy": {"hidden": [160, 144]}, **more}
    given["execution"] = {"learner_threads": threads, "worker_timeout": timeout, "restarts": restarts}
    settings = resolve_training(given, preset)
    return ContinuousLearner(replayed_policy(replayed_spec(settings, OBS, ACT), 0, About()), settings)


def batch_of(seed):
    rng = np.random.default_rng(seed)
    obs, after = (rng.normal(size=(N, 5)).astype(np.float32) for _ in range(2))
    action = rng.uniform(-1, 1, (N, 3)).astype(np.float32)
    reward, weight = rng.normal(size=N).astype(np.float32), rng.uniform(0.1, 1, N).astype(np.float32)
    return ReplayBatch(obs, action, reward, np.full(N, 0.99, np.float32), after, np.arange(N), weight)


def halves_of(learner):
    return learner._nets.halves


def until(condition, seconds=60.0):
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "waited in vain"
        time.sleep(0.01)


def together(learner):
    """Wait for the second process and let it take part from the next update on."""
    halves = halves_of(learner)
    until(lambda: halves.partner.ready)
    halves.pace.way = TOGETHER
    return halves


def learn(learner, count, first=0):
    for seed in range(first, first + count):
        learner.update(batch_of(seed), 1e-3)


def everything(learner):
    arrays, data = learner.state()
    return {name: array.copy() for name, array in (arrays | learner.weights()).items()}, data, learner.metrics()


CASES = [
    ("sac", {"update": {"max_grad_norm": 0.1}, "objective": {"critics": 3}}),
    ("td3", {"update": {"max_grad_norm": 0.1}}),
    ("ddpg", {}),
]


@pytest.mark.parametrize(("preset", "more"), CASES)
def test_a_second_process_changes_no_bit(preset, more):
    alone, beside = learner_of(preset, 1, **more), learner_of(preset, 2, **more)
    try:
        together(beside)
        for learner in (alone, beside):
            learn(learner, 24)
        (ours, data, metrics), (theirs, other_data, other_metrics) = everything(alone), everything(beside)
        assert halves_of(beside).pace.way == TOGETHER
        assert (data, metrics) == (other_data, other_metrics)
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], name)
    finally:
        beside.close()


def test_the_actor_and_both_critics_move_with_either():
    learner = learner_of("td3", 1)
    before, _, _ = everything(learner)
    learn(learner, 2)
    after, _, _ = everything(learner)
    for name in ("actor:params", "critics:params", "target:actor", "target:critics"):
        cut = len(before[name]) // 2
        for part in (slice(0, cut), slice(cut, None)):
            assert (before[name][part] != after[name][part]).mean() > 0.9, name


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_is_replaced(sign, capfd):
    learner = learner_of("sac", 2, timeout=5.0)
    try:
        halves = together(learner)
        learn(learner, 3)
        first = halves.partner.pid
        os.kill(first, sign)
        learn(learner, 2, 3)
        assert halves.partner is None
        assert halves.restarts == learner.restarts_used == 1
        said = capfd.readouterr().err
        assert {signal.SIGKILL: "died (exit code -9)", signal.SIGSTOP: "was silent for 5 s"}[sign] in said
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        learn(learner, _BOUT, 5)
        assert halves.partner.pid != first
        together(learner)
        learn(learner, 3, 50)
        assert halves.restarts == 1
        assert all(np.isfinite(array).all() for array in everything(learner)[0].values())
    finally:
        learner.close()


def test_after_the_last_restart_the_learner_stays_alone(capfd):
    learner = learner_of("sac", 2, restarts=0)
    try:
        halves = together(learner)
        os.kill(halves.partner.pid, signal.SIGKILL)
        learn(learner, 2 * _BOUT + 1)
        assert halves.partner is None
        assert "this one does its work from now on" in capfd.readouterr().err
    finally:
        learner.close()


def test_what_the_second_process_raises_is_shown(capfd):
    plan = halves_of(learner_of("sac", 1))._place.plan
    halves = TwoHalves(replace(plan, activation="unknown"), shared=True, at_once=True)
    try:
        with pytest.raises(LineError, match="raised an error"):
            until(lambda: halves.partner.ready)
        assert "KeyError: 'unknown'" in capfd.readouterr().err
    finally:
        halves.close()


def test_an_update_that_was_interrupted_leaves_nobody_writing():
    learner = learner_of("sac", 2)
    try:
        halves = together(learner)
        pid = halves.partner.pid

        def interrupted():
            yield
            raise KeyboardInterrupt

        learn(learner, 1)
        kept, halves._halves[0].update = halves._halves[0].update, interrupted
        with pytest.raises(KeyboardInterrupt):
            learn(learner, 1)
        halves._halves[0].update = kept
        arrays, _, _ = everything(learner)
        assert halves.partner is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert all(np.isfinite(array).all() for array in arrays.values())
    finally:
        learner.close()


def test_no_second_process_outlives_its_learner(tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_two_halves import *\n"
        "learner = learner_of('sac', 2); together(learner); learn(learner, 2)\n"
        "print(halves_of(learner).partner.pid, flush=True); time.sleep(60)"
    )
    here = os.path.dirname(__file__)
    with subprocess.Popen([sys.executable, "-c", script, here], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()

    def gone():
        try:
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    until(gone)


@pytest.mark.parametrize(("hidden", "starts"), [([16], False), ([256, 256], True)])
def test_wide_networks_start_a_process_by_themselves(monkeypatch, hidden, starts):
    monkeypatch.setattr(two_halves, "_SECONDS", 0.0)
    monkeypatch.setattr(continuous_updates, "cores", lambda: 2)
    learner = learner_of("sac", 0, policy={"hidden": hidden})
    try:
        learn(learner, _BOUT)
        assert (halves_of(learner).partner is not None) == starts
    finally:
        learner.close()


def test_on_one_core_no_process_is_started(monkeypatch):
    monkeypatch.setattr(two_halves, "_SECONDS", 0.0)
    monkeypatch.setattr(continuous_updates, "cores", lambda: 1)
    learner = learner_of("sac", 0, policy={"hidden": [256, 256]})
    learn(learner, _BOUT)
    assert halves_of(learner).partner is None


def until_way(pace, seconds, way):
    """Return the bouts that it takes until the pace goes this way."""
    for count in range(1000):
        if pace.way == way:
            return count
        bout(pace, seconds)
    raise AssertionError("never")


def bout(pace, seconds, both=True):
    """Take the updates of one bout, as long as ``seconds`` says for the way they go; return the way."""
    way = pace.way
    for count in range(1, _BOUT + 1):
        if pace.note(seconds[way], both):
            assert count in (_LOOK, _BOUT)
            return way
    raise AssertionError("a bout without an end")


def test_the_pace_takes_the_faster_way_and_looks_again():
    pace, seconds = Pace(), {ALONE: 0.008, TOGETHER: 0.005}
    assert [bout(pace, seconds, both=False) for _ in range(3)] == [ALONE] * 3
    assert [bout(pace, seconds) for _ in range(3)] == [ALONE, TOGETHER, TOGETHER]
    seconds[TOGETHER] = 0.01  # somebody else needs the core
    assert until_way(pace, seconds, ALONE) <= _SOON
    ways = [bout(pace, seconds) for _ in range(4 * _LATE)]
    assert 3 <= ways.count(TOGETHER) <= 9  # at first soon again, then ever more rarely
    seconds[TOGETHER] = 0.005
    assert until_way(pace, seconds, TOGETHER) <= _LATE
    ways = [bout(pace, seconds) for _ in range(4 * _LATE)]
    assert 3 <= ways.count(ALONE) <= 9


def test_one_bad_moment_does_not_keep_the_second_process_away():
    pace, seconds = Pace(), {ALONE: 0.008, TOGETHER: 0.005}
    for _ in range(200):
        bout(pace, seconds)
    until_way(pace, seconds, TOGETHER)
    bout(pace, {ALONE: 0.008, TOGETHER: 0.02})
    assert pace.way == ALONE
    assert until_way(pace, seconds, TOGETHER) <= 2 * _SOON + 1


def test_a_process_that_was_lost_is_not_asked():
    pace, seconds = Pace(), {ALONE: 0.008, TOGETHER: 0.005}
    for _ in range(9):
        bout(pace, seconds)
    pace.lost()
    assert pace.way == ALONE
