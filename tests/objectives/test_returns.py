"""Returns against definitions written out step by step, with episodes that end in odd places."""

import json
import subprocess
import sys

import numpy as np
import pytest

from understudy.errors import UserError
from understudy.objectives.returns import RewardScaler, RunningMoments, gae, next_values, vtrace

T, B, GAMMA, LAM = 9, 5, 0.9, 0.7


def rollout(seed=0, steps=T):
    """Ends at the first, the middle and the last step; environment 4 has both marks at once, 2 none."""
    rng = np.random.default_rng(seed)
    reward, value, bootstrap = rng.normal(size=(3, steps, B)).astype(np.float32)
    terminated, truncated = np.zeros((2, steps, B), bool)
    for mark, t, b in ((terminated, 0, 0), (truncated, 3, 0), (terminated, 8, 1), (truncated, 8, 3), (truncated, 0, 3)):
        mark[min(t, steps - 1), b] = True
    terminated[steps // 2, 4] = truncated[steps // 2, 4] = True
    bootstrap[~truncated] = np.nan  # whatever stands there is not read
    return reward, value, terminated, truncated, bootstrap, rng.normal(size=B).astype(np.float32)


def following(t, b, value, terminated, truncated, bootstrap, last_value):
    if terminated[t, b]:
        return 0.0
    if truncated[t, b]:
        return float(bootstrap[t, b])
    return float(last_value[b] if t == len(value) - 1 else value[t + 1, b])


def naive(reward, value, terminated, truncated, bootstrap, last_value, rho, c, policy_target):
    """Espeholt 2018, eq. 1 as the sum it is: v_s = V_s + sum_t gamma^(t-s) (prod c_i) rho_t delta_t."""
    rest = (terminated, truncated, bootstrap, last_value)
    v, advantage = np.zeros((2, *reward.shape))
    for b in range(reward.shape[1]):
        for s in range(len(reward)):
            v[s, b], factor = value[s, b], 1.0
            for t in range(s, len(reward)):
                delta = float(reward[t, b]) + GAMMA * following(t, b, value, *rest) - float(value[t, b])
                v[s, b] += factor * rho[t, b] * delta
                if terminated[t, b] or truncated[t, b]:
                    break
                factor *= GAMMA * c[t, b]
        for s in range(len(reward)):
            q = float(reward[s, b]) + GAMMA * following(s, b, v, *rest)
            advantage[s, b] = v[s, b] - value[s, b] if policy_target == "gae" else rho[s, b] * (q - value[s, b])
    return advantage, v


def test_next_values_by_hand():
    value = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    terminated, truncated = np.array([[0], [1], [0], [0]], bool), np.array([[0], [0], [1], [0]], bool)
    bootstrap = np.array([[np.nan], [np.nan], [7.0], [np.nan]], np.float32)
    got = next_values(value, terminated, truncated, bootstrap, np.array([9.0], np.float32))
    assert got.ravel().tolist() == [2.0, 0.0, 7.0, 9.0]
    truncated[3] = True
    bootstrap[3] = 8.0
    assert next_values(value, terminated, truncated, bootstrap, np.array([9.0]))[3, 0] == 8.0
    assert value.ravel().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_gae_by_hand():
    # gamma = lam = 1/2. delta = 1 + 1/2 * 2 - 1 = 1 and, terminated, 1 - 2 = -1; A_0 = 1 + 1/4 * -1.
    column = np.array([[1.0], [2.0]], np.float32)
    ends = np.array([[False], [True]])
    advantage, target = gae(np.ones((2, 1), np.float32), column, ends, ~ends & ends, column, column[0], 0.5, 0.5)
    assert advantage.ravel().tolist() == [0.75, -1.0] and target.ravel().tolist() == [1.75, 1.0]


@pytest.mark.parametrize("lam", [0.0, LAM, 1.0])
@pytest.mark.parametrize("steps", [1, 2, T])
def test_gae_equals_its_definition(lam, steps):
    data = rollout(steps=steps)
    advantage, target = gae(*data, GAMMA, lam)
    ones = np.ones((steps, B))
    expected, returns = naive(*data, ones, lam * ones, "gae")
    np.testing.assert_allclose(advantage, expected, atol=2e-6)
    np.testing.assert_allclose(target, returns, atol=2e-6)
    assert advantage.dtype == target.dtype == np.float32


def test_lam_1_is_the_n_step_return_and_values_0_are_monte_carlo():
    reward, value, terminated, truncated, bootstrap, last = rollout()
    _, target = gae(reward, value, terminated, truncated, bootstrap, last, GAMMA, 1.0)
    expected = sum(GAMMA**t * float(reward[t, 2]) for t in range(T)) + GAMMA**T * float(last[2])  # it never ended
    assert target[0, 2] == pytest.approx(expected, rel=1e-5)
    none = np.zeros_like(value)
    returns, same = gae(reward, none, terminated, truncated, none, none[0], GAMMA, 1.0)
    assert returns[0, 2] == pytest.approx(expected - GAMMA**T * float(last[2]), rel=1e-5)
    np.testing.assert_array_equal(returns, same)


@pytest.mark.parametrize("policy_target", ["vtrace", "gae"])
@pytest.mark.parametrize("rho_clip,c_clip", [(1.0, 1.0), (2.0, 0.5), (np.inf, np.inf)])
def test_vtrace_equals_its_definition(policy_target, rho_clip, c_clip):
    data = rollout()
    log_ratio = np.random.default_rng(1).normal(size=(T, B)).astype(np.float32)
    rho, c = np.minimum(rho_clip, np.exp(log_ratio)), LAM * np.minimum(c_clip, np.exp(log_ratio))
    advantage, target = vtrace(log_ratio, *data, GAMMA, LAM, rho_clip, c_clip, policy_target)
    expected, v = naive(*data, rho, c, policy_target)
    np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(target, v, rtol=1e-4, atol=1e-5)
    assert advantage.dtype == target.dtype == np.float32


def test_vtrace_on_policy_is_gae_exactly():
    data = rollout()
    on_policy = np.zeros((T, B), np.float32)
    for ours, theirs in zip(
        vtrace(on_policy, *data, GAMMA, LAM, policy_target="gae"), gae(*data, GAMMA, LAM), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_vtrace_bounds_huge_ratios_and_names_its_targets():
    data = rollout()
    advantage, target = vtrace(np.full((T, B), 1e4, np.float32), *data, GAMMA, LAM)
    assert np.isfinite(advantage).all() and np.isfinite(target).all()
    assert np.isnan(vtrace(np.full((T, B), np.nan, np.float32), *data, GAMMA, LAM)[1]).all()
    with pytest.raises(UserError, match="'gea' is unknown; did you mean gae"):
        vtrace(np.zeros((T, B)), *data, GAMMA, LAM, policy_target="gea")


def test_nothing_is_changed_in_place():
    data = rollout()
    copies = [a.copy() for a in data]
    gae(*data, GAMMA, LAM)
    vtrace(np.zeros((T, B), np.float32), *data, GAMMA, LAM)
    RewardScaler(B, GAMMA).scale(data[0], data[2], starts(data[2]))
    for now, before in zip(data, copies, strict=True):
        np.testing.assert_array_equal(now, before)


def test_running_moments_equal_those_of_everything_at_once():
    rng = np.random.default_rng(0)
    data = (1e4 + rng.normal(size=(40, 3)) * [1, 10, 0.1]).astype(np.float32)
    moments = RunningMoments((3,))
    assert moments.var.tolist() == [1, 1, 1] and moments.count == 0
    for begin, end in ((0, 1), (1, 1), (1, 20), (20, 40)):  # one row, none, many
        moments.update(data[begin:end])
    np.testing.assert_allclose(moments.mean, data.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, data.astype(np.float64).var(0), rtol=1e-6)
    assert moments.count == 40 and moments.mean.dtype == np.float64
    with pytest.raises(ValueError, match="shape"):
        moments.update(data[:, :2])


def reference_scale(reward, ended, start, gamma):
    """Step by step: the discounted return of each environment, and the variance of all of them."""
    running, seen = np.zeros(reward.shape[1]), []
    for r, e, s in zip(reward.astype(np.float64), ended, start, strict=True):
        running[s] = 0
        running = gamma * running + r
        seen.append(running.copy())
        running[e] = 0
    return np.array(seen)


def starts(ended):
    """The first steps of episodes of which none was cut off."""
    return np.concatenate([np.ones_like(ended[:1]), ended[:-1]])


def test_reward_scaler_equals_a_step_by_step_reference():
    """Also where an episode was cut off without an end, by a checkpoint or with its worker."""
    rng = np.random.default_rng(3)
    reward = (rng.normal(size=(60, 4)) * 5 + 1).astype(np.float32)
    ended = rng.random((60, 4)) < 0.15
    ended[19], ended[39] = [True, False, False, True], True  # episodes that end with the rollout, and go on beyond it
    start = starts(ended)
    start[20, 2] = start[48, 1] = True
    assert not ended[19, 2] and not ended[47, 1]
    seen, scaler = reference_scale(reward, ended, start, GAMMA), RewardScaler(4, GAMMA)
    for end in (20, 40, 60):
        scaled = scaler.scale(*(a[end - 20 : end] for a in (reward, ended, start)))
        expected = np.clip(reward[end - 20 : end] / np.sqrt(seen[:end].var() + 1e-8), -10, 10)
        np.testing.assert_allclose(scaled, expected, rtol=1e-6)
        assert scaled.dtype == np.float32
    assert scaler.factor == pytest.approx(1 / seen.std())


def test_reward_scaler_clips_and_keeps_zero():
    scaler = RewardScaler(1, 0.99)
    never = np.zeros((5000, 1), bool)
    assert scaler.scale(np.zeros((50, 1), np.float32), never[:50], never[:50]).max() == 0
    rare = np.zeros((5000, 1), np.float32)
    rare[7], rare[9] = 1, -1
    scaled = RewardScaler(1, 0.0).scale(rare, never, never)  # a deviation of 0.02
    assert scaled[7] == 10 and scaled[9] == -10


def test_resume_is_exact():
    rng = np.random.default_rng(4)
    reward, ended = rng.normal(size=(30, 4)).astype(np.float32), rng.random((30, 4)) < 0.1
    start = starts(ended)
    first, second = RewardScaler(4, GAMMA), RewardScaler(4, GAMMA)
    first.scale(reward[:17], ended[:17], start[:17])
    saved = {name: np.asarray(json.loads(json.dumps(a.tolist()))) for name, a in first.state().items()}  # any medium
    second.restore(saved)
    rest = reward[17:], ended[17:], start[17:]
    np.testing.assert_array_equal(first.scale(*rest), second.scale(*rest))
    with pytest.raises(UserError, match="not saved for 3 environments"):
        RewardScaler(3, GAMMA).restore(saved)
    with pytest.raises(UserError, match="do not have the shape"):
        RunningMoments((2,)).restore(saved)


def test_needs_no_torch():
    code = "import sys, understudy.objectives.returns; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
