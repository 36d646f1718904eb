"""Evaluation episodes: exactly one per seed, so that short episodes do not count more often than long ones.

Environments that run freely until N episodes have ended collect too many short ones: a good policy that rarely falls
looks worse than it is, and a bad one whose long episodes are still running looks even worse. Here every seed is
played to its end, in waves of as many environments as there are; an environment that is done waits for its wave.

Rollout workers import this module, so it does not import PyTorch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation, map_obs
from understudy.envs.base import VectorEnv
from understudy.errors import UserError
from understudy.policies.family import ActionMap
from understudy.rollouts.allowed import keep_allowed, mask_in
from understudy.rollouts.checked import checked
from understudy.rollouts.clipped import within

MAX_STEPS = 100_000
"""Steps after which an episode counts as endless."""


class Acts(Protocol):
    """Anything with the ``predict`` of Stable-Baselines3."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Return actions [B, ...] and the next state."""


class Visit(NamedTuple):
    """One step of a wave, as ``on_step`` sees it; arrays are valid during the call only."""

    obs: Observation
    """[B, ...] what the policy saw."""
    action: Array
    """[B, ...] what it did."""
    reward: Array
    """[B] what it got."""
    active: Array
    """[B] bool: rows whose episode was going on; the others have no meaning."""
    step: int
    """Steps since the start of the episodes; 0 for the first."""
    starts: Array | None = None
    """[B] bool: rows that saw the first of an episode; None: all at step 0, none later."""


@dataclass(frozen=True)
class Episodes:
    """Finished episodes, one per seed and in the order of the seeds.

    Attributes:
        returns: [N] float64, undiscounted.
        lengths: [N] int64, steps.
        seeds: [N] int64, of the environments' resets.
        seconds: Wall time of all of them together.
        task: [N] int, the task of each; None where there is one task only. Every seed is played in every task.
    """

    returns: Array
    lengths: Array
    seeds: Array
    seconds: float
    task: Array | None = None

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def env_steps(self) -> int:
        """Steps of all episodes."""
        return int(self.lengths.sum())

    def by_task(self) -> list[Episodes]:
        """Return the episodes of each task, in the order of the seeds; all of them where there is one task."""
        if self.task is None:
            return [self]
        rows = [np.flatnonzero(self.task == k) for k in np.unique(self.task)]
        return [Episodes(self.returns[r], self.lengths[r], self.seeds[r], self.seconds) for r in rows]


def merge_episodes(parts: Sequence[Episodes]) -> Episodes:
    """Join episodes that ran side by side: the wall time is that of the slowest part."""
    if not parts:
        return Episodes(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 0.0)
    returns, lengths, seeds = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("returns", "lengths", "seeds")
    )
    tasks = [p.task for p in parts if p.task is not None]
    seconds = max(p.seconds for p in parts)
    return Episodes(returns, lengths, seeds, seconds, np.concatenate(tasks) if tasks else None)


def run_episodes(
    policy: Acts,
    env: VectorEnv,
    seeds: Sequence[int],
    deterministic: bool = True,
    on_step: Callable[[Visit], None] | None = None,
    max_steps: int = MAX_STEPS,
) -> Episodes:
    """Play one episode per seed; where rows have tasks (``env.task_of``), one per seed and task, task after task.

    Args:
        policy: Who acts; what it draws from PyTorch's generator follows from the seeds.
        env: B environments; episodes run in waves of B, the last wave may leave some idle.
        seeds: One per episode.
        deterministic: The mode of the policy instead of samples.
        on_step: Called after every step of a wave.
        max_steps: An episode longer than this is taken for endless.

    Raises:
        UserError: The policy's action is NaN or infinite, or an episode does not end.
    """
    policy = checked(policy, env)
    with seeded(int(np.sum(seeds))):
        if getattr(env, "own_clocks", False):
            from understudy.rollouts.agent_episodes import run_agent_episodes

            scene: Any = env
            return run_agent_episodes(policy, scene, seeds, deterministic, on_step, max_steps)
        return _run_waves(within(policy, env.action_space), env, seeds, deterministic, on_step, max_steps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator, where it is loaded, and leave it afterwards as it was before."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _run_waves(
    policy: Acts,
    env: VectorEnv,
    seeds: Sequence[int],
    deterministic: bool,
    on_step: Callable[[Visit], None] | None,
    max_steps: int,
) -> Episodes:
    """See ``run_episodes``, of environments whose rows begin together."""
    begin = time.perf_counter()
    task_of = np.asarray(getattr(env, "task_of", np.zeros(env.num_envs, np.int64)))
    sizes = np.bincount(task_of)
    # Row i is the number[i]-th of its task; every task plays the same seeds.
    number = np.array([np.count_nonzero(task_of[:i] == task) for i, task in enumerate(task_of)])
    returns, lengths = np.zeros((len(sizes), len(seeds))), np.zeros((len(sizes), len(seeds)), np.int64)
    for first in range(0, len(seeds), int(sizes.min())):
        wave = np.asarray(seeds[first : first + int(sizes.min())], np.int64)
        plays = number < len(wave)
        total, count = _run_wave(policy, env, wave[number * plays], plays, deterministic, on_step, max_steps)
        where = task_of[plays], first + number[plays]
        returns[where], lengths[where] = total[plays], count[plays]
    seconds = time.perf_counter() - begin
    if not hasattr(env, "task_of"):
        return Episodes(returns[0], lengths[0], np.asarray(seeds, np.int64), seconds)
    tasks, again = np.repeat(np.arange(len(sizes)), len(seeds)), np.tile(np.asarray(seeds, np.int64), len(sizes))
    return Episodes(returns.ravel(), lengths.ravel(), again, seconds, tasks)


