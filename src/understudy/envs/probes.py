"""Tiny environments for tests; each can fail for one cause only. Importing this module registers them.

| id (``understudy/...``) | what it probes |
|---|---|
| ConstantAction-v0 | reward 1 for action 1, whatever is seen |
| IdentityDiscrete-v0, IdentityMultiDiscrete-v0, IdentityBox-v0 | one step; reward for the action that is shown |
| Memory-v0 | the first observation shows what to do in the last step |
| Bad-v0 | ``what`` (``obs`` or ``reward``) becomes ``value`` (nan) in step ``after`` |
| Raising-v0, Hanging-v0 | raises, or sleeps for ``seconds``, in step ``after``; with ``flag``, see ``Probe._fails`` |
| LengthBias-v0 | half of the episodes last 1 step and return 0, the others 100 steps and return 1 |
| Privileged-v0 | the key ``privileged`` shows the right action, ``observation`` only noise |
| Whose-v0 | the key ``who`` says 0 or 1, all along an episode; no reward |
| Chain-v0 | ``length`` right actions in a row earn 1, a wrong one ends the episode: chance finds nothing |
"""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np

Result = tuple[Any, float, bool, bool, dict[str, Any]]


class Probe(gym.Env[Any, Any]):
    """Counts steps; what is seen comes from ``_see``, what happens from ``_act``."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._t = 0
        return self._see(), {}

    def step(self, action: Any) -> Result:
        """Step; time limits come from the registration."""
        self._t += 1
        reward, terminated = self._act(action)
        return self._see(), reward, terminated, False, {}

    def _see(self) -> Any:
        return np.array([self._t], np.float32)

    def _act(self, action: Any) -> tuple[float, bool]:
        return 0.0, False

    def _fails(self, after: int, flag: str) -> bool:
        """Whether to fail now: in step ``after``.

        With ``flag``, the path of a file, from that step on, and only the one instance of all processes that takes the
        file away: FLAG becomes FLAG.PID, so that others know when it happened (``st_ctime``), and to whom.
        """
        if not flag:
            return self._t == after
        try:
            if self._t >= after:
                os.rename(flag, f"{flag}.{os.getpid()}")
                return True
        except FileNotFoundError:
            pass
        return False

    observation_space: gym.Space[Any] = gym.spaces.Box(0, np.inf, (1,))
    action_space: gym.Space[Any] = gym.spaces.Discrete(2)


class ConstantAction(Probe):
    """Ten steps; reward 1 for action 1."""

    def _act(self, action: Any) -> tuple[float, bool]:
        return float(action == 1), False


class Identity(Probe):
    """One step; discrete choices earn 1 if all are matched, continuous actions minus their squared error."""

    def __init__(self, kind: str) -> None:
        self.action_space = {
            "discrete": gym.spaces.Discrete(3),
            "multidiscrete": gym.spaces.MultiDiscrete([3, 2]),
            "box": gym.spaces.Box(-1, 1, (2,)),
        }[kind]
        self._nvec = {"discrete": [3], "multidiscrete": [3, 2], "box": []}[kind]
        self.observation_space = gym.spaces.Box(-1, 1, (sum(self._nvec) or 2,))

    def _see(self) -> Any:
        if not self._nvec:
            self._shown = self.np_random.uniform(-1, 1, 2).astype(np.float32)
            return self._shown
        self._wanted = self.np_random.integers(self._nvec)
        return np.concatenate([np.eye(n, dtype=np.float32)[i] for n, i in zip(self._nvec, self._wanted, strict=True)])

    def _act(self, action: Any) -> tuple[float, bool]:
        if not self._nvec:
            return -float(np.square(action - self._shown).sum()), True
        return float(np.array_equal(np.ravel(action), self._wanted)), True


class Memory(Probe):
    """The cue, 1 or -1, is seen once; the action of the last step (of ``delay``) earns 1 if it repeats the cue."""

    def __init__(self, delay: int = 4) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,))
        self._delay = delay

    def _see(self) -> Any:
        if self._t == 0:
            self._cue = int(self.np_random.integers(2))
            return np.array([2 * self._cue - 1, 0], np.float32)
        return np.array([0, self._t == self._delay - 1], np.float32)

    def _act(self, action: Any) -> tuple[float, bool]:
        last = self._t >= self._delay
        return float(last and int(action) == self._cue), last


class Bad(Probe):
    """Shows or pays a number that is none."""

    def __init__(self, what: str = "obs", after: int = 3, value: float = float("nan")) -> None:
        self._what, self._after, self._value = what, after, value

    def _see(self) -> Any:
        return np.array([self._value if self._t == self._after and self._what == "obs" else 0], np.float32)

    def _act(self, action: Any) -> tuple[float, bool]:
        return (self._value if self._t == self._after and self._what == "reward" else 0.0), False


class Raising(Probe):
    """Raises a RuntimeError."""

    def __init__(self, after: int = 3, flag: str = "") -> None:
        self._after, self._flag = after, flag

    def _act(self, action: Any) -> tuple[float, bool]:
        if self._fails(self._after, self._flag):
            raise RuntimeError(f"this probe raises in step {self._t}")
        return 0.0, False


class Hanging(Probe):
    """Sleeps."""

    def __init__(self, after: int = 3, seconds: float = 3600.0, flag: str = "") -> None:
        self._after, self._seconds, self._flag = after, seconds, flag

    def _act(self, action: Any) -> tuple[float, bool]:
        if self._fails(self._after, self._flag):
            time.sleep(self._seconds)
        return 0.0, False


class LengthBias(Probe):
    """The mean return is 0.5; means over the episodes that have ended so far start near 0."""

    def __init__(self, length: int = 100) -> None:
        self._length = length

    def _see(self) -> Any:
        if self._t == 0:
            self._long = bool(self.np_random.integers(2))
        return np.array([self._t], np.float32)

    def _act(self, action: Any) -> tuple[float, bool]:
        last = self._t >= (self._length if self._long else 1)
        return float(last and self._long), last


class Privileged(Probe):
    """Ten steps; reward 1 for the action under ``privileged``."""

    def __init__(self) -> None:
        noise, cue = gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(0, 1, (1,))
        self.observation_space = gym.spaces.Dict({"observation": noise, "privileged": cue})

    def _see(self) -> Any:
        self._cue = int(self.np_random.integers(2))
        noise = self.np_random.normal(size=3).astype(np.float32)
        return {"observation": noise, "privileged": np.array([self._cue], np.float32)}

    def _act(self, action: Any) -> tuple[float, bool]:
        return float(int(action) == self._cue), False


class Whose(Probe):
    """Ten steps; the same number under ``who`` in all of them."""

    def __init__(self) -> None:
        numbers = {"observation": gym.spaces.Box(-np.inf, np.inf, (1,)), "who": gym.spaces.Discrete(2)}
        self.observation_space = gym.spaces.Dict(numbers)

    def _see(self) -> Any:
        if self._t == 0:
            self._who = int(self.np_random.integers(2))
        return {"observation": np.array([self._t], np.float32), "who": np.int64(self._who)}


class Chain(Probe):
    """The right action changes from place to place (``wanted``); each place is seen as itself alone."""

    def __init__(self, length: int = 14) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (length + 1,))
        self._length = length

    @staticmethod
    def wanted(place: Any) -> Any:
        """Return the right action at a place, or at many."""
        return np.asarray(place) * 7 // 3 % 2

    def _see(self) -> Any:
        return np.eye(self._length + 1, dtype=np.float32)[self._t]

    def _act(self, action: Any) -> tuple[float, bool]:
        right = int(action) == self.wanted(self._t - 1)
        done = right and self._t == self._length
        return float(done), done or not right


def _register(name: str, env: type[Probe], limit: int | None, **kwargs: Any) -> None:
    if f"understudy/{name}" not in gym.registry:
        gym.register(f"understudy/{name}", f"{__name__}:{env.__name__}", max_episode_steps=limit, kwargs=kwargs)


_register("ConstantAction-v0", ConstantAction, 10)
_register("IdentityDiscrete-v0", Identity, None, kind="discrete")
_register("IdentityMultiDiscrete-v0", Identity, None, kind="multidiscrete")
_register("IdentityBox-v0", Identity, None, kind="box")
_register("Memory-v0", Memory, None)
_register("Bad-v0", Bad, 100)
_register("Raising-v0", Raising, 100)
_register("Hanging-v0", Hanging, 100)
_register("LengthBias-v0", LengthBias, None)
_register("Privileged-v0", Privileged, 10)
_register("Whose-v0", Whose, 10)
_register("Chain-v0", Chain, None)
