"""The replay: experience that is learnt from again and again, in preallocated arrays.

Every environment has a ring of its own, in which its steps stand in the order of time. A row holds one observation and
what was done there; the observation that followed stands in the next row, so that none is kept twice. Where an episode
ends, one more row without an action holds its final observation. n-step returns are therefore exact: they are summed
up when a batch is drawn, and end where an episode does. Of stacked pictures a row holds the newest alone
(``stored_observations``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation, Rollout, map_obs
from understudy.errors import UserError
from understudy.policies.family import ActionMap
from understudy.rollouts.priorities import SumTree
from understudy.rollouts.replay_bytes import NO_STACKS, row_bytes, step_columns
from understudy.rollouts.stored_observations import StoredObservations

EPSILON = 1e-6
"""Added to the error of every transition, so that none is never drawn again (Schaul 2016, section 3.3)."""

_DRAWN = 4_000_000
"""Bytes of transitions that are drawn at once, about."""


class ReplayBatch(NamedTuple):
    """N transitions; the rewards of up to n steps are summed up."""

    obs: Observation
    """[N, ...]."""
    action: Array
    """[N, A] float32 unit actions, or [N] int64 choices."""
    reward: Array
    """[N] float32, sum of gamma^k r_k."""
    discount: Array
    """[N] float32, what the value of ``next_obs`` counts: gamma^n, or 0 where the task ended."""
    next_obs: Observation
    """[N, ...] what was seen n steps later, or last before the episode ended."""
    place: Array
    """[N] where they stand in the replay."""
    weight: Array
    """[N] float32, importance weights, 1 where sampling is uniform."""


@dataclass(frozen=True)
class Prioritised:
    """Prioritised replay (Schaul 2016): P(i) = p_i^alpha / sum, p_i = |TD error| + 1e-6."""

    alpha: float = 0.6


class Replay:
    """The newest experience of B environments.

    ``valid`` rows hold a transition; ``ended`` ones are the last of an episode (or of what is known of it, where a
    worker was lost: then the row after them holds what was seen last, and is bootstrapped from).
    """

    def __init__(
        self,
        observation: gym.Space[Any],
        action: gym.Space[Any],
        envs: int,
        capacity: int,
        *,
        gamma: float,
        n_step: int = 1,
        prioritised: Prioritised | None = None,
        stacks: Mapping[str, int] = NO_STACKS,
    ) -> None:
        """Allocate; pages are taken from the system as they fill.

        Args:
            observation: Space of one environment.
            action: Of one environment.
            envs: B.
            capacity: Rows over all environments.
            gamma: Discount.
            n_step: Rewards that are summed up before the value is bootstrapped.
            prioritised: How transitions are drawn; None for uniformly.
            stacks: By key, how many pictures an observation stacks, if only the newest is to be kept.
        """
        self._rows = max(capacity // envs, 2) + 1
        self._envs, self._gamma, self._n_step = envs, gamma, n_step
        self._map = ActionMap(action)
        self._size = self._rows * envs
        self._seen = StoredObservations(observation, self._size, envs, stacks)
        own = {name: np.zeros((self._size, *shape), kind) for name, (shape, kind) in step_columns(action).items()}
        self.columns: dict[str, Array] = {**self._seen.columns, **own}
        self._bytes = row_bytes(observation, action)  # of what is drawn, so with whole stacks
        self._count = np.zeros(envs, np.int64)
        """Rows ever written in each environment's ring; the row after them holds what was seen last."""
        self._running = np.zeros(envs, bool)
        """Whether the episode of the newest row goes on."""
        self._alpha = None if prioritised is None else prioritised.alpha
        self._tree = None if prioritised is None else SumTree(self._size)
        self._greatest = 1.0
        self.added = 0
        """Env steps ever added; copies, which fill up rollouts of rows with their own clocks, are none."""

    @property
    def size(self) -> int:
        """Transitions that can be drawn."""
        return int(np.count_nonzero(self.columns["valid"]))

    def clear(self) -> None:
        """Forget everything."""
        self.columns["valid"][:] = False
        self._count[:], self._running[:] = 0, False
        if self._tree is not None:
            self._tree.set(np.arange(self._size), 0.0)
        self._greatest, self.added = 1.0, 0

    def check_room(self, steps: int) -> None:
        """See that a rollout of so many steps, each the end of an episode perhaps, fits into every ring.

        Raises:
            UserError: It may not.
        """
        needed = (2 + self._seen.before) * steps
        if needed >= self._rows:
            raise UserError(
                f"replay.capacity {self._envs * (self._rows - 1)} is too small for rollouts of {steps} steps: take "
                f"--replay.capacity {self._envs * needed} or more, or lower --rollout.steps"
            )

    def append(
        self,
        rollout: Rollout,
        envs: tuple[int, ...] = (),
        errors: Array | None = None,
        env_steps: int | None = None,
    ) -> None:
        """Add a rollout with a sequel.

        Args:
            rollout: [T, B].
            envs: The environment of every column; all in turn by default. Of one that is named twice, the left columns
                are the older ones.
            errors: [T, B] what the actors think the TD errors are; where they do not know (NaN), and by default, a
                new transition gets the greatest priority that was ever given.
            env_steps: How many of its steps were made in the environments; all by default.
        """
        steps, width = rollout.shape
        self.check_room(steps)
        numbers = envs or tuple(range(width))
        begin = 0
        while begin < width:  # in pieces in which every environment occurs once
            end = begin + 1
            while end < width and numbers[end] not in numbers[begin:end]:
                end += 1
            cut = slice(begin, end)
            self._append(rollout.columns(cut), np.array(numbers[cut]), None if errors is None else errors[:, cut])
            begin = end
        self.added += steps * width if env_steps is None else env_steps

    def _append(self, rollout: Rollout, envs: Array, errors: Array | None) -> None:
        assert rollout.sequel is not None
        columns, steps = self.columns, len(rollout.reward)
        lost = envs[rollout.episode_start[0] & self._running[envs]]
        if len(lost):  # a new episode, though the last one did not end: what was seen last ends it
            columns["ended"][self._flat(self._count[lost] - 1, lost)] = True
            self._count[lost] += 1
        seen, start = self._seen, rollout.episode_start.copy()
        start[0] |= ~self._running[envs]  # a replay that was cleared knows nothing of an episode that goes on
        ended = rollout.terminated | rollout.truncated
        rows = self._count[envs] + np.arange(steps)[:, None] + np.cumsum(ended, axis=0) - ended
        if seen.before:
            rows = rows + seen.before * np.cumsum(start, axis=0)
        where = self._flat(rows, envs)
        seen.check(rollout.obs, start)
        seen.write(where, rollout.obs)
        columns["action"][where] = self._map.to_unit(rollout.action.reshape(-1, *self._map.shape)).reshape(
            steps, len(envs), *columns["action"].shape[1:]
        )
        columns["reward"][where], columns["terminated"][where] = rollout.reward, rollout.terminated
        columns["ended"][where], columns["valid"][where] = ended, True
        unused = [self._flat(rows[ended] + 1, np.broadcast_to(envs, ended.shape)[ended])]
        seen.write(unused[0], map_obs(lambda a: a[ended], rollout.sequel.final_obs))
        if seen.before:
            first, begun = where[start], map_obs(lambda a: a[start], rollout.obs)
            seen.write_before(first, begun)
            unused += [(first - age * self._envs) % self._size for age in range(1, seen.before + 1)]
        self._count[envs] += steps + ended.sum(axis=0) + seen.before * start.sum(axis=0)
        self._running[envs] = ~ended[-1]
        last = self._flat(self._count[envs], envs)
        seen.write(last, rollout.sequel.last_obs)
        # The oldest rows lose the pictures that they need from those before them.
        unused += [(last + age * self._envs) % self._size for age in range(seen.before + 1)]
        for rest in unused:
            columns["valid"][rest] = False
        if self._tree is not None:
            for rest in unused:
                self._tree.set(rest, 0.0)
            priority = np.full(where.size, self._greatest)
            if errors is not None and (known := np.isfinite(errors).ravel()).any():
                priority[known] = self._priority(errors.ravel()[known])
            self._tree.set(where.ravel(), priority)

    def _flat(self, rows: Array, envs: Array) -> Array:
        """Rows of environments -> where they stand."""
        flat: Array = rows % self._rows * self._envs + envs
        return flat

    def _priority(self, errors: Array) -> Array:
        assert self._alpha is not None
        priority: Array = (np.abs(errors.astype(np.float64)) + EPSILON) ** self._alpha
        self._greatest = max(self._greatest, float(priority.max()))
        return priority

    def set_errors(self, index: Array, errors: Array) -> None:
        """Set the TD errors [N] of transitions; nothing where sampling is uniform."""
        if self._tree is not None:
            self._tree.set(index, self._priority(errors))

    def sample(self, count: int, rng: np.random.Generator, beta: float = 1.0) -> ReplayBatch:
        """Draw transitions with replacement, uniformly or by priority.

        With priorities, each is drawn from its own share of the whole mass, and weighs (N P(i))^-beta divided by the
        greatest weight of the batch (Schaul 2016, section 3.4).
        """
        if self._tree is None:
            index, weight = self._uniform(count, rng), np.ones(count, np.float32)
        else:
            index = self._tree.find((np.arange(count) + rng.random(count)) * (self._tree.total / count))
            # N and the sum cancel against the greatest weight.
            scaled = self._tree[index] ** -beta
            weight = (scaled / scaled.max()).astype(np.float32)
        return self.batch(index, weight)

    def batches(self, count: int, size: int, rng: np.random.Generator, beta: float = 1.0) -> Iterator[ReplayBatch]:
        """Draw ``count`` batches of ``size`` transitions, one after the other; errors may be set in between.

        Uniformly drawn ones come many at once, as far as they are small: one large draw costs a tenth of many.
        """
        whole = 2 * self._bytes * size
        most = max(_DRAWN // whole, 1) if self._tree is None else 1
        while count:
            now = min(most, count)
            count -= now
            drawn = self.sample(now * size, rng, beta)
            for begin in range(0, now * size, size):
                cut = slice(begin, begin + size)
                yield drawn if now == 1 else ReplayBatch(*(map_obs(lambda a, cut=cut: a[cut], part) for part in drawn))

    def _uniform(self, count: int, rng: np.random.Generator) -> Array:
        sizes = np.minimum(self._count, self._rows - 1)
        ends = np.cumsum(sizes)
        index = np.empty(count, np.int64)
        todo = np.arange(count)
        while len(todo):
            drawn = rng.integers(0, ends[-1], len(todo))
            env = np.searchsorted(ends, drawn, "right") if self._envs > 1 else np.zeros(len(todo), np.int64)
            age = ends[env] - drawn  # 1 is the newest row
            index[todo] = self._flat(self._count[env] - age, env)
            todo = todo[~self.columns["valid"][index[todo]]]
        return index

    def batch(self, index: Array, weight: Array) -> ReplayBatch:
        """Return the transitions that begin at these places, [N] each."""
        columns, last = self.columns, index
        reward = columns["reward"][index]
        discount = np.full(len(index), self._gamma, np.float32)
        for _ in range(self._n_step - 1):
            following = (last + self._envs) % self._size
            # The episode goes on, and the next step is already known.
            go = ~columns["ended"][last] & columns["valid"][following]
            last = np.where(go, following, last)
            reward += np.where(go, discount * columns["reward"][last], 0)
            discount = np.where(go, discount * np.float32(self._gamma), discount)
        discount[columns["terminated"][last]] = 0
        after = (last + self._envs) % self._size
        read = self._seen.read
        return ReplayBatch(read(index), columns["action"][index], reward, discount, read(after), index, weight)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what is filled, as views, and JSON-able data."""
        filled = min(int(self._count.max()) + 1, self._rows) * self._envs
        arrays = {name: column[:filled] for name, column in self.columns.items()}
        arrays |= {"count": self._count, "running": self._running}
        if self._tree is not None:
            arrays["priority"] = self._tree[np.arange(filled)]
        data = {"greatest": self._greatest, "added": self.added, "rows": self._rows, "envs": self._envs}
        return arrays, data | {"alpha": self._alpha}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``; priorities of another alpha become those of this one, as far as it was not 0.

        Raises:
            UserError: It is of another size, or has no priorities.
        """
        rows, envs = data["rows"], data["envs"]
        if envs != self._envs:
            raise UserError(f"the saved replay is of rollout.num_envs {envs}: resume without changing it")
        if rows != self._rows:
            raise UserError(f"the saved replay is of replay.capacity {(rows - 1) * envs}: resume without changing it")
        if any(n not in arrays or column.shape[1:] != arrays[n].shape[1:] for n, column in self.columns.items()):
            raise UserError("the saved replay has other observations: resume without changing replay.frames_once")
        if self._tree is not None and "priority" not in arrays:
            raise UserError("the saved replay has no priorities: resume without changing replay.prioritised")
        filled = len(arrays["valid"])
        for name, column in self.columns.items():
            column[:filled] = arrays[name]
        self._count[:], self._running[:] = arrays["count"], arrays["running"]
        exponent = 1.0
        if self._alpha is not None and data.get("alpha"):  # runs of earlier versions do not say it
            exponent = self._alpha / data["alpha"]
        if self._tree is not None:
            priority = arrays["priority"]  # 0 where there is no transition
            self._tree.set(np.arange(filled), np.where(priority > 0, priority**exponent, 0.0))
        self._greatest, self.added = data["greatest"] ** exponent, data["added"]
