"""Several tasks as one environment: rows belong to tasks, and all observations and actions have one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, EnvSpec, Observation
from understudy.envs.base import Step, VectorEnv
from understudy.envs.closing import close_all
from understudy.envs.unity.options import is_unity
from understudy.envs.unity.probe import agents_of
from understudy.errors import UserError
from understudy.policies.spaces import flat_size, members, starts
from understudy.policies.task_spaces import multitask_observations, shared_keys


class MultiTaskEnv:
    """K tasks, each with its own number of environments.

    Observations are ``{"observation": [B, D] float32, "task": [B, K] float32}``: the task's own observation, flattened
    (choices as one-hot, dict keys in alphabetical order) and padded with zeros to the largest; the task as one-hot.
    Where all tasks see the same dict (MiniGrid and BabyAI with missions of one length do), its keys stay as they are,
    with ``task`` beside them, so that pictures and texts can be read as such.

    Continuous actions are [B, A] in -1 to 1, of which a task takes as many as it needs, clipped and scaled to its
    bounds. Discrete ones are [B] out of the largest number of choices; an index that a task does not have means its
    last choice (a remainder would make one choice look like another).

    Attributes:
        task_of: [B] int, the task of each row.
    """

    def __init__(
        self,
        specs: Sequence[EnvSpec],
        counts: Sequence[int],
        *,
        render: bool = False,
        alive: Callable[[], None] | None = None,
    ) -> None:
        """Build all tasks, ``counts[k]`` environments of ``specs[k]``.

        Raises:
            UserError: A task cannot be built, or its spaces do not go together with the others'.
        """
        from understudy.envs.make import make

        if not specs or len(specs) != len(counts):
            raise UserError(f"multitask: {len(specs)} tasks and {len(counts)} numbers of environments")
        self.spec = EnvSpec("multitask", {"tasks": [spec.to_json() for spec in specs]})
        self.num_envs = sum(counts)
        self._envs: list[VectorEnv] = []
        try:
            for k, (spec, count) in enumerate(zip(specs, counts, strict=True)):
                self._envs.append(make(spec, count, render=render and k == 0, alive=alive))
            self._decoders = [_decoder(env) for env in self._envs]
            self.action_space = _action_space(self._envs)
        except BaseException:
            self.close()
            raise
        ends = np.cumsum(counts)
        self._slices = [slice(end - count, end) for end, count in zip(ends.tolist(), counts, strict=True)]
        self.task_of: Array = np.repeat(np.arange(len(specs)), counts)
        spaces = [env.observation_space for env in self._envs]
        self.observation_space: gym.Space[Any] = multitask_observations(spaces)
        self._shared = shared_keys(spaces) is not None
        self._obs, self._final = (self._empty() for _ in range(2))
        self._reward = np.zeros(self.num_envs, np.float32)
        self._terminated, self._truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)

    def _empty(self) -> dict[str, Array]:
        """Return arrays for one observation of every row, with the tasks filled in."""
        parts = members(self.observation_space)
        arrays = {key: np.zeros((self.num_envs, *(part.shape or ())), part.dtype) for key, part in parts.items()}
        arrays["task"] = np.eye(parts["task"].shape[0], dtype=np.float32)[self.task_of]  # type: ignore[index]
        return arrays

    def _write(self, obs: Observation, space: gym.Space[Any], out: dict[str, Array], rows: slice) -> None:
        """Write one task's observations into its rows."""
        if not self._shared:
            _flatten(obs, space, out["observation"][rows])
            return
        assert isinstance(obs, dict)
        for key, values in obs.items():
            out[key][rows] = values

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Start new episodes everywhere, environment i with ``seeds[i]``."""
        for env, rows in zip(self._envs, self._slices, strict=True):
            self._write(env.reset(seeds[rows]), env.observation_space, self._obs, rows)
        return dict(self._obs)

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step every task with its rows of the actions; see ``VectorEnv``."""
        any_ended = False
        for env, rows, decode in zip(self._envs, self._slices, self._decoders, strict=True):
            step = env.step(decode(actions[rows]), None if active is None else active[rows])
            self._write(step.obs, env.observation_space, self._obs, rows)
            self._reward[rows] = step.reward
            self._terminated[rows], self._truncated[rows] = step.terminated, step.truncated
            if step.final_obs is not None:
                any_ended = True
                self._write(step.final_obs, env.observation_space, self._final, rows)
        final = dict(self._final) if any_ended else None
        return Step(dict(self._obs), self._reward, self._terminated, self._truncated, final)

    def render(self) -> Array | None:
        """Return a picture of environment 0, if it was made with ``render``."""
        return self._envs[0].render()

    def close(self) -> None:
        """Close all tasks; may be called twice."""
        close_all(self._envs, self.spec.id)


def task_specs(spec: EnvSpec) -> list[EnvSpec]:
    """Return the tasks of the description ``EnvSpec("multitask", {"tasks": [...]})``; a task may be just an id.

    Raises:
        UserError: There are none, or one is no description.
    """
    tasks = spec.kwargs.get("tasks")
    if not isinstance(tasks, list | tuple) or not tasks:
        raise UserError("multitask: kwargs need 'tasks', a list of environments (ids, or mappings with 'id')")
    found = []
    for task in tasks:
        if isinstance(task, Mapping) and "id" in task:
            task = _described(task)
        elif isinstance(task, str):
            task = EnvSpec(task)
        if not isinstance(task, EnvSpec):
            raise UserError(f"multitask: a task must be an id or a mapping with 'id', not {task!r}")
        if is_unity(task.id):
            raise UserError(f"multitask: {task.id} cannot be one of several tasks: its agents have clocks of their own")
        found.append(task)
    return found


