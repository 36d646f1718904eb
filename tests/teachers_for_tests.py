"""Teachers written by hand, importable by name (workers load them again by their names)."""

import gymnasium as gym
import numpy as np
import torch

from understudy.data import EnvSpec, Target
from understudy.envs.make import spaces_of
from understudy.envs.probes import Chain
from understudy.policies.family import family_for
from understudy.policies.policy import About


def swing_up(obs):
    """Energy control of the pendulum."""
    cos, sin, speed = np.asarray(obs, dtype=np.float64).T
    angle = np.arctan2(sin, cos)
    energy = 0.5 * speed**2 / 3 + 5 * (cos - 1)
    near = np.abs(angle) < 0.5
    return np.clip(np.where(near, -12 * angle - 3 * speed, -2 * np.sign(speed * energy + 1e-9)), -2, 2)[:, None]


class ByHand:
    """The parts of a policy that the two teachers below share."""

    env = ""
    parameters_count = 0

    def __init__(self):
        self.observation_space, self.action_space = spaces_of(self.env)
        self.about = About("by hand", type(self).__name__, EnvSpec(self.env))
        name = "categorical" if isinstance(self.action_space, gym.spaces.Discrete) else "deterministic"
        self.family = family_for(name, self.action_space)

    def initial_state(self, batch):
        return None


class MemoryTeacher(ByHand):
    """Repeats the cue of the first step in every step; its state is the cue."""

    env = "understudy/Memory-v0"

    def initial_state(self, batch):
        return (torch.zeros(1, batch, 1), torch.zeros(1, batch, 1))

    def _cue(self, obs, cue, start):
        return np.where(start, obs[:, 0] > 0, cue)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        cue = np.zeros(len(observation), bool) if state is None else state
        cue = self._cue(observation, cue, np.ones(len(observation), bool) if episode_start is None else episode_start)
        return cue.astype(np.int64), cue

    def label(self, obs, state=None, episode_start=None):
        cue = state[0][0, :, 0].numpy() > 0.5
        rows = []
        for t in range(len(obs)):
            cue = self._cue(obs[t], cue, episode_start[t])
            rows.append(np.stack([~cue * 8.0, cue * 8.0], axis=1))
        kept = torch.as_tensor(cue, dtype=torch.float32)[None, :, None]
        return Target(torch.as_tensor(np.stack(rows), dtype=torch.float32)), (kept, kept)


def along_the_chain(obs):
    """The right action at every place of the probe."""
    return np.asarray(Chain.wanted(np.asarray(obs).argmax(1)), np.int64)


class PrivilegedTeacher(ByHand):
    """Reads the right action off the key that its student does not see."""

    env = "understudy/Privileged-v0"

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        shown = np.asarray(observation["privileged"])
        return (shown.reshape(len(shown), -1)[:, 0] > 0.5).astype(np.int64), state

    def label(self, obs, state=None, episode_start=None):
        action, _ = self.predict(obs)
        return Target(torch.nn.functional.one_hot(torch.as_tensor(action), 2).float() * 8), None
