"""The only ``env.step`` in training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from understudy.data import Array, Observation, Rollout, Sequel, map_obs
from understudy.envs.base import Step, VectorEnv
from understudy.rollouts.behaviour import Actor, Behaviour, Mixture, pack_state


@dataclass
class Collected:
    """What people want to know of one rollout."""

    env_steps: int
    returns: list[float] = field(default_factory=list)
    """Returns of the episodes that ended in it, whoever acted."""
    lengths: list[int] = field(default_factory=list)
    env_seconds: float = 0.0
    """Wall seconds inside the environments; of the slowest worker where there are several."""
    act_seconds: float = 0.0
    """Wall seconds spent on choosing actions; of the same worker."""
    learn_seconds: float = 0.0
    """Wall seconds spent on learning, by a worker that learns itself."""
    version: int = 0
    """Of the student's weights, where an execution counts them."""
    lag: float = 0.0
    """How many updates the weights that acted were behind those that learn from it."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the updates that the workers made themselves, where they do."""
    restarts: int = 0
    """Simulators that failed in it and were replaced by their environment."""
    lost_episodes: int = 0
    """Unfinished episodes that went with them."""
    scene: dict[str, float] = field(default_factory=dict)
    """What the environments reported of themselves."""
    envs: tuple[int, ...] = ()
    """The environment of every column of the rollout, where columns are not simply all environments in turn."""


def merge_collected(parts: Sequence[Collected]) -> Collected:
    """Join what was gathered side by side; the seconds are those of the slowest."""
    names = sorted({name for part in parts for name in part.scene})
    slowest = max(parts, key=lambda part: part.env_seconds + part.act_seconds)
    return Collected(
        sum(part.env_steps for part in parts),
        [r for part in parts for r in part.returns],
        [n for part in parts for n in part.lengths],
        slowest.env_seconds,
        slowest.act_seconds,
        slowest.learn_seconds,
        min(part.version for part in parts),
        float(np.mean([part.lag for part in parts])),
        restarts=sum(part.restarts for part in parts),
        lost_episodes=sum(part.lost_episodes for part in parts),
        scene={name: float(np.mean([p.scene[name] for p in parts if name in p.scene])) for name in names},
        envs=tuple(env for part in parts for env in part.envs),
    )


class Collector:
    """Fills rollouts from B environments; episodes go on from one rollout to the next."""

    in_step = True
    """Whether what acting computes in its call t belongs to step t of every column."""

    def __init__(self, env: VectorEnv, seeds: Sequence[int]) -> None:
        self.env = env
        self.restart(seeds)

    def restart(self, seeds: Sequence[int]) -> None:
        """Begin new episodes everywhere, environment i with ``seeds[i]``, which its random actions follow as well."""
        self._obs = self.env.reset(seeds)
        self.behaviour = Behaviour(self.env.action_space, seeds)  # some environments know their spaces only now
        self._start = np.ones(self.env.num_envs, dtype=bool)
        self._return = np.zeros(self.env.num_envs)
        self._length = np.zeros(self.env.num_envs, dtype=np.int64)

    def collect(
        self, steps: int, mixture: Mixture, student: Actor | None, teacher: Actor | None, out: Rollout
    ) -> Collected:
        """Act for ``steps`` steps and write them into ``out`` ([T >= steps, B]), with its trace where it has one."""
        info = Collected(steps * self.env.num_envs)
        behaviour, env, clock = self.behaviour, self.env, time.perf_counter
        behaviour.begin(mixture, student, teacher, steps)
        trace, sequel = out.trace, out.sequel
        if trace is not None:
            pack_state(behaviour.student_state(), trace.state)
        obs_out = out.obs
        for t in range(steps):
            obs, begin = self._obs, clock()
            if isinstance(obs_out, dict):
                assert isinstance(obs, dict)
                for key, array in obs_out.items():
                    array[t] = obs[key]
            else:
                obs_out[t] = obs
            out.episode_start[t] = self._start
            action, teacher_acted = behaviour.act(t, obs, self._start, trace, sequel)
            acted = clock()
            step = env.step(action)
            stepped = clock()
            info.act_seconds += acted - begin
            info.env_seconds += stepped - acted
            out.action[t], out.reward[t], out.teacher_acted[t] = action, step.reward, teacher_acted
            out.terminated[t], out.truncated[t] = step.terminated, step.truncated
            self._obs = step.obs
            self._start = step.terminated | step.truncated
            self._return += step.reward
            self._length += 1
            if trace is not None:
                trace.bootstrap[t] = 0
            if self._start.any():
                if sequel is not None:
                    self._keep_final(sequel, t, step)
                if trace is not None and step.truncated.any():
                    assert step.final_obs is not None
                    self._bootstrap(trace.bootstrap[t], step.final_obs, np.flatnonzero(step.truncated))
                ended = np.flatnonzero(self._start)
                info.returns += self._return[ended].tolist()
                info.lengths += self._length[ended].tolist()
                self._return[ended], self._length[ended] = 0, 0
        for after in (trace, sequel):
            if after is not None:
                _write(after.last_obs, self._obs)
        if trace is not None:
            trace.last_start[...] = self._start
            trace.last_value[...] = self.behaviour.value_of(self._obs, self._start)
        if sequel is not None and behaviour.values:
            sequel.last_value[...] = behaviour.greatest_value(self._obs)
        elif sequel is not None:
            sequel.chosen[:steps] = np.nan
        return info

    def _keep_final(self, sequel: Sequel, step: int, seen: Step) -> None:
        """Write the final observations of step ``step``, and their values where time ran out."""
        assert seen.final_obs is not None
        ended = np.flatnonzero(self._start)
        for key, array in sequel.final_obs.items() if isinstance(sequel.final_obs, dict) else [("", sequel.final_obs)]:
            array[step, ended] = (seen.final_obs[key] if isinstance(seen.final_obs, dict) else seen.final_obs)[ended]
        late = np.flatnonzero(seen.truncated)
        if self.behaviour.values and len(late):
            obs = map_obs(lambda a: a[late], seen.final_obs)
            sequel.final_value[step, late] = self.behaviour.greatest_value(obs)

    def _bootstrap(self, out: Array, final_obs: Observation, rows: Array) -> None:
        """Write the values of the final observations in these rows."""
        obs = map_obs(lambda a: a[rows], final_obs)
        out[rows] = self.behaviour.value_of(obs, np.zeros(len(rows), bool), rows)


def _write(into: Observation, obs: Observation) -> None:
    for key, array in into.items() if isinstance(into, dict) else [("", into)]:
        array[...] = obs[key] if isinstance(obs, dict) else obs
