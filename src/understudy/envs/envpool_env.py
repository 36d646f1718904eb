"""EnvPool: environments in C++, many per call, brought to same-step resets.

``auto`` takes from it what is faster however few environments there are: BipedalWalker (1.3 times gymnasium's rate for
1 environment, 2.2 for 8, 2.8 for 32, one thread), and MiniGrid with BabyAI. A call costs about 50 us before any
physics (a thread is woken), so LunarLander (0.5, 1.5, 2.0), HalfCheetah (0.4, 1.3, 1.3) and classic control (CartPole:
0.1, 0.6, 1.3) wait for ``backend: envpool``, as everything else that it has. The choice must not depend on the number
of environments: workers that share a run out differently would see other episodes.

Are they the same tasks? Classic control and HalfCheetah agree with gymnasium transition by transition (a test). Box2D's
states cannot be set: over 320 episodes of a PPO teacher, BipedalWalker returns 221.7 +- 7.0 here and 222.6 +- 6.9 in
gymnasium (of the episodes that succeed 303.44 and 303.45); LunarLander of a DQN teacher 163.7 +- 4.6 and 145.9 +- 4.6,
which is no proof of sameness.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array, EnvSpec, Observation
from understudy.envs.base import Step
from understudy.envs.build import build
from understudy.envs.checks import Finite, check_space, new_observation
from understudy.envs.quiet import quiet
from understudy.errors import UserError, missing_extra, suggest

_AUTO = re.compile(r"BipedalWalker(Hardcore)?-v3|(MiniGrid|BabyAI)-[\w-]+-v\d+")
# The part of EnvPool that registers an id.
_FAMILIES = (
    (re.compile(r"(CartPole|Pendulum|Acrobot|MountainCar|MountainCarContinuous)-v\d+"), "classic_control"),
    (re.compile(r"(LunarLander|LunarLanderContinuous|BipedalWalker|BipedalWalkerHardcore)-v\d+"), "box2d"),
    (re.compile(r"(MiniGrid|BabyAI)-[\w-]+-v\d+"), "minigrid"),
    (re.compile(r"(HalfCheetah|Ant|Hopper|Walker2d|Swimmer|Humanoid)-v\d+"), "mujoco.gym"),
)

# The wrappers that it can stand in for, each with its one argument.
_ARGUMENT = {"time_limit": "max_steps", "mission": "length"}
_NEVER = 2**31 - 1
"""The limit of EnvPool's episodes that have none; 0 and less truncate every step."""


def is_installed() -> bool:
    """Say whether EnvPool can be imported, without importing it."""
    return importlib.util.find_spec("envpool") is not None


def suits(spec: EnvSpec) -> bool:
    """Say whether ``auto`` should take EnvPool for a description: installed, known to be right, and faster."""
    asked = _AUTO.fullmatch(spec.id) is not None and not _obstacle(spec)
    return asked and is_installed() and spec.id in _specs(spec.id)


def _family(env_id: str) -> str | None:
    return next((family for pattern, family in _FAMILIES if pattern.fullmatch(env_id)), None)


def _obstacle(spec: EnvSpec) -> str:
    """Return what in a description EnvPool cannot do, or an empty string."""
    for key in spec.kwargs:
        if key != "max_episode_steps":
            return f"the argument {key!r}"
    for options in spec.wrappers:
        kind = str(options.get("type"))
        if kind not in _ARGUMENT or (kind == "mission" and _family(spec.id) != "minigrid"):
            return f"the wrapper {kind!r}"
        value = options.get(_ARGUMENT[kind])
        if set(options) != {"type", _ARGUMENT[kind]} or not isinstance(value, int) or value < 1:
            return f"the wrapper {dict(options)}"
    return ""


def _specs(env_id: str) -> Any:
    """Return EnvPool's registry, by id, after importing what registers an id.

    ``import envpool`` imports all of its families, 2.6 s and matplotlib with them, which every worker would pay; the
    one that is needed takes 0.2 s. So its list of imports is put aside, and read when an id is not on ours.
    """
    family = _family(env_id)
    if family is not None and "envpool" not in sys.modules:
        sys.modules["envpool.entry"] = types.ModuleType("envpool.entry")
        try:
            importlib.import_module("envpool")
        finally:
            del sys.modules["envpool.entry"]
    importlib.import_module(f"envpool.{family}.registration" if family is not None else "envpool.entry")
    return importlib.import_module("envpool.registration").registry.specs


