"""The dataset: what is kept, windows for recurrent students, the ring."""

import numpy as np
import pytest

from understudy.data import Rollout
from understudy.errors import UserError
from understudy.rollouts.dataset import Dataset


def rollout(steps, envs, offset=0):
    """Observation = 1000 * environment + time, so that every sample tells where it came from."""
    obs = offset + np.arange(steps)[:, None] + 1000.0 * np.arange(envs)[None]
    flags = [np.zeros((steps, envs), bool) for _ in range(4)]
    labels = {"params": np.repeat(obs[..., None], 2, axis=2)}
    return Rollout(obs[..., None], obs, obs.astype(np.float32), *flags), labels


def test_labels_stay_with_their_states():
    dataset = Dataset(100)
    dataset.append(*rollout(5, 3))
    dataset.append(*rollout(5, 3, offset=50))
    assert dataset.size == 30
    index = dataset.indices(np.random.default_rng(0), 64)[:, 0]
    np.testing.assert_array_equal(dataset.observations(index)[:, 0], dataset.columns["params"][index][:, 1])


def test_windows_are_consecutive_steps_of_one_environment():
    dataset = Dataset(1000, window=5)
    dataset.append(*rollout(20, 4))
    index = dataset.indices(np.random.default_rng(0), 100)
    assert index.shape == (20, 5)
    times = dataset.observations(index)[..., 0]
    assert (np.diff(times, axis=1) == 1).all()


def test_the_oldest_are_overwritten():
    dataset = Dataset(25)
    for offset in (0, 100, 200):
        where = dataset.append(*rollout(5, 2, offset))
    assert dataset.size == 20 and where == slice(0, 10)
    assert set(np.unique(dataset.observations(slice(0, 20)) // 100 % 10)) == {1, 2}


def test_refusals():
    with pytest.raises(UserError, match="do not divide into sequences of 3"):
        Dataset(100, window=3).append(*rollout(5, 1))
    with pytest.raises(UserError, match="cannot hold one rollout of 10 samples"):
        Dataset(5).append(*rollout(5, 2))
