"""Atari games in ale-py's own vector environment: emulation, resizing and stacking in C++ threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from understudy.data import Array, EnvSpec, Observation
from understudy.envs.atari import AtariOptions, emulator_kwargs, fold_stack
from understudy.envs.base import Step
from understudy.envs.build import find
from understudy.errors import UserError

_KWARGS = {"frameskip", "repeat_action_probability", "full_action_space", "max_num_frames_per_episode"}


def suits(spec: EnvSpec) -> bool:
    """Say whether this environment can do what a description asks: the ``atari`` wrapper, and nothing special."""
    return spec.id.startswith("ALE/") and not _obstacle(spec)


def _obstacle(spec: EnvSpec) -> str:
    """Return what in a description it cannot do, or an empty string."""
    kinds = [w.get("type") for w in fold_stack(spec.wrappers)]
    if kinds != ["atari"]:
        return "wrappers other than 'atari' (and 'frame_stack' after it)"
    if unknown := sorted(set(spec.kwargs) - _KWARGS):
        return f"the argument {unknown[0]!r}"
    return "a frameskip of the emulator" if spec.kwargs.get("frameskip", 1) != 1 else ""


def episode_limit(spec: EnvSpec) -> int:
    """Return the steps after which an episode is truncated."""
    options = AtariOptions.read(fold_stack(spec.wrappers)[0])
    return int(spec.kwargs.get("max_num_frames_per_episode", 108_000)) // options.frame_skip


def threads(num_envs: int) -> int:
    """Return how many threads emulate: what the process may use, two at most (one in our workers)."""
    return min(int(os.environ.get("OMP_NUM_THREADS") or 2), os.cpu_count() or 1, num_envs, 2)


class AleVectorEnv:
    """B games; observations are [B, stack, size, size] uint8, oldest picture first, empty before an episode's first.

    Every row is stepped whatever ``active`` says. Episodes are truncated after 108,000 frames unless told otherwise.
    """

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        """Start the emulators.

        Raises:
            UserError: The id or an argument is wrong, or this environment cannot do what is asked.
        """
        game = (find(spec.id).kwargs or {}).get("game")
        if game is None or not suits(spec):
            raise UserError(f"{spec.id}: ale-py's vector environment does not take {_obstacle(spec) or 'this id'}")
        from ale_py.vector_env import AtariVectorEnv

        options = AtariOptions.read(fold_stack(spec.wrappers)[0])
        kwargs = {**emulator_kwargs(spec), **spec.kwargs}
        self.spec, self.num_envs = spec, num_envs
        self._env: Any = AtariVectorEnv(
            game,
            num_envs,
            num_threads=threads(num_envs),
            autoreset_mode="SameStep",
            img_height=options.screen_size,
            img_width=options.screen_size,
            stack_num=options.stack,
            frameskip=options.frame_skip,
            noop_max=options.noop_max,
            use_fire_reset=options.fire_reset,
            episodic_life=options.episodic_life,
            reward_clipping=options.reward_clipping,
            repeat_action_probability=kwargs["repeat_action_probability"],
            full_action_space=bool(kwargs.get("full_action_space", False)),
            max_num_frames_per_episode=int(kwargs.get("max_num_frames_per_episode", 108_000)),
        )
        self.observation_space = self._env.single_observation_space
        self.action_space = self._env.single_action_space

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Start new games everywhere, environment i with ``seeds[i]``."""
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        obs: Array = self._env.reset(seed=np.array([int(seed) % 2**31 for seed in seeds]))[0]
        return obs

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step with [B] actions; see ``VectorEnv``."""
        obs, reward, terminated, truncated, info = self._env.step(np.asarray(actions, np.int64))
        final = info.get("final_obs") if (terminated | truncated).any() else None
        return Step(obs, reward.astype(np.float32), terminated, truncated & ~terminated, final)

    def render(self) -> Array | None:
        """Return None: it keeps no colours; ``make(..., render=True)`` takes gymnasium's emulator."""
        return None

    def close(self) -> None:
        """Free the emulators; may be called twice."""
        self._env = None
