"""Policies that ``understudy export`` wrote, played from the exported file itself: ONNX, TorchScript or C.

The file brings everything along: normaliser, clipping, scaling of actions, recurrent state. A description as JSON in
its metadata says what goes in and what comes out, so that nothing has to be guessed as it must be for foreign files.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, EnvSpec, Observation, Target, map_obs
from understudy.errors import UserError
from understudy.policies import distributions
from understudy.policies.batching import batch_observation, in_layout
from understudy.policies.family import Family, family_for
from understudy.policies.policy import State, TensorState
from understudy.policies.spaces import members, space_from_json
from understudy.teachers.opaque import Asked, OpaqueTeacher

FORMAT = "understudy-export-1"
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "categorical": ("logits",),
    "multi_categorical": ("logits",),
    "q_values": ("q_values",),
    "gaussian": ("mean", "log_std"),
    "squashed_gaussian": ("mean", "log_std"),
    "deterministic": ("action",),
}
"""By family, the outputs that together are the parameters of the distribution. Those of ``gaussian`` are in environment
units, those of ``squashed_gaussian`` in unit actions before the tanh."""


@dataclass(frozen=True)
class Facts:
    """What an exported file says of itself.

    Attributes:
        file: The format.
        family: Name of the distribution family.
        observation_space: What it sees, with every key of a dict space that it reads.
        action_space: What it does.
        memory: Layers and width of the recurrent state, (0, 0) without.
        cell: ``lstm`` with h and c, or ``gru`` with h alone.
        env: The environment it was trained in.
        algorithm: What kind of policy it is.
        parameters: How many numbers it takes to act.
        keys: The observation keys in the order of the inputs, ``""`` where observations are not a dict.
        name: Prefix of the functions in C.
        types: In C, the types of the inputs.
    """

    file: str
    family: str
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    memory: tuple[int, int]
    env: EnvSpec | None
    algorithm: str
    parameters: int
    keys: tuple[str, ...]
    name: str
    types: tuple[str, ...]
    cell: str = "lstm"

    @property
    def remembered(self) -> tuple[str, ...]:
        """Names of what the file remembers."""
        return () if not self.memory[0] else ("h",) if self.cell == "gru" else ("h", "c")

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs in their order."""
        names = dict.fromkeys((*PARAMETERS[self.family], "action"))
        return [*names, *(f"{name}_out" for name in self.remembered)]

    @staticmethod
    def parse(text: str | bytes, where: str) -> Facts | None:
        """Read a description; None where it is not one of an export of ours.

        Raises:
            UserError: It is one, and damaged.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            return None
        try:
            layers, width = (int(n) for n in data["memory"])
            return Facts(
                str(data["file"]),
                str(data["family"]),
                space_from_json(data["observation_space"]),
                space_from_json(data["action_space"]),
                (layers, width),
                EnvSpec.from_json(data["env"]) if data["env"] else None,
                str(data["algorithm"]),
                int(data["parameters"]),
                tuple(str(key) for key in data["keys"]),
                str(data.get("name", "")),
                tuple(str(kind) for kind in data.get("types", ())),
                str(data.get("cell", "lstm")),
            )
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            raise UserError(f"{where}: its description cannot be read ({error!r}): export the student again") from None


class Engine(ABC):
    """Runs an exported file."""

    @abstractmethod
    def run(self, obs: dict[str, Array], memory: tuple[Array, Array] | None) -> dict[str, Array]:
        """Answer [N, ...] observations by key (``""`` without keys) and h, c [layers, N, width].

        Returns:
            The outputs by name: parameters of the distribution (see ``PARAMETERS``), ``action`` and, with memory,
            ``h_out`` and, of an LSTM, ``c_out``. A file that holds no distribution gives ``drawn``, a random action.
        """


class ExportedPolicy(OpaqueTeacher):
    """An exported file as a policy: it acts by the file's own ``action``, and teaches by its distribution.

    Raises:
        UserError: The caller's action space is not the file's.
    """

    def __init__(self, facts: Facts, engine: Engine, source: str, asked: Asked) -> None:
        seen = asked.action_space
        if seen is not None and (type(seen) is not type(facts.action_space) or seen.shape != facts.action_space.shape):
            raise UserError(f"{source} acts in {facts.action_space}, not in {seen}")
        own = replace(
            asked,
            env=asked.env or facts.env,
            observation_space=facts.observation_space,
            action_space=facts.action_space,
            output=None,
        )
        super().__init__(source, facts.algorithm, own)
        self.facts, self._engine = facts, engine
        self._family = family_for(facts.family, facts.action_space)

    @property
    def parameters_count(self) -> int:
        """How many numbers it takes to act."""
        return self.facts.parameters

    @property
    def acts_only(self) -> bool:
        """Whether the file holds no distribution: that of ``label`` says its action with next to no doubt."""
        return self.facts.file == "unity"

    @property
    def family(self) -> Family:
        """The distribution family."""
        assert self._family is not None
        return self._family

    def initial_state(self, batch: int) -> TensorState:
        """Return zeros [layers, batch, width] for h and c; None without memory."""
        layers, width = self.facts.memory
        return (torch.zeros(layers, batch, width), torch.zeros(layers, batch, width)) if layers else None

    def _ask(self, obs: Observation) -> list[Array]:
        return list(self._run(obs, None).values())

    def _run(self, obs: Observation, memory: tuple[Array, Array] | None) -> dict[str, Array]:
        seen = obs if isinstance(obs, dict) else {"": obs}
        spaces = members(self.observation_space)
        seen = {key: in_layout(array, tuple(spaces[key].shape or ())) for key, array in seen.items() if key in spaces}
        answers = self._engine.run(seen, memory)
        if not all(np.isfinite(answer).all() for answer in answers.values()):
            raise UserError(f"{self.name} answered NaN or infinity; it cannot act")
        return answers

    def _params_of(self, answers: Mapping[str, Array]) -> Tensor:
        """[N, P] in environment units, or unit actions where the family is squashed."""
        parts = [answers[name].reshape(len(answers[name]), -1) for name in PARAMETERS[self.facts.family]]
        return torch.as_tensor(np.concatenate(parts, axis=1).astype(np.float32, copy=False))

    def _to_unit(self, params: Tensor) -> Tensor:
        if not self.family.continuous or self.family.name == "squashed_gaussian":
            return params
        return distributions.to_unit(params, self.family, self._map)

    def label(self, obs: Observation, state: TensorState = None, episode_start: Any = None) -> tuple[Target, Any]:
        """Return distribution parameters in unit actions for [N, ...] (or [T, B, ...] with memory) observations."""
        if not self.facts.memory[0]:
            batch, _ = batch_observation(map_obs(np.asarray, obs), self.observation_space)
            return Target(self._to_unit(self._params_of(self._run(batch, None)))), None
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        memory = _arrays(state if state is not None else self.initial_state(first.shape[1]))
        rows = []
        for t in range(first.shape[0]):
            memory = _forget(memory, None if episode_start is None else np.asarray(episode_start)[t])
            answers = self._run(map_obs(lambda a, t=t: np.asarray(a)[t], obs), memory)
            memory = answers["h_out"], answers.get("c_out", memory[1])
            rows.append(self._to_unit(self._params_of(answers)))
        return Target(torch.stack(rows)), tuple(torch.as_tensor(part) for part in memory)

    def predict(
        self, observation: Any, state: State = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act as Stable-Baselines3 models do; see ``Policy.predict``.

        Raises:
            UserError: The observation does not fit the space, or the file answers NaN.
        """
        obs, single = batch_observation(observation, self.observation_space)
        memory = None
        if self.facts.memory[0]:
            count = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
            memory = (
                _arrays(self.initial_state(count)) if state is None else (np.asarray(state[0]), np.asarray(state[1]))
            )
            memory = _forget(memory, episode_start)
        answers = self._run(obs, memory)
        name = "action" if deterministic else "drawn"
        if name in answers:
            actions = answers[name].reshape(-1, *self._map.shape)
            if self.family.continuous:
                actions = self._map.to_env(actions.reshape(len(actions), -1), unit=False)
            actions = actions.astype(self._map.dtype, copy=False)
        else:
            drawn = distributions.sample(self.family, self._params_of(answers)).numpy()
            actions = self._map.to_env(drawn, unit=self.family.name == "squashed_gaussian")
        after = (answers["h_out"], answers.get("c_out", memory[1])) if memory is not None else None
        return (actions[0] if single else actions), after


def _arrays(state: TensorState) -> tuple[Array, Array]:
    assert state is not None
    return np.asarray(state[0]), np.asarray(state[1])


def _forget(memory: tuple[Array, Array], start: Any) -> tuple[Array, Array]:
    """Return h and c [layers, B, width] with zeros where an episode starts."""
    if start is None:
        return memory
    keep = (~np.asarray(start, bool)).astype(np.float32).reshape(1, -1, 1)
    return memory[0] * keep, memory[1] * keep
