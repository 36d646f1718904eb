"""What users call an environment: an id, a description, or a class or function of their own.

Every process must be able to build it, so all become something that can be written down. An id that only this process
knows, because the user's program registered it, becomes ``module:Name-v0``; a class or function ``module:Name``. A
description that is sent to a worker brings the code of what the program itself defines.
"""

from __future__ import annotations

import copyreg
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, overload

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as GymSpec

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.imports import brought, module_name, name_of, packed, program, refuse_while_importing, unpacked

EnvLike = str | EnvSpec | gym.Env[Any, Any] | Callable[..., gym.Env[Any, Any]]
"""An id, a description, a class or function that makes an environment, or one that ``gym.make`` made."""
REGISTERED_BY = (
    (re.compile(r".*Bullet\w*Env-v\d+$"), "pybullet_envs_gymnasium", "pybullet_envs_gymnasium", "pybullet"),
    (re.compile(r"^Panda\w+-v\d+$"), "panda_gym", "panda-gym", None),
    (re.compile(r"^ALE/|NoFrameskip-v[04]$"), "ale_py", "ale-py", "atari"),
    (re.compile(r"^(MiniGrid|BabyAI)-"), "minigrid", "minigrid", "minigrid"),
    (re.compile(r"^MinAtar/"), "minatar", "MinAtar", None),
    (re.compile(r"^understudy/"), "understudy.envs.probes", "understudy", None),
)
"""Pattern of an id, the module that registers it, its package, the extra of ours that installs it."""


@overload
def named(env: EnvLike) -> str | EnvSpec: ...
@overload
def named(env: None) -> None: ...
def named(env: EnvLike | None) -> str | EnvSpec | None:
    """Return an id or a description from which any process can build the environment; None for None.

    Raises:
        UserError: It cannot be described.
    """
    if env is None:
        return None
    if isinstance(env, str):
        return importable(env)
    if isinstance(env, EnvSpec):
        return replace(env, id=importable(env.id))
    if isinstance(env, gym.Env):
        return _of_instance(env)
    if not callable(env):
        kind = type(env).__name__
        raise UserError(
            f"an environment cannot be of the type {kind}: give an id, a class or function that makes it, or an EnvSpec"
        )
    if isinstance(env, partial) and not env.args and (maker := name_of(env.func)) is not None:
        return EnvSpec(maker, env.keywords)
    name = name_of(env)
    if name is None:
        raise UserError(
            f"the environment {getattr(env, '__qualname__', env)!s} cannot be found again by its name, as worker "
            "processes must: give a class or function that stands at the top of a module"
        )
    return name


def all_named(env: EnvLike | Sequence[EnvLike] | None) -> list[str | EnvSpec]:
    """Return what ``named`` does for one environment or several of a run; none for None.

    Raises:
        UserError: As ``named``; or a module that is only being imported begins the run.
    """
    refuse_while_importing()
    if isinstance(env, Sequence) and not isinstance(env, str):
        return [named(each) for each in env]
    return [] if env is None else [named(env)]


def importable(env_id: str) -> str:
    """Return an id with the module that registers it, where a fresh process would not know it."""
    entry = gym.registry.get(env_id)
    if entry is None or ":" in env_id or any(pattern.match(env_id) for pattern, *_ in REGISTERED_BY):
        return env_id
    where: Any = entry.entry_point
    module = where.split(":")[0] if isinstance(where, str) else getattr(where, "__module__", None)
    if module is None or module.split(".")[0] == "gymnasium":
        return env_id
    return f"{module_name(module)}:{env_id}"


def is_known(env_id: str) -> bool:
    """Say whether ``module:Name-v0`` is known in this process, so that building it imports nothing."""
    module, _, name = env_id.partition(":")
    return name in gym.registry and (module in sys.modules or module == program())


def _of_instance(env: gym.Env[Any, Any]) -> EnvSpec:
    """Describe what ``gym.make`` made."""
    made, spec = type(env.unwrapped).__name__, env.spec
    again = f"give the class {made} or a function that makes it" if spec is None else "give a function that makes it"
    if spec is None or spec.additional_wrappers:
        what = "was not made by gym.make" if spec is None else "is wrapped"
        raise UserError(f"an environment object ({made}) that {what} cannot be built again in other processes: {again}")
    return of_gym(spec)


def of_gym(spec: GymSpec) -> EnvSpec:
    """Return our description of an environment that ``gym.make`` made, without the wrappers that were put around it."""
    kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
    known = gym.registry.get(spec.id)
    if known is not None and known.max_episode_steps != spec.max_episode_steps:
        kwargs["max_episode_steps"] = spec.max_episode_steps
    return EnvSpec(importable(spec.id), kwargs)


def env_settings(env: EnvLike | None) -> dict[str, Any]:
    """Return the settings of a run that name an environment, to be merged over others; none for None.

    Raises:
        UserError: As ``named``; or a module that is only being imported begins the run.
    """
    refuse_while_importing()
    found = named(env)
    if found is None:
        return {}
    return {"env": {"id": found} if isinstance(found, str) else found.to_json()}


def _code_of(spec: EnvSpec) -> tuple[str, bytes] | None:
    """Return what the program that was started registered or defined under the description's id, by name."""
    module, _, name = spec.id.partition(":")
    if not name or module != program():
        return None
    top = name.split(".")[0]
    made = gym.registry.get(name)
    code = packed(getattr(sys.modules["__main__"], top, None) if made is None else made)
    return None if code is None else (f"{module}:{top if made is None else name}", code)


def _arrive(fields: tuple[Any, ...], code: tuple[str, bytes] | None) -> EnvSpec:
    """Build a description that another process sent, with the code of its environment."""
    if code is not None and code[0] not in brought and code[0].partition(":")[0] != program():
        brought[code[0]] = unpacked(code[1])
    return EnvSpec(*fields)


def _send(spec: EnvSpec) -> tuple[Any, ...]:
    fields = spec.id, dict(spec.kwargs), spec.wrappers, spec.backend
    return _arrive, (fields, _code_of(spec))


copyreg.pickle(EnvSpec, _send)
