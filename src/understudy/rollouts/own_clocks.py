"""Gathering from environments whose rows have their own clocks: agents of a scene that ask for actions when they like.

A column of a rollout is one row's own history: step t is the t-th time that it was answered, whenever that was. A row
that is ahead acts on without being recorded until the others are there. The rollout is complete when every row that is
there has its T steps, and at the latest when the fastest could have had twice as many. What is missing then, of agents
that are away or too slow, is filled with copies of steps of complete columns, cut off where they begin and end, so that
whoever learns gets whole arrays and nothing but real steps.

Where all rows ask together, nothing of this shows: the same rollout comes out as from any other environment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from understudy.data import Array, Observation, Rollout, Trace, map_obs
from understudy.envs.base import OwnClocksEnv, Step, VectorEnv
from understudy.rollouts.behaviour import Actor, Mixture, pack_state
from understudy.rollouts.collect import Collected, Collector


def collector_for(env: VectorEnv, seeds: Sequence[int]) -> Collector:
    """Return the collector that an environment needs; it begins new episodes, environment i with ``seeds[i]``."""
    return OwnClocksCollector(env, seeds) if getattr(env, "own_clocks", False) else Collector(env, seeds)


class OwnClocksCollector(Collector):
    """Fills rollouts from rows that move when their agents do."""

    in_step = False
    _faults = (0, 0)
    """Failed players and lost episodes that were told so far; those of a reset are told with the next rollout."""

    def restart(self, seeds: Sequence[int]) -> None:
        """Begin new episodes everywhere; every agent begins one when it is first seen."""
        super().restart(seeds)
        self._asks = self._scene.asks.copy()
        self._gaps = np.zeros(self.env.num_envs, bool)
        """[B] rows whose last column does not end where their next one begins."""

    @property
    def _scene(self) -> OwnClocksEnv:
        scene: Any = self.env
        return cast(OwnClocksEnv, scene)

    def _count_faults(self) -> tuple[int, int]:
        return int(self._scene.restarts), int(self._scene.lost_episodes)

    def collect(
        self, steps: int, mixture: Mixture, student: Actor | None, teacher: Actor | None, out: Rollout
    ) -> Collected:
        """Act until the columns of ``out`` ([T >= steps, B]) are full."""
        info = Collected(0)
        filling = _Filling(steps, out, self.env.num_envs)
        self.behaviour.begin(mixture, student, teacher, steps)
        if out.trace is not None:
            pack_state(self.behaviour.student_state(), out.trace.state)
        call = 0
        while not filling.complete(self._asks):
            if call and call % steps == 0:  # the random numbers that were drawn for the rollout are used up
                self.behaviour.begin(mixture, student, teacher, steps)
            self._once(call % steps, filling, info)
            call += 1
        if out.sequel is not None:
            out.sequel.chosen[:steps] = np.nan
            out.episode_start[0, self._gaps] = True  # for a replay, which joins what follows on what
        self._gaps = filling.gaps
        filling.finish(self._asks, self._obs, self.behaviour.value_of if out.trace is not None else None)
        info.env_steps = int(np.minimum(filling.count, steps).sum())
        before, self._faults = self._faults, self._count_faults()
        info.restarts, info.lost_episodes = (now - then for now, then in zip(self._faults, before, strict=True))
        info.scene = self._scene.take_stats()
        return info

    def _once(self, call: int, filling: _Filling, info: Collected) -> None:
        """Act once in the rows that ask, and take in what the environment answers."""
        begin, asks, start = time.perf_counter(), self._asks, self._start
        memory = self.behaviour.memory()
        action, teacher_acted = self.behaviour.act(call, self._obs, start, filling.scratch)
        self.behaviour.keep_memory(memory, ~asks)
        filling.act(call, asks, self._obs, start, action, teacher_acted)
        self._start = start & ~asks
        acted = time.perf_counter()
        step, scene = self.env.step(action), self._scene
        info.act_seconds += acted - begin
        info.env_seconds += time.perf_counter() - acted
        stepped = scene.stepped
        ended = stepped & (step.terminated | step.truncated)
        self._return[stepped] += step.reward[stepped]
        self._length[stepped] += 1
        filling.take_in(step, stepped, scene.cut, self._final_values(step, ended))
        over = np.flatnonzero(ended)
        info.returns += self._return[over].tolist()
        info.lengths += self._length[over].tolist()
        fresh = ended | scene.cut
        self._return[fresh], self._length[fresh] = 0, 0
        self._start |= fresh
        self._obs, self._asks = step.obs, scene.asks.copy()

    def _final_values(self, step: Step, ended: Array) -> Array:
        """Return the values [B] of final observations of truncated episodes, 0 elsewhere."""
        values = np.zeros(self.env.num_envs, np.float32)
        rows = np.flatnonzero(ended & step.truncated)
        if len(rows) and self.behaviour.traced:
            assert step.final_obs is not None
            self._bootstrap(values, step.final_obs, rows)
        return values


class _Filling:
    """The columns of one rollout in the making.

    Attributes:
        count: [B] recorded steps of each row so far.
        scratch: Where the student's choice goes before it is known which step it belongs to.
    """

    def __init__(self, steps: int, out: Rollout, rows: int) -> None:
        self._steps, self._out, self._rows = steps, out, np.arange(rows)
        self.count = np.zeros(rows, np.int64)
        self._open = np.zeros(rows, bool)
        """Rows whose last action is recorded at ``count`` and not answered yet."""
        self._late_value = np.zeros(rows, bool)
        """Rows that are full and whose last value is known."""
        self._beyond = np.zeros(rows, bool)
        """Rows that acted after they were full."""
        self._ahead = 0
        """Calls since the first row was full."""
        self.scratch: Trace | None = None
        if out.trace is not None:
            trace = out.trace
            written = {name: np.zeros_like(getattr(trace, name)) for name in ("choice", "log_prob", "value")}
            self.scratch = replace(trace, **written)

    @property
    def gaps(self) -> Array:
        """[B] rows that lack steps, or made some that are not recorded."""
        return (self.count < self._steps) | self._beyond

    def complete(self, asks: Array) -> bool:
        """Say whether nobody that is there misses a step, or those that do have had time enough."""
        full = self.count >= self._steps
        if not full.any():
            return False
        self._ahead += 1
        return bool((full | ~(asks | self._open)).all()) or self._ahead > self._steps

    def act(self, call: int, asks: Array, obs: Observation, start: Array, action: Array, teacher: Array) -> None:
        """Note what the rows that ask saw and did; full ones tell the value of what came after their last step."""
        out, scratch = self._out, self.scratch
        full = self.count >= self._steps
        self._beyond |= asks & full
        rows = np.flatnonzero(asks & ~full)
        at = self.count[rows], rows
        _put(out.obs, at, obs, rows)
        out.action[at], out.episode_start[at], out.teacher_acted[at] = action[rows], start[rows], teacher[rows]
        self._open[rows] = True
        if scratch is not None and out.trace is not None:
            for into, seen in (
                (out.trace.choice, scratch.choice),
                (out.trace.log_prob, scratch.log_prob),
                (out.trace.value, scratch.value),
            ):
                into[at] = seen[call][rows]
            late = np.flatnonzero(asks & full & ~self._late_value)
            out.trace.last_value[late] = scratch.value[call][late]
            self._late_value[late] = True

    def take_in(self, step: Step, stepped: Array, cut: Array, bootstrap: Array) -> None:
        """Close the steps that were answered, and undo those that never will be."""
        out, trace, ended = self._out, self._out.trace, step.terminated | step.truncated
        rows = np.flatnonzero(stepped & self._open)
        at = self.count[rows], rows
        out.reward[at] = step.reward[rows]
        out.terminated[at], out.truncated[at] = step.terminated[rows], step.truncated[rows]
        self.count[rows] += 1
        self._open[rows] = False
        done = rows[self.count[rows] == self._steps]
        if out.sequel is not None:
            over = rows[ended[rows]]
            if len(over):
                assert step.final_obs is not None
                _put(out.sequel.final_obs, (self.count[over] - 1, over), step.final_obs, over)
            _put(out.sequel.last_obs, done, step.obs, done)
        if trace is not None:
            trace.bootstrap[at] = bootstrap[rows]
            _put(trace.last_obs, done, step.obs, done)
            trace.last_start[done] = ended[done]
            over = done[ended[done]]  # what follows an end is not read; its successor may not even be there
            if len(over):
                assert step.final_obs is not None
                _put(trace.last_obs, over, step.final_obs, over)
            trace.last_value[over] = 0
            self._late_value[over] = True
        self._cut(np.flatnonzero(cut & self._open))

    def _cut(self, rows: Array) -> None:
        """End the episodes of these rows before their open step, whose observation was the last that was seen."""
        out, trace, sequel = self._out, self._out.trace, self._out.sequel
        for row in rows.tolist():
            t = int(self.count[row])
            if t and not (out.terminated[t - 1, row] or out.truncated[t - 1, row]):
                out.truncated[t - 1, row] = True
                if trace is not None:
                    trace.bootstrap[t - 1, row] = trace.value[t, row]
                if sequel is not None:
                    _put(sequel.final_obs, (t - 1, row), out.obs, (t, row))
        self._open[rows] = False

    def finish(self, asks: Array, obs: Observation, value_of: Any) -> None:
        """Complete the columns: last values, and copies where steps are missing.

        Args:
            asks: Rows that wait for an action now.
            obs: What they see.
            value_of: The student's values of observations; None without a trace.
        """
        trace, steps = self._out.trace, self._steps
        full = np.flatnonzero(self.count >= steps)
        if trace is not None:
            rows = np.setdiff1d(full, np.flatnonzero(self._late_value))
            if len(rows):
                trace.last_value[rows] = value_of(
                    map_obs(lambda a: a[rows], trace.last_obs), trace.last_start[rows], rows
                )
        # Episodes that go on in an incomplete column count as truncated by what was seen last.
        waiting = np.flatnonzero(asks & (self.count < steps) & (self.count > 0))
        _put(self._out.obs, (self.count[waiting], waiting), obs, waiting)
        if trace is not None and len(waiting):
            values = value_of(map_obs(lambda a: a[waiting], obs), np.zeros(len(waiting), bool), waiting)
            trace.value[self.count[waiting], waiting] = values
        self._cut(np.union1d(waiting, np.flatnonzero(self._open & (self.count < steps))))
        for k, row in enumerate(np.flatnonzero(self.count < steps).tolist()):
            self._copy(int(full[k % len(full)]), row)

    def _copy(self, source: int, row: int) -> None:
        """Fill the missing steps of a column with the first ones of a complete one.

        With a memory the whole column is replaced: copies in its middle would begin with a memory of something else.
        """
        out, trace, sequel, steps = self._out, self._out.trace, self._out.sequel, self._steps
        begin = int(self.count[row])
        if trace is not None and trace.state.shape[1]:
            self.count[row] = begin = 0
        size = steps - begin
        timed: list[Array] = _arrays(out.obs)
        timed += [out.action, out.reward, out.terminated, out.truncated, out.episode_start, out.teacher_acted]
        if trace is not None:
            timed += [trace.choice, trace.log_prob, trace.value, trace.bootstrap]
        if sequel is not None:
            timed += _arrays(sequel.final_obs)
        for array in timed:
            array[begin:steps, row] = array[:size, source]
        if begin or sequel is not None:  # a whole copy goes on from its own state; a replay would join it to this row's
            out.episode_start[begin, row] = True
        if sequel is not None:
            for array, seen in zip(_arrays(sequel.last_obs), timed, strict=False):
                array[row] = array[source] if begin == 0 else seen[size, source]
        if trace is None:
            return
        trace.state[row] = trace.state[source]
        last = _arrays(trace.last_obs)
        if begin == 0:
            for array in (*last, trace.last_value, trace.last_start):
                array[row] = array[source]
            return
        for array, seen in zip(last, timed, strict=False):
            array[row] = seen[size, source]
        trace.last_value[row], trace.last_start[row] = trace.value[size, source], out.episode_start[size, source]


def _arrays(obs: Observation) -> list[Array]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def _put(into: Observation, at: Any, obs: Observation, rows: Any) -> None:
    if isinstance(into, dict):
        assert isinstance(obs, dict)
        for key, array in into.items():
            array[at] = obs[key][rows]
    else:
        assert not isinstance(obs, dict)
        into[at] = obs[rows]
