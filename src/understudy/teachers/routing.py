"""One teacher for each task: every state goes to its own task's teacher (Rusu 2015, Schmitt 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from understudy.data import Array, EnvSpec, Observation, Target, map_obs
from understudy.errors import UserError
from understudy.policies.family import Family
from understudy.policies.policy import About, PolicyLike
from understudy.policies.spaces import flat_size
from understudy.policies.spec import ABSENT
from understudy.teachers.acting import TasksActor, deterministic_action, log_probs
from understudy.teachers.members import Members


class TaskTeachers(Members):
    """A ``PolicyLike`` over the spaces of the ``multitask`` environment.

    A teacher sees its own task's observation, without padding. Its answer is brought to one family for all tasks: the
    deterministic action in unit actions where actions are continuous (padded with zeros), log-probabilities where they
    are discrete (of softmax(q / 0.01) for a Q-network; padded with ``ABSENT``). ``Target.mask`` is 1 for the components
    that the task has, 0 for padding. Values are dropped: returns of different tasks have no common scale.

    Args:
        members: One teacher per task, each with its environment.

    Raises:
        UserError: A teacher does not say its environment, or the spaces do not go together.
    """

    _actor: TasksActor

    def __init__(self, members: Sequence[PolicyLike]) -> None:
        super().__init__(members)
        self._actor = TasksActor(members)
        self.observation_space: gym.Space[Any] = self._actor.observation_space
        self.action_space = self._actor.action_space
        continuous = members[0].family.continuous
        self._family = Family("deterministic" if continuous else "categorical", (flat_size(self.action_space),))
        specs = []
        for member in members:
            if member.about.env is None:
                raise UserError(f"the teacher {member.about.source} does not say its environment: give one --env each")
            specs.append(member.about.env.to_json())
        source = ", ".join(member.about.source or member.about.algorithm for member in members)
        self.about = About(f"teachers of {len(members)} tasks", source, EnvSpec("multitask", {"tasks": specs}))

    @property
    def family(self) -> Family:
        """The distribution family of ``label``."""
        return self._family

    @property
    def task_actions(self) -> tuple[int, ...]:
        """How many actions, or action components, each task has."""
        return tuple(flat_size(member.action_space) for member in self.members)

    def label(self, obs: Observation, state: Any = None, episode_start: Any = None) -> tuple[Target, Any]:
        """Return parameters and mask, [N, A] each for [N, ...] observations, [T, B, A] each for sequences.

        Args:
            obs: [N, ...], or [T, B, ...] where a member has a memory; then a row b is of one task throughout.
            state: From ``initial_state`` or the last call.
            episode_start: [T, B] bool, where memories are reset.
        """
        assert isinstance(obs, dict)
        remembers = self.initial_state(1) is not None
        lead = np.shape(obs["task"])[:-1]
        states = list(self.initial_state(lead[1]) if state is None else state) if remembers else []
        flat = {key: np.reshape(column, (-1, *np.shape(column)[len(lead) :])) for key, column in obs.items()}
        count, size = len(flat["task"]), self._family.param_size
        params = np.full((count, size), 0.0 if self._family.continuous else ABSENT, np.float32)
        mask = np.zeros((count, size), np.float32)
        for k, rows, own in self._actor.rows(flat):
            member = self.members[k]
            if states and states[k] is not None:
                columns = rows[: len(rows) // lead[0]]
                target, states[k] = _sequences(member, own, lead[0], columns, states[k], episode_start)
            else:
                target, _ = member.label(own)
            theirs = target.params.cpu().numpy().reshape(len(rows), -1)
            answer = (deterministic_action if self._family.continuous else log_probs)(member.family, theirs)
            params[rows, : answer.shape[1]] = answer
            mask[rows, : answer.shape[1]] = 1
        found = [torch.from_numpy(array.reshape(*lead, size)) for array in (params, mask)]
        return Target(found[0], None, found[1]), tuple(states) if remembers else None


def _sequences(
    member: PolicyLike, own: Observation, steps: int, columns: Array, state: Any, episode_start: Any
) -> tuple[Target, Any]:
    """Ask a member with a memory about its own rows of [T, B]; returns what it says and the state of all rows."""
    mine = torch.from_numpy(columns)
    sequences = map_obs(lambda a: np.reshape(a, (steps, len(columns), *np.shape(a)[1:])), own)
    starts = None if episode_start is None else np.asarray(episode_start)[:, columns]
    target, after = member.label(sequences, tuple(part[:, mine] for part in state), starts)
    assert after is not None
    return target, tuple(part.index_copy(1, mine, new) for part, new in zip(state, after, strict=True))
