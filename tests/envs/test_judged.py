"""Policies are judged without what only learning is helped by, wherever they are."""

import importlib.util
from types import SimpleNamespace

import pytest

from understudy.data import EnvSpec
from understudy.envs.judged import judged
from understudy.envs.make import env_backend, spaces_of
from understudy.evaluation.contestants import resolve_all
from understudy.evaluation.evaluate import evaluate
from understudy.execution.base import EvaluationJob, Setup
from understudy.execution.station import Station

AIDS = {"episodic_life": True, "reward_clipping": True}
LEARNT_IN = EnvSpec("ALE/Breakout-v5", wrappers=({"type": "atari", "noop_max": 5, **AIDS},))
JUDGED_IN = EnvSpec("ALE/Breakout-v5", wrappers=({"type": "atari", "noop_max": 5},))
OTHER = EnvSpec("CartPole-v1", {"max_episode_steps": 9}, ({"type": "time_limit", "max_steps": 3},))
atari = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")


@pytest.mark.parametrize("aids", [AIDS, {"terminal_on_life_loss": True, "clip_reward": True}, {"episodic_life": False}])
def test_only_the_aids_are_left_out(aids):
    stacked = ({"type": "atari", "screen_size": 42, **aids}, {"type": "frame_stack", "n": 2})
    plain = ({"type": "atari", "screen_size": 42}, {"type": "frame_stack", "n": 2})
    assert judged(EnvSpec("ALE/Pong-v5", wrappers=stacked)) == EnvSpec("ALE/Pong-v5", wrappers=plain)
    assert judged(OTHER) == OTHER and judged(JUDGED_IN) == JUDGED_IN
    tasks = EnvSpec("multitask", {"tasks": ["CartPole-v1", LEARNT_IN.to_json()], "weights": [1, 2]})
    found = judged(tasks)
    assert found.kwargs["tasks"] == [EnvSpec("CartPole-v1").to_json(), JUDGED_IN.to_json()]
    assert found.kwargs["weights"] == [1, 2] and judged(found) == found


@atari
def test_everyone_counts_alike():
    """The evaluator beside training and ``evaluate`` play the same whole games, with points that are not 1."""
    clipped = EnvSpec("ALE/MsPacman-v5", wrappers=({"type": "atari", "frame_skip": 16, "screen_size": 21, **AIDS},))
    assert spaces_of(clipped) == spaces_of(judged(clipped)) and env_backend(clipped) == env_backend(judged(clipped))
    station = Station(Setup(clipped, (0,), 8, None, None), range(1), 1)
    episodes = station.evaluate(EvaluationJob("random", (3,)), (3,))
    station.close()
    found = evaluate("random", clipped, 1, seed=3, num_envs=1)
    assert (found.mean, found.mean_length) == (episodes.returns[0], episodes.lengths[0])
    whole = evaluate("random", judged(clipped), 1, seed=3, num_envs=1)
    assert found.mean == whole.mean >= 100 and found.mean % 10 == 0  # a pill is 10 points


@atari
def test_a_comparison_knows_equal_environments():
    def player(env):
        return SimpleNamespace(predict=None, about=SimpleNamespace(env=env))

    pair = resolve_all([player(LEARNT_IN), player(JUDGED_IN), "random"], None, None, 0)
    assert [one.env for one in pair] == [JUDGED_IN] * 3
