"""Unity files that ``understudy export --format unity`` wrote, run by onnxruntime as Unity would run them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.family import ActionMap, action_sizes
from understudy.policies.spaces import has_channels_last, members
from understudy.teachers.exported import Engine, Facts

_SURE = 20.0
"""Logit of the action that was taken: the file says no more of its distribution."""


def published(facts: Facts) -> Facts:
    """Return the facts with the family that such a file can be asked for: Unity's layout holds actions only."""
    if isinstance(facts.action_space, gym.spaces.Box):
        family = "deterministic"
    else:
        family = "categorical" if isinstance(facts.action_space, gym.spaces.Discrete) else "multi_categorical"
    return Facts(**{**vars(facts), "family": family})


class UnityEngine(Engine):
    """Feeds what ML-Agents would feed.

    Raises:
        UserError: The description does not say which inputs are pictures.
    """

    def __init__(self, session: Any, facts: Facts, text: str, where: str) -> None:
        data = json.loads(text)
        self._names, self._pictures = data.get("inputs"), data.get("pictures")
        if not isinstance(self._names, list) or not isinstance(self._pictures, list):
            raise UserError(f"{where}: its description names no inputs: export the student again")
        self._session, self._facts, self._where, self._mask = session, facts, where, str(data.get("mask", ""))
        self._spaces = members(facts.observation_space)
        self._map = ActionMap(facts.action_space)
        self._sizes = action_sizes(facts.action_space)
        # Files of earlier versions do not say it.
        self._cut, self._bins = data.get("cut", (0, 0))

    def run(self, obs: dict[str, Array], memory: tuple[Array, Array] | None) -> dict[str, Array]:
        """See ``Engine.run``."""
        feeds = {n: self._as_unity(k, obs[k]) for n, k in zip(self._names, self._facts.keys, strict=False)}
        count = len(next(iter(feeds.values())))
        kind = "continuous" if isinstance(self._facts.action_space, gym.spaces.Box) else "discrete"
        if kind == "discrete":
            allowed = obs[self._mask].reshape(count, -1) >= 0.5 if self._mask else np.ones((count, sum(self._sizes)))
            feeds["action_masks"] = allowed[:, self._cut * self._bins :].astype(np.float32)
        kinds = ["continuous", "discrete"] if self._cut else [kind]
        names = [f"{how}{each}_actions" for how in ("deterministic_", "") for each in kinds]
        parts = len(self._facts.remembered)
        if memory is not None:
            every = np.concatenate(memory[:parts]).swapaxes(0, 1).reshape(count, 1, -1)
            feeds["recurrent_in"], names = every.astype(np.float32), [*names, "recurrent_out"]
        try:
            answers = self._session.run(names, feeds)
        except Exception as error:  # onnxruntime's exceptions share no class of their own
            raise UserError(f"{self._where} cannot be run: {str(error)[:200]}") from error
        sure, drawn = (self._joined(answers[i : i + len(kinds)]) for i in (0, len(kinds)))
        out = self._actions(sure) | {"drawn": self._map.to_env(drawn)}
        if memory is not None:
            layers, width = self._facts.memory
            after = np.asarray(answers[-1]).reshape(count, parts * layers, width).swapaxes(0, 1)
            out |= {
                f"{name}_out": part for name, part in zip(self._facts.remembered, np.split(after, parts), strict=True)
            }
        return out

    def _as_unity(self, key: str, x: Array) -> Array:
        x = x.astype(np.float32)
        if key not in self._pictures:
            return x
        space = self._spaces[key]
        x = x / np.float32(255) if np.dtype(space.dtype) == np.uint8 else x
        return x.transpose(0, 3, 1, 2) if has_channels_last(space) else x  # type: ignore[arg-type]

    def _joined(self, parts: Sequence[Any]) -> Array:
        """Numbers of the actions that were cut, if there are any, and choices -> what the policy chooses."""
        if len(parts) == 1:
            return np.asarray(parts[0])
        numbers, chosen = (np.asarray(part) for part in parts)
        steps = np.rint((numbers + 1) / 2 * (self._bins - 1))
        return np.concatenate([steps.astype(chosen.dtype), chosen], axis=1)

    def _actions(self, answer: Array) -> dict[str, Array]:
        if isinstance(self._facts.action_space, gym.spaces.Box):
            return {"action": self._map.to_env(answer)}
        rows = [_SURE * np.eye(n, dtype=np.float32)[answer[:, i]] for i, n in enumerate(self._sizes)]
        return {"logits": np.concatenate(rows, axis=1), "action": self._map.to_env(answer)}
