"""One teacher for each task: every state goes to its own task's teacher (Rusu 2015, Schmitt 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from understudy.data import EnvSpec, Observation, Target
from understudy.errors import UserError
from understudy.policies.family import Family
from understudy.policies.policy import About, PolicyLike, TensorState
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
        members: One teacher per task, each with its environment; without memory.

    Raises:
        UserError: A teacher does not say its environment or has a memory, or the spaces do not go together.
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

    def label(self, obs: Observation, state: TensorState = None, episode_start: Any = None) -> tuple[Target, None]:
        """Return parameters and mask, [N, A] each, for [N, ...] observations."""
        assert isinstance(obs, dict)
        count, size = len(obs["task"]), self._family.param_size
        params = np.full((count, size), 0.0 if self._family.continuous else ABSENT, np.float32)
        mask = np.zeros((count, size), np.float32)
        for k, rows, own in self._actor.rows(obs):
            member = self.members[k]
            theirs = member.label(own)[0].params.cpu().numpy()
            answer = (deterministic_action if self._family.continuous else log_probs)(member.family, theirs)
            params[rows, : answer.shape[1]] = answer
            mask[rows, : answer.shape[1]] = 1
        return Target(torch.from_numpy(params), None, torch.from_numpy(mask)), None
