"""How several policies act as one: the half of ensembles and task teachers that works without PyTorch.

Rollout workers build these from ``ArrayPolicy`` members; ``Ensemble`` and ``TaskTeachers`` act through them too, so
that there is one implementation of who does what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation, map_obs
from understudy.errors import UserError
from understudy.policies.batching import batch_observation
from understudy.policies.family import ActionMap, Family
from understudy.policies.spaces import flat_size
from understudy.policies.task_spaces import multitask_observations, shared_keys

TEMPERATURE = 0.01
"""Of the softmax that turns action values into probabilities where teachers are combined (Rusu 2015, section 3.2)."""


class Member(Protocol):
    """A policy that acts: ``ArrayPolicy`` or any ``PolicyLike``."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    @property
    def family(self) -> Family:
        """The distribution family."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on a batch."""


def unit_params(member: Any, obs: Observation) -> Array:
    """[N, ...] observations -> the member's parameters [N, P], in unit actions."""
    if hasattr(member, "unit_params"):  # ArrayPolicy
        return np.asarray(member.unit_params(obs))
    return np.asarray(member.label(obs)[0].params.cpu().numpy())


def common_family(families: Sequence[Family]) -> Family:
    """Return the family that the parameters of all can be brought to: their own, else that of their actions."""
    first = families[0]
    if all(family == first for family in families):
        return first
    if first.continuous:
        return Family("deterministic", first.sizes)
    return Family("categorical" if len(first.sizes) == 1 else "multi_categorical", first.sizes)


def mixture_family(families: Sequence[Family]) -> Family:
    """Return the family of a mixture, see ``mixture``."""
    first = families[0]
    if first.continuous:
        return first if all(family.name == "gaussian" for family in families) else Family("deterministic", first.sizes)
    return Family("categorical", first.sizes) if first.name == "q_values" else common_family(families)


def mixture(families: Sequence[Family], params: Sequence[Array], space: gym.Space[Any]) -> Array:
    """Average M distributions in the same N states; pure.

    - Discrete: log of the mean probability, part by part; action values are softmax(q / 0.01).
    - Gaussian: the one with the mixture's mean and variance, m = mean(m_i), s^2 = mean(s_i^2 + m_i^2) - m^2.
    - Squashed Gaussian, deterministic, or several of these: the mean of the deterministic actions, as executed.

    Args:
        families: M, one per member.
        params: M arrays [N, P_i] in unit actions.
        space: The action space, whose bounds unit actions are clipped to.

    Returns:
        [N, P] of ``mixture_family``.
    """
    target = mixture_family(families)
    if target.name == "gaussian":
        pairs = [np.split(p.astype(np.float64), 2, axis=1) for p in params]
        mean = np.mean([m for m, _ in pairs], axis=0)
        square = np.mean([np.exp(2 * log_std) + (m - mean) ** 2 for m, log_std in pairs], axis=0)
        return np.concatenate((mean, 0.5 * np.log(square)), axis=1).astype(np.float32)
    if target.continuous:
        low = ActionMap(space).unit_low
        actions = [np.clip(deterministic_action(f, p), low, -low) for f, p in zip(families, params, strict=True)]
        return np.asarray(np.mean(actions, axis=0), np.float32)
    probabilities = np.mean([np.exp(log_probs(f, p)) for f, p in zip(families, params, strict=True)], axis=0)
    return np.asarray(np.log(np.maximum(probabilities, 1e-30)), np.float32)