def _run_wave(
    policy: Acts,
    env: VectorEnv,
    seeds: Array,
    plays: Array,
    deterministic: bool,
    on_step: Callable[[Visit], None] | None,
    max_steps: int,
) -> tuple[Array, Array]:
    """Play an episode in each row that ``plays`` [B], with its seed [B]; return their returns and lengths, [B] each."""
    obs = env.reset(seeds.tolist())
    active = plays
    start = np.ones(env.num_envs, bool)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    state: Any = None
    for step in range(max_steps):
        action, state = policy.predict(obs, state, start, deterministic)
        check_action(policy, action, active, step)
        # The environment may overwrite what it returned before.
        seen = map_obs(np.copy, obs) if on_step is not None else obs
        obs, reward, terminated, truncated, _ = env.step(action, active)
        returns[active] += reward[active]
        lengths[active] += 1
        if on_step is not None:
            on_step(Visit(seen, action, reward, active, step))
        active = active & ~(terminated | truncated)
        if not active.any():
            return returns, lengths
        start = np.zeros(env.num_envs, bool)
    raise endless(env, int(seeds[int(np.argmax(active))]), max_steps)


def endless(env: VectorEnv, seed: int, max_steps: int) -> UserError:
    """Return the error of an episode that did not end."""
    return UserError(
        f"the episode of seed {seed} in {env.spec.id} did not end within {max_steps} steps: give the environment a "
        "time limit (env.kwargs {max_episode_steps: N})"
    )


def check_action(policy: Acts, action: Array, active: Array, step: int) -> None:
    """Refuse actions [B, ...] that are not finite in active rows.

    Raises:
        UserError: One is not.
    """
    if action.dtype.kind == "f" and not np.isfinite(action[active]).all():
        raise UserError(
            f"the policy {policy_name(policy)} answers NaN or infinity at step {step} of an evaluation episode: "
            "are its weights, its normaliser and its environment the right ones?"
        )


def policy_name(policy: Any) -> str:
    """Return what to call a policy in messages: its source, else its algorithm, else its class."""
    about = getattr(policy, "about", None)
    return str(getattr(about, "source", "") or getattr(about, "algorithm", "") or type(policy).__name__)


class RandomPolicy:
    """Uniform random actions; standard normal ones where a bound is infinite, clipped to the other bound.

    Where observations hold an action mask, those that it allows.
    """

    def __init__(self, action_space: gym.Space[Any], seed: int, task_actions: Sequence[int] = ()) -> None:
        """Take the action space, a seed, and for several tasks the number of actions that each has."""
        self._choices = np.array(task_actions) if isinstance(action_space, gym.spaces.Discrete) else np.zeros(0)
        if not isinstance(action_space, _SPACES):
            raise UserError(f"an action space of type {type(action_space).__name__} is not supported")
        self.action_space = action_space
        self._rng, self._map = np.random.default_rng(seed), ActionMap(action_space)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Return one action for each entry of ``episode_start``, or a single action without it.

        The observation is not looked at (but for its task and mask), so its batch size is not known from it.
        """
        if len(self._choices):
            choices = self._choices[np.asarray(observation["task"]).argmax(axis=-1)]
            return (self._rng.random(choices.shape) * choices).astype(np.int64), state
        count = 1 if episode_start is None else len(episode_start)
        actions = self._draw(count)
        mask = mask_in(observation if episode_start is not None else _batched(observation), self.action_space)
        if mask is not None:
            actions = keep_allowed(actions, mask, self._map, [self._rng] * count)
        return (actions[0] if episode_start is None else actions), state

    def _draw(self, count: int) -> Array:
        space, rng = self.action_space, self._rng
        if isinstance(space, gym.spaces.Discrete):
            return rng.integers(space.start, space.start + space.n, count)
        if isinstance(space, gym.spaces.MultiDiscrete):
            return rng.integers(space.start, space.start + space.nvec, (count, *space.nvec.shape))
        if isinstance(space, gym.spaces.MultiBinary):
            return rng.integers(0, 2, (count, *space.shape)).astype(space.dtype)
        assert isinstance(space, gym.spaces.Box)
        shape = (count, *space.shape)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        finite = np.isfinite(low) & np.isfinite(high)
        whole = np.dtype(space.dtype).kind in "iu"
        with np.errstate(invalid="ignore"):
            uniform = np.where(finite, low, 0) + rng.random(shape) * np.where(finite, high - low + whole, 1)
        action = np.clip(np.where(finite, uniform, rng.standard_normal(shape)), low, high)
        return (np.floor(action) if whole else action).astype(space.dtype)


def _batched(observation: Any) -> Any:
    """Give one observation with keys a batch axis."""
    return {key: np.asarray(a)[None] for key, a in observation.items()} if isinstance(observation, dict) else None


_SPACES = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary, gym.spaces.Box)


def random_policy(action_space: gym.Space[Any], seed: int, task_actions: Sequence[int] = ()) -> RandomPolicy:
    """Return the policy that returns are measured from; see ``envs.multitask.task_actions``.

    Raises:
        UserError: The action space is of a kind that policies cannot act in.
    """
    return RandomPolicy(action_space, seed, task_actions)
