"""The only ``env.step`` in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from understudy.data import Rollout
from understudy.envs.base import VectorEnv
from understudy.rollouts.behaviour import Actor, Behaviour, Mixture


@dataclass
class Collected:
    """What people want to know of one rollout."""

    env_steps: int
    returns: list[float] = field(default_factory=list)
    """Returns of the episodes that ended in it, whoever acted."""
    lengths: list[int] = field(default_factory=list)


class Collector:
    """Fills rollouts from B environments; episodes go on from one rollout to the next."""

    def __init__(self, env: VectorEnv, seeds: Sequence[int]) -> None:
        self.env = env
        self.behaviour = Behaviour(env.action_space, seeds)
        self._seeds = list(seeds)
        self.restart(self._seeds)

    def restart(self, seeds: Sequence[int]) -> None:
        """Begin new episodes everywhere, environment i with ``seeds[i]``."""
        self._obs = self.env.reset(seeds)
        self._start = np.ones(self.env.num_envs, dtype=bool)
        self._return = np.zeros(self.env.num_envs)
        self._length = np.zeros(self.env.num_envs, dtype=np.int64)

    def collect(
        self, steps: int, mixture: Mixture, student: Actor | None, teacher: Actor | None, out: Rollout
    ) -> Collected:
        """Act for ``steps`` steps and write them into ``out`` ([T >= steps, B])."""
        info = Collected(steps * self.env.num_envs)
        behaviour, env = self.behaviour, self.env
        behaviour.begin(mixture, student, teacher, steps)
        obs_out = out.obs
        for t in range(steps):
            obs = self._obs
            if isinstance(obs_out, dict):
                assert isinstance(obs, dict)
                for key, array in obs_out.items():
                    array[t] = obs[key]
            else:
                obs_out[t] = obs
            out.episode_start[t] = self._start
            action, teacher_acted = behaviour.act(t, obs, self._start)
            step = env.step(action)
            out.action[t], out.reward[t], out.teacher_acted[t] = action, step.reward, teacher_acted
            out.terminated[t], out.truncated[t] = step.terminated, step.truncated
            self._obs = step.obs
            self._start = step.terminated | step.truncated
            self._return += step.reward
            self._length += 1
            if self._start.any():
                ended = np.flatnonzero(self._start)
                info.returns += self._return[ended].tolist()
                info.lengths += self._length[ended].tolist()
                self._return[ended], self._length[ended] = 0, 0
        return info