def episode_limit(spec: EnvSpec) -> int | None:
    """Return the steps after which episodes are truncated; None where each has its own limit, or none has one."""
    _specs(spec.id)
    limits = [_configured(spec, **_options(spec)), *([_counted(spec)] if _counted(spec) else [])]
    return min((limit for limit in limits if 0 < limit < _NEVER), default=None)


def _configured(spec: EnvSpec, **options: Any) -> int:
    """Return the limit that EnvPool has for an id; 0 where each level has its own."""
    return int(importlib.import_module("envpool.registration").make_spec(spec.id, **options).config.max_episode_steps)


def _asked(spec: EnvSpec) -> int:
    """Return the smallest time limit of a description; 0 where it has none."""
    limits = [spec.kwargs.get("max_episode_steps") or 0]
    limits += [int(w["max_steps"]) for w in spec.wrappers if w["type"] == "time_limit"]
    return min((limit for limit in limits if limit > 0), default=0)


def _counted(spec: EnvSpec) -> int:
    """Return the time limit that is counted here: in MiniGrid rewards shrink with EnvPool's, so that one stays."""
    return _asked(spec) if _family(spec.id) == "minigrid" else 0


def _options(spec: EnvSpec) -> dict[str, Any]:
    """Return EnvPool's arguments for a description, the smallest of its time limits."""
    if _family(spec.id) == "minigrid":
        return {}
    limit = _asked(spec)
    if spec.kwargs.get("max_episode_steps"):
        return {"max_episode_steps": limit or _NEVER}
    own = _configured(spec) if limit else 0
    return {"max_episode_steps": min(limit, own) if own > 0 else limit} if limit else {}


