"""One gymnasium environment from its description: registration on demand, construction, wrappers."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import logging
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec as GymSpec

from understudy.data import EnvSpec
from understudy.env_names import REGISTERED_BY
from understudy.envs import atari, wrappers
from understudy.envs.quiet import quiet
from understudy.errors import UserError, missing_extra, suggest
from understudy.imports import brought, import_module
from understudy.imports import find as find_named

# Modules of gymnasium whose simulator is an extra.
_SIMULATORS = {"gymnasium.envs.mujoco": ("mujoco", "mujoco"), "gymnasium.envs.box2d": ("box2d", "box2d")}


def register(env_id: str) -> None:
    """Import what registers an id, where that is known.

    Raises:
        UserError: The package is not installed.
    """
    for pattern, module, package, extra in REGISTERED_BY:
        if pattern.match(env_id):
            if importlib.util.find_spec(module) is None:
                purpose = f"the environment {env_id}"
                raise (
                    missing_extra(package, extra, purpose)
                    if extra
                    else UserError(f"{purpose} needs the package {package!r}: run  pip install {package}")
                )
            importlib.import_module(module)
            if module == "minigrid":
                _hush_minigrid()
            if module == "minatar":
                _register_minatar()


def _hush_minigrid() -> None:
    """Keep BabyAI from printing a line for every level that it draws anew: thousands in a run."""
    level: Any = importlib.import_module("minigrid.envs.babyai.core.roomgrid_level")
    level.print = lambda *_: None


def _register_minatar() -> None:
    """Register MinAtar's games, which importing it does not; only its pictures need the Seaborn that it warns about."""
    if "MinAtar/Breakout-v1" not in gym.registry:
        logging.disable(logging.WARNING)
        try:
            importlib.import_module("minatar.gym").register_envs()
        finally:
            logging.disable(logging.NOTSET)


def find(env_id: str) -> GymSpec:
    """Return gymnasium's entry for an id, registering it first where that is known.

    Of ``module:Name-v0`` the module is imported, which registers the id; ``module:Name`` may be a class or function
    that makes an environment.

    Raises:
        UserError: No such id, or one that gymnasium gave up; the message names the successor or near ids.
    """
    module, colon, name = env_id.partition(":")
    with quiet(env_id):
        if colon:
            return _find_in(module, name, env_id)
        register(env_id)
        try:
            return gym.spec(env_id)
        except gym.error.DeprecatedEnv as error:
            raise UserError(str(error)) from error
        except gym.error.Error as error:
            near = suggest(env_id, gym.registry) or "; give the module that registers it, as 'module:Name-v0'"
            raise UserError(f"there is no environment {env_id!r}{near}") from error


def _find_in(module: str, name: str, env_id: str) -> GymSpec:
    """Return the entry of what a module registers or defines, unless another process brought it."""
    known = brought.get(env_id)
    if isinstance(known, GymSpec):
        return known
    if known is None:
        import_module(module, f"the environment {env_id}")
        if name in gym.registry:
            return gym.registry[name]
    try:
        maker = find_named(env_id, f"there is no environment {env_id!r}")
    except UserError as error:
        raise UserError(f"{error}, and it registers no such id{suggest(name, gym.registry)}") from None
    if not callable(maker):
        raise UserError(f"the environment {env_id} is not a class or function that makes one")
    return GymSpec(name, maker)


def exists(env_id: str) -> bool:
    """Say whether gymnasium knows an id; nothing is imported for it but what registers it."""
    try:
        find(env_id)
    except UserError:
        return False
    return True


def build(spec: EnvSpec, render: bool = False) -> gym.Env[Any, Any]:
    """Build one environment with its wrappers; gymnasium's checker and order enforcer stay out, for speed.

    Raises:
        UserError: The id, an argument or a wrapper is wrong, or the simulator is not installed.
    """
    entry = copy.copy(find(spec.id))
    entry.order_enforce, entry.disable_env_checker = False, True
    kwargs = dict(spec.kwargs)
    if str(entry.entry_point).startswith("ale_py"):
        kwargs = {**atari.emulator_kwargs(spec), **kwargs}
    if render:
        kwargs["render_mode"] = "rgb_array"
    _preload(entry)
    with quiet(spec.id):
        try:
            env = gym.make(entry, **kwargs)
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise _not_installed(spec.id, entry, error) from error
        except TypeError as error:
            told, none = str(error).split(" was raised")[0], "takes no arguments"
            if render and ("'render_mode'" in told or (none in told and not spec.kwargs)):
                raise UserError(f"{spec.id} cannot be drawn: what makes it takes no render_mode") from error
            if "unexpected keyword argument" in told or none in told:
                raise UserError(f"{spec.id}: {told} (kwargs {dict(spec.kwargs)})") from error
            raise
    try:
        return wrappers.wrap(env, spec)
    except UserError:
        env.close()
        raise


def _preload(entry: GymSpec) -> None:
    """Import MuJoCo first where it is needed, so that ``quiet`` can reach it."""
    if str(entry.entry_point).startswith("gymnasium.envs.mujoco"):
        with contextlib.suppress(ImportError):
            importlib.import_module("mujoco")


def _not_installed(env_id: str, entry: GymSpec, error: Exception) -> UserError:
    """Say what to install, or which version of the environment lives on."""
    where = str(entry.entry_point)
    for module, (package, extra) in _SIMULATORS.items():
        if where.startswith(module):
            return missing_extra(package, extra, f"the environment {env_id}")
    ids = [other for other in gym.registry if other.rsplit("-v", 1)[0] == env_id.rsplit("-v", 1)[0]]
    later = [other for other in ids if other != env_id and "_raise" not in str(gym.registry[other].entry_point)]
    return UserError(f"{env_id}: {error}" + (f" Use {' or '.join(sorted(later))} instead." if later else ""))
