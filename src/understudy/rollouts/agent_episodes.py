"""Evaluation episodes where agents come and go by themselves, and nobody can tell one to begin.

The environment is reset once. The first N episodes that *begin* count, each to its end, however many others have ended
meanwhile: which episodes count is decided before anything is known of them, so that short ones do not count more often.
Seeds stand for numbers here; the simulator's own seed decides what happens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from understudy.data import Array, map_obs
from understudy.envs.base import OwnClocksEnv, Step
from understudy.rollouts.behaviour import keep_rows
from understudy.rollouts.episodes import Acts, Episodes, Visit, check_action, endless


def run_agent_episodes(
    policy: Acts,
    env: OwnClocksEnv,
    seeds: Sequence[int],
    deterministic: bool,
    on_step: Callable[[Visit], None] | None,
    max_steps: int,
) -> Episodes:
    """Play as many episodes as there are seeds; see ``run_episodes``.

    Raises:
        UserError: The policy's action is NaN or infinite, or an episode does not end.
    """
    begin = time.perf_counter()
    book = _Book(len(seeds), env.num_envs)
    obs, asks = env.reset(np.resize(np.asarray(seeds, np.int64), env.num_envs).tolist()), env.asks.copy()
    start, calls = np.ones(env.num_envs, bool), 0
    state: Any = None
    while not book.complete:
        book.enrol(asks & start)
        action, after = policy.predict(obs, state, start, deterministic)
        state = keep_rows(after, state, ~asks)
        counts = asks & (book.number >= 0)
        check_action(policy, action, counts, calls)
        seen = map_obs(np.copy, obs) if on_step is not None else obs
        first, start = start & asks, start & ~asks
        step = env.step(action)
        if on_step is not None:
            on_step(Visit(seen, action, step.reward, counts, calls, first))
        start |= book.take_in(step, env.stepped, env.cut)
        obs, asks, calls = step.obs, env.asks.copy(), calls + 1
        if (book.lengths > max_steps).any():
            raise endless(env, int(seeds[int(book.lengths.argmax())]), max_steps)
    return Episodes(book.returns, book.lengths, np.asarray(seeds, np.int64), time.perf_counter() - begin)


class _Book:
    """Which episode each row plays, and what was earned in it.

    Attributes:
        returns: [N] so far.
        lengths: [N] so far.
        number: [B] the episode of each row, -1 for one that does not count.
    """

    def __init__(self, episodes: int, rows: int) -> None:
        self.returns, self.lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        self.number = np.full(rows, -1)
        self._waiting, self._running = deque(range(episodes)), 0

    @property
    def complete(self) -> bool:
        """Whether all have ended."""
        return not self._waiting and not self._running

    def enrol(self, beginning: Array) -> None:
        """Give rows [B] bool, which begin an episode now, a number as long as there are some."""
        for row in np.flatnonzero(beginning & (self.number < 0)).tolist():
            if self._waiting:
                self.number[row] = self._waiting.popleft()
                self._running += 1

    def take_in(self, step: Step, stepped: Array, cut: Array) -> Array:
        """Add what was earned; returns [B] bool, the rows whose episode is over."""
        rows = np.flatnonzero(stepped & (self.number >= 0))
        self.returns[self.number[rows]] += step.reward[rows]
        self.lengths[self.number[rows]] += 1
        ended: Array = stepped & (step.terminated | step.truncated)
        for row in np.flatnonzero(cut & (self.number >= 0)).tolist():
            # The simulator failed: another episode is played in its place.
            number = int(self.number[row])
            self.returns[number], self.lengths[number] = 0, 0
            self._waiting.appendleft(number)
        over: Array = ended | cut
        self._running -= int(np.count_nonzero(over & (self.number >= 0)))
        self.number[over] = -1
        return over
