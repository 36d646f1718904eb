"""Teachers that are a black box: batches of observations go in, arrays come out (TorchScript, ONNX, callables)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from understudy.data import Array, EnvSpec, Observation, Target, map_obs
from understudy.errors import UserError
from understudy.policies import distributions
from understudy.policies.batching import batch_observation
from understudy.policies.family import ActionMap, Family, family_for
from understudy.policies.policy import About, TensorState
from understudy.teachers.inspect import space_text

OUTPUTS = ("action", "logits", "q_values", "gaussian")
_SURE = 20.0
"""Logit of an action that a deterministic discrete teacher takes; the others have 0, so exp(-20) of its probability."""


class SpacesError(UserError):
    """A teacher does not say its spaces, and nobody else did."""


@dataclass(frozen=True)
class Asked:
    """What the caller of ``load`` said about a teacher that may not say it itself."""

    env: EnvSpec | None = None
    device: str = "cpu"
    observation_space: gym.Space[Any] | None = None
    action_space: gym.Space[Any] | None = None
    output: str | None = None


class OpaqueTeacher(ABC):
    """The base of black-box teachers; a subclass says how it is asked.

    Args:
        name: What to call it in errors.
        algorithm: What kind of thing it is.
        asked: Spaces, meaning of the output, environment. Without ``output``, discrete actions are taken for logits
            where the sizes match, everything else for actions in environment units.

    Raises:
        SpacesError: The spaces are not known.
        UserError: ``output`` is no known meaning or does not fit the action space.
    """

    def __init__(self, name: str, algorithm: str, asked: Asked) -> None:
        if asked.observation_space is None or asked.action_space is None:
            raise SpacesError(
                f"the teacher {name} does not say its observation and action space: pass --env "
                "(from Python: env=, or observation_space= and action_space=)"
            )
        self.name = name
        self.about = About(algorithm, name, asked.env)
        self.observation_space, self.action_space = asked.observation_space, asked.action_space
        self._map = ActionMap(self.action_space)
        self._output = asked.output or ""
        self._family: Family | None = None
        self.recipe: dict[str, Any] | None = None
        """``source`` and ``kwargs`` of the ``load`` that made it, where it can be loaded again by name."""
        if asked.output is not None:
            self._settle(asked.output)

    def __repr__(self) -> str:
        seen, done = space_text(self.observation_space), space_text(self.action_space)
        return f"<{self.about.algorithm} {self.name}: {seen} -> {done}>"

    @abstractmethod
    def _ask(self, obs: Observation) -> list[Array]:
        """Answer [N, ...] observations with one or more arrays [N, ...]."""

    @property
    def parameters_count(self) -> int:
        """How many numbers it takes to act, 0 if that is not known."""
        return 0

    @property
    def family(self) -> Family:
        """The distribution family; found by asking about one observation where the caller did not say."""
        if self._family is None:
            self._params(map_obs(lambda a: a[None], _zeros(self.observation_space)))
        assert self._family is not None
        return self._family

    def initial_state(self, batch: int) -> TensorState:
        """Return None: black boxes have no memory here."""
        return None

    def label(self, obs: Observation, state: TensorState = None, episode_start: Any = None) -> tuple[Target, None]:
        """Return distribution parameters in unit actions for [N, ...] observations.

        Raises:
            UserError: The teacher answers NaN, or arrays of the wrong shape.
        """
        batch, _ = batch_observation(map_obs(np.asarray, obs), self.observation_space)
        params = torch.as_tensor(self._params(batch))
        if self.family.continuous:
            params = distributions.to_unit(params, self.family, self._map)
        return Target(params), None

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, None]:
        """Act as Stable-Baselines3 models do; see ``Policy.predict``.

        Raises:
            UserError: The observation does not fit the space, or the teacher answers NaN.
        """
        obs, single = batch_observation(observation, self.observation_space)
        params = torch.as_tensor(self._params(obs))
        choose = distributions.mode if deterministic else distributions.sample
        actions = self._map.to_env(choose(self.family, params).numpy(), unit=False)
        return (actions[0] if single else actions), None

    def _params(self, obs: Observation) -> Array:
        """[N, ...] -> [N, P] float32 parameters, continuous ones in environment units."""
        count = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        answers = [np.asarray(answer) for answer in self._ask(obs)][: 2 if self._output == "gaussian" else 1]
        for answer in answers:
            if answer.dtype.kind not in "fiub":
                raise UserError(
                    f"the teacher {self.name} answered {_kind(answer)}, not numbers: it must return an array [N, ...] "
                    "for N observations"
                )
        if not answers or any(answer.shape[:1] != (count,) for answer in answers):
            shape = " and ".join(str(answer.shape) for answer in answers) or "nothing"
            raise UserError(
                f"the teacher {self.name} answered an array of shape {shape} to a batch of {count} observations: its "
                "first axis must be theirs"
            )
        if not self._output or self._family is None:
            self._settle(self._output or self._guess(answers[0]))
        assert self._family is not None
        # A Gaussian may come as two arrays, of everything else the first is taken.
        raw = np.concatenate([answer.reshape(count, -1) for answer in answers], axis=1)
        if not np.isfinite(raw).all():
            raise UserError(f"the teacher {self.name} answered NaN or infinity; it cannot teach")
        params = self._encode(raw)
        if params.shape[1] != self._family.param_size:
            raise UserError(
                f"the teacher {self.name} answered {raw.shape[1]} numbers per observation; {self._output} for "
                f"{self.action_space} needs {self._needed()}: say what they are with output= from Python"
            )
        return params.astype(np.float32, copy=False)

    def _guess(self, answer: Array) -> str:
        if isinstance(self.action_space, gym.spaces.Box) or answer.dtype.kind in "iub":
            return "action"
        sizes = family_for(self._discrete_name(), self.action_space).sizes
        return "logits" if answer.reshape(len(answer), -1).shape[1] == sum(sizes) else "action"

    def _settle(self, output: str) -> None:
        """Fix what the answers mean."""
        if output not in OUTPUTS:
            raise UserError(f"output {output!r} is unknown; there are {', '.join(OUTPUTS)}")
        continuous = isinstance(self.action_space, gym.spaces.Box)
        if output == "action":
            name = "deterministic" if continuous else self._discrete_name()
        else:
            name = {"logits": self._discrete_name(), "q_values": "q_values", "gaussian": "gaussian"}[output]
        self._output, self._family = output, family_for(name, self.action_space)

    def _discrete_name(self) -> str:
        return "categorical" if isinstance(self.action_space, gym.spaces.Discrete) else "multi_categorical"

    def _needed(self) -> int:
        assert self._family is not None
        discrete_action = self._output == "action" and not self._family.continuous
        return len(self._family.sizes) if discrete_action else self._family.param_size

    def _encode(self, raw: Array) -> Array:
        """Turn discrete actions into logits that leave no doubt, and Bernoulli logits into pairs."""
        assert self._family is not None
        sizes = self._family.sizes
        if self._family.continuous:
            return raw
        if self._output == "logits" and isinstance(self.action_space, gym.spaces.MultiBinary):
            pairs = np.stack((np.zeros_like(raw), raw), axis=2).reshape(len(raw), -1)
            return pairs if raw.shape[1] == len(sizes) else raw
        if self._output != "action" or raw.shape[1] != len(sizes):
            return raw
        chosen = np.rint(raw).astype(np.int64) - self._map.start
        for part, size in enumerate(sizes):
            if ((chosen[:, part] < 0) | (chosen[:, part] >= size)).any():
                raise UserError(f"the teacher {self.name} answered an action outside of {self.action_space}")
        return np.concatenate([_SURE * np.eye(n, dtype=np.float32)[chosen[:, i]] for i, n in enumerate(sizes)], axis=1)


def _kind(answer: Array) -> str:
    """Say what an array holds that is not numbers."""
    if answer.ndim:
        return "an array of text" if answer.dtype.kind in "US" else f"an array of {answer.dtype}"
    value = answer.item()
    return "None" if value is None else f"a {type(value).__name__}"


def _zeros(space: gym.Space[Any]) -> Any:
    """Return an observation of zeros, moved into the bounds; one per key of a dict space."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _zeros(sub) for key, sub in space.spaces.items()}
    if isinstance(space, gym.spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return np.full(space.shape or (), getattr(space, "start", 0), space.dtype)
