"""Several teachers of one task as one teacher: by averaging their distributions, or their losses.

- ``distributions``: the teacher is the mixture of all (``acting.mixture`` says what that is for each family). Teachers
  that disagree teach a policy in between: uncertain where actions are choices, the mean action where they are numbers.
- ``losses``: the student's loss is the mean of its distances to all teachers. Each state is labelled by one teacher
  drawn uniformly, which is unbiased: E_i[D(T_i, S)] = mean_i D(T_i, S), and so is the gradient.

Both have the same gradient for forward KL and for the squared error of unsaturated actions, where ``distributions`` has
the lower variance. They differ for all other distances: with ``losses``, reverse KL and Huber pull towards single
teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Observation, Target, map_obs
from understudy.errors import UserError
from understudy.policies.family import Family
from understudy.policies.policy import About, PolicyLike, TensorState
from understudy.teachers.acting import EnsembleActor, convert
from understudy.teachers.members import Members, refuse_memory

KINDS = ("distributions", "losses")


class Ensemble(Members):
    """A ``PolicyLike`` of several teachers with the same spaces.

    Args:
        members: Teachers without memory.
        kind: ``distributions`` or ``losses``; the draws of the latter go on from call to call and are not part of a
            checkpoint.

    Raises:
        UserError: A teacher has a memory, or the kind is unknown.
    """

    _actor: EnsembleActor

    def __init__(self, members: Sequence[PolicyLike], kind: str = "distributions") -> None:
        if kind not in KINDS:
            raise UserError(f"ensemble {kind!r} is unknown; there are {', '.join(KINDS)}")
        refuse_memory(members)
        super().__init__(members)
        self.kind = kind
        self._actor = EnsembleActor(members, kind)
        self._rng = np.random.default_rng((0, 3))
        self.observation_space, self.action_space = members[0].observation_space, members[0].action_space
        source = " + ".join(member.about.source or member.about.algorithm for member in members)
        self.about = About(f"ensemble of {len(members)} ({kind})", source, members[0].about.env)

    @property
    def family(self) -> Family:
        """The distribution family of ``label``."""
        return self._actor.family

    def label(self, obs: Observation, state: TensorState = None, episode_start: Any = None) -> tuple[Target, None]:
        """Return parameters in unit actions for [N, ...] observations, and the value where every member has one."""
        if self.kind == "losses":
            return self._drawn(obs), None
        values = [member.label(obs)[0].value for member in self.members]
        known = [value for value in values if value is not None]
        value = torch.stack(known).mean(dim=0) if len(known) == len(values) else None
        return Target(torch.from_numpy(self._actor.mixed(obs)), value), None

    def _drawn(self, obs: Observation) -> Target:
        """Label every state by one member, drawn uniformly."""
        count = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        who = self._rng.integers(0, len(self.members), count)
        params = np.zeros((count, self.family.param_size), np.float32)
        value: Tensor | None = torch.zeros(count)
        for number, member in enumerate(self.members):
            rows = np.flatnonzero(who == number)
            if not len(rows):
                continue
            target, _ = member.label(map_obs(partial(np.take, indices=rows, axis=0), obs))
            params[rows] = convert(member.family, target.params.cpu().numpy(), self.family)
            if value is not None:
                where, said = torch.from_numpy(rows), target.value
                value = None if said is None else value.index_copy(0, where, said.cpu())
        return Target(torch.from_numpy(params), value)
