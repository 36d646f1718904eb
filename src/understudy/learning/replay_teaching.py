"""What a teacher adds to learning from a replay: data of its own at first, and a term (QDagger, Agarwal 2022)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from understudy.objectives import off_policy
from understudy.objectives.distances import Distance, within_allowed
from understudy.objectives.feedback import Gated
from understudy.objectives.schedules import Weight
from understudy.policies.family import Family
from understudy.policies.policy import PolicyLike
from understudy.rollouts.replay import ReplayBatch


class Offline(NamedTuple):
    """The phase on the teacher's data."""

    env_steps: int
    """That the teacher plays."""
    updates: int
    """Gradient steps on them."""
    noise: float
    """Of the teacher while it plays."""


class ReplayTeacher:
    """A teacher, its term and the weight of it; ``ValueTerm`` and ``ActorTerm`` of the learners.

    Attributes:
        weight: lambda.
    """

    def __init__(
        self, teacher: PolicyLike, student: Family, weight: Weight, offline: Offline,
        *, distance: Distance | None = None, temperature: float = 0.1,
    ) -> None:  # fmt: skip
        """Keep the parts; students with action values have a temperature, actors a distance."""
        self.teacher, self.weight, self.offline = teacher, weight, offline
        self._student, self._distance, self._temperature = student, distance, temperature
        self._now = 0.0
        self._distances: list[Tensor] = []

    @property
    def distances(self) -> dict[str, str]:
        """What the distance is called; that of action values is KL of their softmax."""
        return {"teacher": "forward_kl" if self._distance is None else self._distance.name}

    @property
    def gated(self) -> bool:
        """Whether the weight follows the student's score."""
        return isinstance(self.weight, Gated)

    def begin(self, env_steps: int, score: float) -> None:
        """Take in the clock and the student's last score, NaN before the first evaluation."""
        if isinstance(self.weight, Gated):
            self.weight.student = score
        self._now = self.weight.value(env_steps)

    def loss(self, student: Tensor, batch: ReplayBatch) -> Tensor:
        """Return lambda times the mean distance; the student says action values [N, n] or parameters [N, P]."""
        if self._now == 0:
            return student.new_zeros(())
        params = self.teacher.label(batch.obs)[0].params.to(student.device)
        if self._distance is None:
            params = within_allowed(params, student, self._student)  # distances do so themselves
            inverse = 1 / self._temperature if self.teacher.family.name == "q_values" else 1.0
            each = off_policy.softmax_kl((params * inverse).log_softmax(dim=-1), student, self._temperature)
        else:
            each = self._distance(self.teacher.family, params, self._student, student)
        mean = each.mean()
        self._distances.append(mean.detach())
        return self._now * mean

    def metrics(self) -> dict[str, float]:
        """Return the weight, and the mean distance since the last call where it counted."""
        found = {"teacher_weight": self._now}
        if self._distances:
            found["kl/teacher" if self._distance is None else "distance/teacher"] = float(
                torch.stack(self._distances).mean()
            )
        self._distances = []
        return found
