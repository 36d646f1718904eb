"""Who is evaluated and where: paths, ids and objects brought to one form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.env_names import EnvLike, named
from understudy.envs.atari import AtariOptions
from understudy.envs.judged import judged
from understudy.envs.make import env_backend, spaces_of
from understudy.envs.multitask import task_actions
from understudy.errors import UserError
from understudy.loading import load
from understudy.policies.spaces import same_choices
from understudy.rollouts.episodes import Acts, policy_name, random_policy
from understudy.teachers.sb3_model import is_model
from understudy.teachers.successors import find_successors

RANDOM = "random"
"""Instead of a path: the policy of uniform random actions."""


@dataclass(frozen=True)
class Contestant:
    """A policy, what to call it, and the environment it plays in, as policies are judged there."""

    name: str
    policy: Acts
    env: EnvSpec


LAST_SEED = 2**32 - 1
"""What those of a run lead to is below it."""


def resolve(source: Any, env: EnvLike | None = None, name: str = "", seed: int = 0) -> Contestant:
    """Load a policy if it is not one yet, and find its environment.

    Args:
        source: What ``understudy.load`` takes, any object with ``predict``, or ``"random"``.
        env: Where it plays; ``policy.about.env`` by default.
        name: What to call it; taken from the source by default.
        seed: Of the random policy, and of the first episode.

    Raises:
        UserError: Nothing at ``source``, it does not say its environment and ``env`` does not either, or a seed that is
            too large.
    """
    _check_whole(seed=seed)
    if seed > LAST_SEED:
        raise UserError(f"seeds are at most {LAST_SEED}, but seed is {seed}")
    env = named(env)
    if isinstance(source, str) and source == RANDOM:
        if env is None:
            raise UserError("the random policy plays in any environment: say which (--env)")
        spec = _choose(None, env)
        assert spec is not None
        return Contestant(name or RANDOM, random_policy(spaces_of(spec)[1], seed, task_actions(spec)), judged(spec))
    policy = source if _acts(source) else load(source, env=env)
    called = name or _short_name(source, policy)
    spec = _choose(getattr(getattr(policy, "about", None), "env", None), env)
    if spec is None:
        raise UserError(f"the policy {called} does not say which environment it is for: say which (--env)")
    return Contestant(called, policy, judged(spec))


def _choose(own: EnvSpec | None, asked: str | EnvSpec | None) -> EnvSpec | None:
    """Return the policy's own environment or the one asked for; the same id alone keeps the policy's own wrappers."""
    if not isinstance(asked, str):
        return asked or own
    successor = find_successors(asked)[0]
    if own is not None and own.id == successor.id:
        return own
    return EnvSpec(successor.id, successor.kwargs, successor.wrappers)


def resolve_all(
    sources: Sequence[Any], env: EnvLike | None, names: Sequence[str] | None, seed: int
) -> list[Contestant]:
    """Resolve policies that are to be compared; the environment of the first counts for those that say none.

    Raises:
        UserError: No policies, as many names as policies are not, or they play in different environments.
    """
    if isinstance(sources, str) or not isinstance(sources, Sequence):
        kind = type(sources).__name__
        raise UserError(f"policies are given as a list, such as [teacher, student], but this is of the type {kind}")
    if not sources:
        raise UserError("there is nothing to compare: name at least one policy")
    if names is not None and len(names) != len(sources):
        raise UserError(f"there are {len(sources)} policies, but {len(names)} names")
    found: list[Contestant] = []
    for i, source in enumerate(sources):
        own = env
        silent = isinstance(source, str) and source == RANDOM
        if own is None and found and (silent or _says_no_env(source)):
            own = found[0].env
        found.append(resolve(source, own, names[i] if names else "", seed))
    first = found[0].env
    for other in found[1:]:
        if _task(other.env) != _task(first):
            ours, theirs = _told_apart(first, other.env)
            raise UserError(
                f"{found[0].name} plays {ours}, {other.name} plays {theirs}: returns of different tasks are not "
                "comparable; choose one with --env, among tasks of one id with an EnvSpec from Python"
            )
    if len({env_backend(one.env) for one in found}) > 1:
        # Some wrapper keeps one of them in gymnasium; the same seeds mean the same episodes in one library only.
        found = [Contestant(one.name, one.policy, replace(one.env, backend="gymnasium")) for one in found]
    taken: dict[str, int] = {}
    unique = []
    for one in found:
        taken[one.name] = taken.get(one.name, 0) + 1
        name = one.name if taken[one.name] == 1 else f"{one.name} ({taken[one.name]})"
        unique.append(Contestant(name, one.policy, one.env))
    return unique


def _task(spec: EnvSpec) -> dict[str, Any]:
    """Return what decides the return of an episode; wrappers that only change what is seen do not."""
    task: dict[str, Any] = {"id": spec.id, "kwargs": dict(spec.kwargs)}
    for wrapper in spec.wrappers:
        if wrapper.get("type") == "time_limit":
            task["time_limit"] = [*task.get("time_limit", ()), wrapper.get("max_steps")]
        if wrapper.get("type") == "atari":
            options = AtariOptions.read(wrapper)
            task |= {name: getattr(options, name) for name in ("frame_skip", "noop_max", "sticky", "fire_reset")}
    return task


def _told_apart(one: EnvSpec, other: EnvSpec) -> list[str]:
    """Return words for two tasks: their ids, or what differs where these are the same."""
    tasks = [_task(one), _task(other)]
    if one.id != other.id:
        return [one.id, other.id]
    (name, *_) = (name for name in {**tasks[0], **tasks[1]} if tasks[0].get(name) != tasks[1].get(name))
    return [f"{one.id} {f'with {name} {task[name]}' if name in task else f'without {name}'}" for task in tasks]


def check_episodes(episodes: int, seed: int, num_envs: int = 1) -> None:
    """Refuse to play nothing, and seeds that are none.

    Raises:
        UserError: With the numbers.
    """
    _check_whole(episodes=episodes, seed=seed, num_envs=num_envs)
    if episodes < 1 or num_envs < 1:
        raise UserError(f"an evaluation needs at least 1 episode and 1 environment, not {episodes} and {num_envs}")
    if seed < 0:
        raise UserError(f"seeds are not negative, but seed is {seed}")


def _check_whole(**numbers: Any) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise UserError(f"{name} is {number!r}; it must be a whole number")


def check_spaces(contestant: Contestant, observations: gym.Space[Any], actions: gym.Space[Any]) -> None:
    """Refuse an environment that a policy was not made for, before it fails somewhere inside.

    Raises:
        UserError: The action space differs, or observations of one array differ in shape.
    """
    mine: Any = getattr(contestant.policy, "action_space", actions)
    if not same_choices(mine, actions):
        raise UserError(f"{contestant.name} acts in {mine}, but {contestant.env.id} takes {actions}")
    seen = getattr(contestant.policy, "observation_space", observations)
    boxes = isinstance(seen, gym.spaces.Box) and isinstance(observations, gym.spaces.Box)
    image = len(seen.shape or ()) == 3  # channels first or last: predict sorts it out
    if boxes and not image and seen.shape != observations.shape:
        raise UserError(
            f"{contestant.name} sees observations of shape {seen.shape}, but {contestant.env.id} gives "
            f"{observations.shape}: is a wrapper missing?"
        )


def _says_no_env(source: Any) -> bool:
    return _acts(source) and getattr(getattr(source, "about", None), "env", None) is None


def _acts(source: Any) -> bool:
    """Say whether an object acts as it stands; a model of Stable-Baselines3 may want its observations normalised."""
    return hasattr(source, "predict") and not is_model(source)


def _short_name(source: Any, policy: Any) -> str:
    """The last two parts of a path without its suffix; a policy's own name otherwise."""
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else policy_name(policy)
    path = Path(text)
    known = (".safetensors", ".zip", ".onnx", ".pt", ".ts", ".pth", ".torchscript")
    parts = [*path.parts[:-1], path.stem if path.suffix in known else path.name]
    return "/".join(part for part in parts[-2:] if part != "/") or text