def _described(task: Mapping[str, Any]) -> EnvSpec:
    try:
        return EnvSpec.from_json({"kwargs": {}, "wrappers": (), "backend": "auto", **task})
    except (TypeError, ValueError) as error:
        raise UserError(f"multitask: a task cannot be read: {error}") from error


def task_shares(spec: EnvSpec) -> tuple[int, ...]:
    """Return how many environments each task has of every so many: ``kwargs["weights"]``, by default 1 each.

    Raises:
        UserError: They are no whole numbers above 0, or not as many as there are tasks.
    """
    if spec.id != "multitask":
        return (1,)
    count = len(task_specs(spec))
    weights = spec.kwargs.get("weights") or [1] * count
    whole = isinstance(weights, list | tuple) and all(type(w) is int and w > 0 for w in weights)
    if not whole or len(weights) != count:
        raise UserError(f"multitask: 'weights' must be {count} whole numbers above 0, one for each task, not {weights}")
    return tuple(weights)


def from_spec(
    spec: EnvSpec, num_envs: int, *, render: bool = False, alive: Callable[[], None] | None = None
) -> MultiTaskEnv:
    """Build the description's tasks, with as many environments each as their weights say.

    Raises:
        UserError: ``num_envs`` is not a multiple of the weights' sum.
    """
    specs, shares = task_specs(spec), task_shares(spec)
    unit = sum(shares)
    if num_envs % unit:
        nearest = max(round(num_envs / unit), 1) * unit
        weighed = f"{len(specs)} tasks" if unit == len(specs) else f"{len(specs)} tasks of weights {list(shares)}"
        raise UserError(f"multitask: {num_envs} environments do not divide among {weighed}; take {nearest}")
    env = MultiTaskEnv(specs, [share * (num_envs // unit) for share in shares], render=render, alive=alive)
    env.spec = spec
    return env


def task_names(spec: EnvSpec) -> tuple[str, ...]:
    """Return the ids of a description's tasks, numbered where one comes twice; for one environment just its id."""
    if spec.id != "multitask":
        return (spec.id,)
    ids = [task.id for task in task_specs(spec)]
    return tuple(f"{name} #{ids[: i + 1].count(name)}" if ids.count(name) > 1 else name for i, name in enumerate(ids))


def task_actions(spec: EnvSpec) -> tuple[int, ...]:
    """Return how many actions (or action components) each task has; empty for one environment."""
    from understudy.envs.make import spaces_of

    return tuple(flat_size(spaces_of(task)[1]) for task in task_specs(spec)) if spec.id == "multitask" else ()


def whole_tasks(spec: EnvSpec, num_envs: int) -> int:
    """Return ``num_envs``, rounded up to what divides among the tasks, or to whole scenes of agents."""
    count = agents_of(spec) if is_unity(spec.id) else sum(task_shares(spec))
    return -(-num_envs // count) * count


def _flatten(obs: Observation, space: gym.Space[Any], out: Array) -> None:
    """Write observations [N, ...] into the first columns of ``out`` [N, D]."""
    parts, at = obs if isinstance(obs, dict) else {"": obs}, 0
    for key, part in sorted(members(space).items()):
        values, size = parts[key], flat_size(part)
        if isinstance(part, gym.spaces.Discrete):
            values = np.eye(size, dtype=np.float32)[values - part.start]
        elif isinstance(part, gym.spaces.MultiDiscrete):
            ranges = np.split(np.eye(size, dtype=np.float32), np.cumsum(part.nvec.ravel())[:-1])
            flat = values.reshape(len(values), -1) - np.array(starts(part))
            values = np.concatenate([eye[flat[:, i]] for i, eye in enumerate(ranges)], axis=1)
        out[:, at : at + size] = values.reshape(len(values), size)
        at += size


def _action_space(envs: Sequence[VectorEnv]) -> gym.Space[Any]:
    spaces = [env.action_space for env in envs]
    if all(isinstance(space, gym.spaces.Discrete) for space in spaces):
        return gym.spaces.Discrete(max(flat_size(space) for space in spaces))
    if all(isinstance(space, gym.spaces.Box) for space in spaces):
        return gym.spaces.Box(-1, 1, (max(flat_size(space) for space in spaces),), np.float32)
    named = ", ".join(f"{env.spec.id} {space}" for env, space in zip(envs, spaces, strict=True))
    raise UserError(f"multitask: the actions must be all continuous or all discrete, not {named}")


def _decoder(env: VectorEnv) -> Any:
    """Return the function from shared actions [N, ...] to a task's own."""
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        last, start = int(space.n) - 1, int(space.start)
        return lambda actions: np.minimum(actions, last) + start
    if not isinstance(space, gym.spaces.Box):
        return lambda actions: actions
    if not space.is_bounded():
        raise UserError(f"multitask: {env.spec.id} has actions without bounds, which cannot be scaled")
    size, low, high = flat_size(space), space.low.ravel(), space.high.ravel()
    half, middle = (high - low) / 2, (high + low) / 2

    def scale(actions: Array) -> Array:
        own: Array = np.clip(actions[:, :size], -1, 1) * half + middle
        return own.reshape(-1, *space.shape)

    return scale
