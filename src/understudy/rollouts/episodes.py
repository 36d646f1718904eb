"""Evaluation episodes: exactly one per seed, so that short episodes do not count more often than long ones.

Environments that run freely until N episodes have ended collect too many short ones: a good policy that rarely falls
looks worse than it is, and a bad one whose long episodes are still running looks even worse. Here every seed is
played to its end, in waves of as many environments as there are; an environment that is done waits for its wave.

Rollout workers import this module, so it does not import PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation, map_obs
from understudy.envs.base import VectorEnv
from understudy.errors import UserError

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


@dataclass(frozen=True)
class Episodes:
    """Finished episodes, one per seed and in the order of the seeds.

    Attributes:
        returns: [N] float64, undiscounted.
        lengths: [N] int64, steps.
        seeds: [N] int64, of the environments' resets.
        seconds: Wall time of all of them together.
    """

    returns: Array
    lengths: Array
    seeds: Array
    seconds: float

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def env_steps(self) -> int:
        """Steps of all episodes."""
        return int(self.lengths.sum())


def merge_episodes(parts: Sequence[Episodes]) -> Episodes:
    """Join episodes that ran side by side: the wall time is that of the slowest part."""
    if not parts:
        return Episodes(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 0.0)
    columns = (np.concatenate([getattr(p, name) for p in parts]) for name in ("returns", "lengths", "seeds"))
    return Episodes(*columns, max(p.seconds for p in parts))


def run_episodes(
    policy: Acts,
    env: VectorEnv,
    seeds: Sequence[int],
    deterministic: bool = True,
    on_step: Callable[[Visit], None] | None = None,
    max_steps: int = MAX_STEPS,
) -> Episodes:
    """Play one episode per seed.

    Args:
        policy: Who acts.
        env: B environments; episodes run in waves of B, the last wave may leave some idle.
        seeds: One per episode.
        deterministic: The mode of the policy instead of samples.
        on_step: Called after every step of a wave.
        max_steps: An episode longer than this is taken for endless.

    Raises:
        UserError: The policy's action is NaN or infinite, or an episode does not end.
    """
    begin = time.perf_counter()
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    for first in range(0, len(seeds), env.num_envs):
        wave = [int(seed) for seed in seeds[first : first + env.num_envs]]
        total, count = _run_wave(policy, env, wave, deterministic, on_step, max_steps)
        returns[first : first + len(wave)], lengths[first : first + len(wave)] = total, count
    return Episodes(returns, lengths, np.asarray(seeds, np.int64), time.perf_counter() - begin)


def _run_wave(
    policy: Acts,
    env: VectorEnv,
    seeds: list[int],
    deterministic: bool,
    on_step: Callable[[Visit], None] | None,
    max_steps: int,
) -> tuple[Array, Array]:
    """Play up to B episodes side by side; return their returns and lengths, [len(seeds)] each."""
    idle = env.num_envs - len(seeds)
    obs = env.reset(seeds + seeds[:1] * idle)
    active = np.arange(env.num_envs) < len(seeds)
    start = np.ones(env.num_envs, bool)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    state: Any = None
    for step in range(max_steps):
        action, state = policy.predict(obs, state, start, deterministic)
        _check_action(policy, action, active, step)
        # The environment may overwrite what it returned before.
        seen = map_obs(np.copy, obs) if on_step is not None else obs
        obs, reward, terminated, truncated, _ = env.step(action, active)
        returns[active] += reward[active]
        lengths[active] += 1
        if on_step is not None:
            on_step(Visit(seen, action, reward, active, step))
        active = active & ~(terminated | truncated)
        if not active.any():
            return returns[: len(seeds)], lengths[: len(seeds)]
        start = np.zeros(env.num_envs, bool)
    seed = seeds[int(np.argmax(active))]
    raise UserError(
        f"the episode of seed {seed} in {env.spec.id} did not end within {max_steps} steps: give the environment a "
        "time limit (max_episode_steps)"
    )


def _check_action(policy: Acts, action: Array, active: Array, step: int) -> None:
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
    """Uniform random actions; standard normal ones where a bound is infinite, clipped to the other bound."""

    def __init__(self, action_space: gym.Space[Any], seed: int) -> None:
        if not isinstance(action_space, _SPACES):
            raise UserError(f"an action space of type {type(action_space).__name__} is not supported")
        self.action_space = action_space
        self._rng = np.random.default_rng(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Return one action for each entry of ``episode_start``, or a single action without it.

        The observation is not looked at, so its batch size is not known from it.
        """
        count = 1 if episode_start is None else len(episode_start)
        actions = self._draw(count)
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


_SPACES = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary, gym.spaces.Box)


def random_policy(action_space: gym.Space[Any], seed: int) -> RandomPolicy:
    """Return the policy that returns are measured from.

    Raises:
        UserError: The action space is of a kind that policies cannot act in.
    """
    return RandomPolicy(action_space, seed)