class EnvpoolVectorEnv:
    """B environments of one EnvPool with one thread (they take microseconds; processes are the parallelism here).

    EnvPool takes seeds when a pool is made, so ``reset`` makes a new one. Row i depends on its seed alone, but the seed
    gives other episodes than gymnasium does. A task that ends in the very step of the time limit reads as truncated,
    because EnvPool does not report the two apart.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, render: bool = False) -> None:
        """Describe the pool; it is made by the first ``reset``.

        Raises:
            UserError: EnvPool is not installed, has no such id, or cannot do what is asked.
        """
        if not is_installed():
            raise missing_extra("envpool", "envpool", f"the environment {spec.id} with backend 'envpool'")
        known = _specs(spec.id)
        if spec.id not in known:
            raise UserError(f"EnvPool has no environment {spec.id!r}{suggest(spec.id, known)}")
        if obstacle := _obstacle(spec):
            raise UserError(f"{spec.id}: EnvPool does not take {obstacle}; set backend: gymnasium")
        self.spec, self.num_envs = spec, num_envs
        self._rendered = render
        self._limit, self._steps = _counted(spec), np.zeros(num_envs, np.int64)
        self._pool: Any = None
        pool = self._make([0] * num_envs)
        with quiet(spec.id):
            self.observation_space, self.action_space = _spaces(pool, spec)
        check_space(spec.id, self.observation_space)
        self._length = next((int(w["length"]) for w in spec.wrappers if w["type"] == "mission"), 0)
        if self._length:
            self.observation_space = _with_mission(self.observation_space, self._length)
        self._action_dtype = pool.spec.action_array_spec["action"].dtype
        self._all = np.arange(num_envs, dtype=np.int32)
        self._obs, self._final = (new_observation(self.observation_space, num_envs) for _ in range(2))
        self._reward = np.zeros(num_envs, np.float32)
        self._terminated, self._truncated = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self._finite = Finite(spec.id, self._obs, self._reward)

    def _make(self, seeds: Sequence[int]) -> Any:
        self.close()
        options = _options(self.spec)
        if self._rendered:
            options["render_mode"] = "rgb_array"
        make = importlib.import_module("envpool.registration").make
        # EnvPool keeps seeds in 32 bits.
        seeds = [int(seed) % 2**31 for seed in seeds]
        with quiet(self.spec.id):
            self._pool = make(self.spec.id, "gymnasium", num_envs=self.num_envs, num_threads=1, seed=seeds, **options)
            _ = self._pool.observation_space  # built when first asked for, with a remark about its precision
        return self._pool

    def reset(self, seeds: Sequence[int]) -> Observation:
        """Start new episodes everywhere, environment i with ``seeds[i]``."""
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        self._make(seeds)
        self._finite.step = 0
        self._reset(self._all)
        return self._obs

    def _reset(self, rows: Array) -> None:
        self._steps[rows] = 0
        obs, info = self._pool.reset(rows)
        _scatter(self._obs, info["env_id"], self._cut(obs))

    def _cut(self, obs: Any) -> Any:
        """Return observations whose missions have the length that the wrapper ``mission`` asks for.

        Raises:
            UserError: A mission is longer.
        """
        if not self._length:
            return obs
        text, wanted = obs["mission"], self._length
        if text.shape[1] > wanted and text[:, wanted:].any():
            longest = int(np.flatnonzero(text.any(axis=0)).max()) + 1
            raise UserError(
                f"{self.spec.id}: a mission needs {longest} bytes: give the wrapper mission that length or more, "
                f"not {wanted}"
            )
        missing = max(wanted - text.shape[1], 0)
        return {**obs, "mission": np.pad(text, ((0, 0), (0, missing))) if missing else text[:, :wanted]}

    def step(self, actions: Array, active: Array | None = None) -> Step:
        """Step the active rows with [B, ...] actions; see ``VectorEnv``.

        Raises:
            UserError: An observation or reward is not finite.
        """
        acts, rows = np.asarray(actions).astype(self._action_dtype), self._all
        if active is not None:
            rows = np.flatnonzero(active).astype(np.int32)
            acts = acts[rows]
            self._terminated.fill(False)
            self._truncated.fill(False)
            if not rows.size:
                return Step(self._obs, self._reward, self._terminated, self._truncated, None)
        obs, reward, terminated, truncated, info = self._pool.step(acts, rows)
        rows = info["env_id"]
        _scatter(self._obs, rows, self._cut(obs))
        self._steps[rows] += 1
        if self._limit:
            truncated = truncated | (self._steps[rows] >= self._limit) & ~terminated
        self._reward[rows], self._terminated[rows], self._truncated[rows] = reward, terminated, truncated
        self._finite.step += 1
        self._finite.check()
        ended = rows[terminated | truncated]
        if ended.size:
            _scatter(self._final, ended, _rows(self._obs, ended))
            self._reset(np.sort(ended))
        return Step(self._obs, self._reward, self._terminated, self._truncated, self._final if ended.size else None)

    def render(self) -> Array | None:
        """Return a picture of environment 0, [H, W, 3] uint8, if it was made with ``render``."""
        return np.asarray(self._pool.render())[0] if self._rendered else None

    def close(self) -> None:
        """Free the pool; may be called twice."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _spaces(pool: Any, spec: EnvSpec) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Return gymnasium's spaces where it has the id and can build it, so that policies fit both; else EnvPool's."""
    try:
        env = build(EnvSpec(spec.id))
        env.close()
        if isinstance(env.observation_space, gym.spaces.Box):  # Box2D's bounds are wrong in EnvPool
            return env.observation_space, env.action_space
    except UserError:
        pass
    return pool.observation_space, pool.action_space


def _with_mission(space: gym.Space[Any], length: int) -> gym.Space[Any]:
    """Return the space with missions of that many bytes."""
    assert isinstance(space, gym.spaces.Dict)
    return gym.spaces.Dict({**space.spaces, "mission": gym.spaces.Box(0, 255, (length,), np.uint8)})


def _scatter(into: Observation, rows: Array, obs: Any) -> None:
    if isinstance(into, dict):
        for key, array in into.items():
            array[rows] = obs[key]
    else:
        into[rows] = obs


def _rows(obs: Observation, rows: Array) -> Observation:
    return {key: array[rows] for key, array in obs.items()} if isinstance(obs, dict) else obs[rows]