def deterministic_action(family: Family, params: Array) -> Array:
    """[N, P] continuous parameters -> [N, A], the mode before clipping."""
    if family.name == "deterministic":
        return params
    mean: Array = params[:, : params.shape[1] // 2]
    return np.tanh(mean) if family.name == "squashed_gaussian" else mean


def log_probs(family: Family, params: Array) -> Array:
    """[N, P] logits or action values -> [N, P] float64 log-probabilities, part by part."""
    logits = params.astype(np.float64) / (TEMPERATURE if family.name == "q_values" else 1.0)
    parts = np.split(logits, np.cumsum(family.sizes)[:-1], axis=1)
    shifted = [part - part.max(axis=1, keepdims=True) for part in parts]
    return np.concatenate([s - np.log(np.exp(s).sum(axis=1, keepdims=True)) for s in shifted], axis=1)


def convert(family: Family, params: Array, target: Family) -> Array:
    """[N, P] of a family -> [N, P'] of ``common_family``: unchanged, the deterministic action, or log-probabilities."""
    if family == target:
        return params
    convert_one: Callable[[Family, Array], Array] = deterministic_action if target.continuous else log_probs
    return convert_one(family, params).astype(np.float32)


class EnsembleActor:
    """Several policies of one task; see ``teachers.ensemble``.

    ``distributions`` acts by the mode of the mixture, and samples by sampling from a random member. ``losses`` acts by
    one random member for a whole episode, which is its recurrent state: [N] int.
    """

    def __init__(self, members: Sequence[Any], kind: str, seed: int = 0) -> None:
        self.members, self.kind = tuple(members), kind
        self.observation_space, self.action_space = members[0].observation_space, members[0].action_space
        self._families = [member.family for member in members]
        self.family = (mixture_family if kind == "distributions" else common_family)(self._families)
        self._map = ActionMap(self.action_space)
        self._rng = np.random.default_rng(seed)

    def mixed(self, obs: Observation) -> Array:
        """[N, ...] observations -> [N, P] parameters of the mixture, in unit actions."""
        return mixture(self._families, [unit_params(member, obs) for member in self.members], self.action_space)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on one observation or a batch, as ``Policy.predict`` does."""
        obs, single = batch_observation(observation, self.observation_space)
        count = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        drawn = self._rng.integers(0, len(self.members), count)
        if self.kind == "losses":
            if state is None:
                state = drawn
            elif episode_start is not None:
                state = np.where(np.asarray(episode_start, bool), drawn, state)
            actions = self._act(state, obs, deterministic)
        elif deterministic:
            actions = self._map.to_env(self._mode(self.mixed(obs)))
        else:
            actions = self._act(drawn, obs, False)
        return (actions[0] if single else actions), state

    def _act(self, who: Array, obs: Observation, deterministic: bool) -> Array:
        """[N] members and [N, ...] observations -> [N, ...] actions, row i by member ``who[i]``."""
        actions = np.zeros((len(who), *self._map.shape), self._map.dtype)
        for number in np.unique(who).tolist():
            rows = np.flatnonzero(who == number)
            seen = map_obs(partial(np.take, indices=rows, axis=0), obs)
            actions[rows] = self.members[number].predict(seen, None, None, deterministic)[0]
        return actions

    def _mode(self, params: Array) -> Array:
        if self.family.continuous:
            return deterministic_action(self.family, params)
        parts = np.split(params, np.cumsum(self.family.sizes)[:-1], axis=1)
        chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1)
        return chosen[:, 0] if self.family.name == "categorical" else chosen


class TasksActor:
    """One policy for each task of a ``multitask`` environment; see ``teachers.routing``."""

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = tuple(members)
        self.observation_space, self.action_space = multitask_spaces(members)
        self._maps = [ActionMap(member.action_space) for member in members]

    def rows(self, obs: Mapping[str, Array]) -> list[tuple[int, Array, Observation]]:
        """Return (task, its rows, what its own policy sees in them), for the tasks that occur."""
        task = np.asarray(obs["task"]).argmax(axis=1)
        found: list[tuple[int, Array, Observation]] = []
        for k in np.unique(task).tolist():
            rows, space = np.flatnonzero(task == k), self.members[k].observation_space
            if isinstance(space, gym.spaces.Dict):
                own: Observation = {key: np.asarray(obs[key])[rows] for key in space.spaces}
            else:
                own = own_observation(np.asarray(obs["observation"])[rows], space)
            found.append((k, rows, own))
        return found

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on one observation or a batch; actions are of the ``multitask`` environment.

        The state is a list of every member's, for all rows; None for members without a memory.
        """
        obs, single = batch_observation(observation, self.observation_space)
        space, count = self.action_space, len(obs["task"])
        states: list[Any] = [None] * len(self.members) if state is None else list(state)
        actions = np.zeros((count, *(space.shape or ())), space.dtype)
        for k, rows, own in self.rows(obs):
            before = None if states[k] is None else tuple(part[:, rows] for part in states[k])
            start = None if episode_start is None else np.reshape(episode_start, -1)[rows]
            own_action, after = self.members[k].predict(own, before, start, deterministic)
            if after is not None:
                states[k] = _in_rows(states[k], after, rows, count)
            unit = self._maps[k].to_unit(own_action)
            if isinstance(space, gym.spaces.Box):
                actions[rows, : unit.shape[1]] = unit
            else:
                actions[rows] = unit
        return (actions[0] if single else actions), None if all(part is None for part in states) else states


def _in_rows(state: Any, new: Any, rows: Array, count: int) -> tuple[Array, ...]:
    """Return the state [layers, count, width] of all rows with ``new`` in some; None is zeros."""
    if state is None:
        state = tuple(np.zeros((part.shape[0], count, *part.shape[2:]), part.dtype) for part in map(np.asarray, new))
    found = tuple(np.array(part) for part in state)
    for part, fresh in zip(found, new, strict=True):
        part[:, rows] = fresh
    return found


def own_observation(flat: Array, space: gym.Space[Any]) -> Array:
    """[N, D] padded observations of a task -> [N, ...] of its own space: a vector, or one choice from its one-hot."""
    own: Array = flat[:, : flat_size(space)]
    if isinstance(space, gym.spaces.Discrete):
        return np.asarray(own.argmax(axis=1) + int(space.start))
    return np.asarray(own, space.dtype)


def multitask_spaces(members: Sequence[Member]) -> tuple[gym.spaces.Dict, gym.Space[Any]]:
    """Return the spaces of the ``multitask`` environment over the members' tasks (see ``envs.multitask``).

    Raises:
        UserError: Observations are neither vectors nor one choice, or actions are of different kinds.
    """
    seen = [member.observation_space for member in members]
    for member, space in zip(members, seen, strict=True):
        if shared_keys(seen) is not None:
            break
        vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        if not vector and not isinstance(space, gym.spaces.Discrete):
            raise UserError(
                f"{_name(member)} sees {space}: several tasks need observations of a vector or one "
                "choice, or all the same dict"
            )
    actions = [member.action_space for member in members]
    size = max(flat_size(space) for space in actions)
    both: gym.Space[Any]
    if all(isinstance(space, gym.spaces.Box) for space in actions):
        both = gym.spaces.Box(-1, 1, (size,), np.float32)
    elif all(isinstance(space, gym.spaces.Discrete) for space in actions):
        both = gym.spaces.Discrete(size)
    else:
        named = ", ".join(f"{_name(m)}: {m.action_space}" for m in members)
        raise UserError(f"several tasks need actions that are all continuous or all discrete, not {named}")
    return multitask_observations(seen), both


def _name(member: Any) -> str:
    about = getattr(member, "about", None)
    return f"the teacher {about.source or about.algorithm}" if about is not None else "a teacher"
