"""Environments from their description, from whichever library suits; each library is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.envs.base import VectorEnv
from understudy.envs.unity.options import is_unity
from understudy.errors import UserError, suggest

BACKENDS = ("auto", "gymnasium", "envpool", "ale")
MULTITASK = "multitask"
UNITY = "unity"


def make(
    spec: EnvSpec | str, num_envs: int, *, render: bool = False, alive: Callable[[], None] | None = None
) -> VectorEnv:
    """Build B environments that are stepped together.

    Args:
        spec: The description, or just an id.
        num_envs: B.
        render: Whether environment 0 can be rendered; libraries that cannot give way to gymnasium.
        alive: Called between the environments that are built, reset and stepped one after the other, and now and then
            while a step waits for a simulator that has time limits of its own.

    Raises:
        UserError: The id, an argument or a wrapper is wrong, or a package is not installed; the message says which.
    """
    spec = as_spec(spec)
    if num_envs < 1:
        raise UserError(f"{spec.id}: the number of environments must be at least 1, not {num_envs}")
    limit = spec.kwargs.get("max_episode_steps")
    if limit is not None and (not isinstance(limit, int) or (limit < 1 and limit != -1)):
        raise UserError(f"{spec.id}: max_episode_steps is {limit!r}; it must be at least 1, or -1 for no limit")
    backend = env_backend(spec, render=render)
    if backend == MULTITASK:
        from understudy.envs.multitask import from_spec

        return from_spec(spec, num_envs, render=render, alive=alive)
    if backend == UNITY:
        from understudy.envs.unity.vector import UnityVectorEnv

        if render:
            raise UserError(f"{spec.id}: the player shows itself: evaluate with --time-scale 1, without --no-graphics")
        scene: Any = UnityVectorEnv(spec, num_envs, alive)
        return cast(VectorEnv, scene)  # it knows its spaces later, so they are properties
    if backend == "envpool":
        from understudy.envs.envpool_env import EnvpoolVectorEnv

        return EnvpoolVectorEnv(spec, num_envs, render)
    if backend == "ale":
        from understudy.envs.ale_env import AleVectorEnv

        return AleVectorEnv(spec, num_envs)
    from understudy.envs.gymnasium_env import GymnasiumVectorEnv

    return GymnasiumVectorEnv(spec, num_envs, render, alive)


def env_backend(spec: EnvSpec | str, *, render: bool = False) -> str:
    """Return what ``make`` takes: ``gymnasium``, ``envpool``, ``ale``, ``unity``, or ``multitask`` for many tasks.

    Raises:
        UserError: The description asks for a library that does not exist here.
    """
    spec = as_spec(spec)
    if spec.backend not in BACKENDS:
        raise UserError(f"{spec.id}: the backend {spec.backend!r} is not known{suggest(spec.backend, BACKENDS)}")
    if spec.id == MULTITASK:
        return MULTITASK
    if is_unity(spec.id):
        return UNITY
    if spec.backend != "auto":
        return spec.backend
    from understudy.envs import ale_env, build, envpool_env

    if not render and ale_env.suits(spec):
        return "ale"
    if envpool_env.suits(spec) and not (render and build.exists(spec.id)):
        return "envpool"
    return "gymnasium"


def spaces_of(spec: EnvSpec | str) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Return the observation and action space of one environment, by building and closing it.

    Raises:
        UserError: As ``make``.
    """
    spec = as_spec(spec)
    if is_unity(spec.id):
        from understudy.envs.unity.probe import look

        return look(spec).spaces
    count = 1
    if spec.id == MULTITASK:
        from understudy.envs.multitask import whole_tasks

        count = whole_tasks(spec, 1)
    env = make(spec, count)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def max_episode_steps(spec: EnvSpec | str) -> int | None:
    """Return the steps after which an episode is truncated; None if it never is, or episodes have their own limits.

    Raises:
        UserError: As ``make``.
    """
    spec = as_spec(spec)
    backend = env_backend(spec)
    if backend == MULTITASK:
        from understudy.envs.multitask import task_specs

        limits = [max_episode_steps(task) for task in task_specs(spec)]
        return None if None in limits else max(limit for limit in limits if limit is not None)
    if backend == "envpool":
        from understudy.envs import envpool_env

        return envpool_env.episode_limit(spec)
    if backend == "ale":
        from understudy.envs import ale_env

        return ale_env.episode_limit(spec)
    if backend == UNITY:
        return None
    from understudy.envs.build import find

    own = spec.kwargs["max_episode_steps"] if "max_episode_steps" in spec.kwargs else find(spec.id).max_episode_steps
    limits = [own, *(w.get("max_steps") for w in spec.wrappers if w.get("type") == "time_limit")]
    return min((int(limit) for limit in limits if limit and limit > 0), default=None)


def as_spec(spec: EnvSpec | str) -> EnvSpec:
    """Return a description for an id, or the description itself."""
    return spec if isinstance(spec, EnvSpec) else EnvSpec(spec)
