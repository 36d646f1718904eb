"""Who acts while a student with teachers gathers its rollouts, as schedules on env steps."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.objectives.feedback import Curriculum
from understudy.objectives.schedules import Constant, Weight
from understudy.policies.policy import PolicyLike
from understudy.rollouts.behaviour import Mixture

STUDENT = Mixture(0.0, sample=True)
"""The student acts by its own distribution."""


@dataclass
class TeacherActs:
    """A teacher acts at some of the steps; terms of reinforcement learning do not see those, distances do.

    Attributes:
        teacher: Who.
        beta: Probability that it acts, at every step (Ross 2011).
        jump: It acts in so many first steps of every episode (Uchendu 2022).
        samples: It draws its actions, instead of taking its mode.
    """

    teacher: PolicyLike
    beta: Weight = Constant(0.0)
    jump: Weight = Constant(0.0)
    samples: bool = False

    def mixture(self, env_steps: int) -> Mixture:
        """Return the behaviour of the rollout that begins after ``env_steps`` steps."""
        beta = min(max(self.beta.value(env_steps), 0.0), 1.0)
        jump = max(round(self.jump.value(env_steps)), 0)
        return Mixture(beta, sample=True, jump=jump, teacher_samples=self.samples and (beta > 0 or jump > 0))

    @property
    def curriculum(self) -> Curriculum | None:
        """What follows the scores of teacher and student together, where something does."""
        return self.jump if isinstance(self.jump, Curriculum) else None
