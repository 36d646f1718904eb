"""What teachers add to reinforcement learning: labels of every rollout, terms, rewards, and weights that move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from understudy.data import Array, Rollout
from understudy.learning.from_dataset import TeacherLabels
from understudy.learning.updaters import actor_critic_terms
from understudy.objectives import feedback
from understudy.objectives.distances import Distance
from understudy.objectives.feedback import Gated, TargetKL
from understudy.objectives.objective import Term
from understudy.objectives.returns import next_values
from understudy.objectives.schedules import Constant, Weight
from understudy.objectives.teaching import FromTeacher, ValueFromTeacher
from understudy.policies import distributions
from understudy.policies.policy import PolicyLike
from understudy.settings.train import ObjectiveSettings

_ONE, _NONE = Constant(1.0), Constant(0.0)
Labels = dict[str, Array]
"""Columns [T, B, ...] by the names of ``Target``."""


@dataclass
class Guide:
    """One teacher and how much it counts.

    Attributes:
        name: What logs call it.
        teacher: Has its own observation keys, normaliser and memory.
        distance: From its distribution to the student's.
        weight: lambda_i.
        value_weight: nu_i.
        rho: Factor of every task, for a teacher of several; empty for none.
    """

    name: str
    teacher: PolicyLike
    distance: Distance
    weight: Weight
    value_weight: Weight = _NONE
    rho: tuple[float, ...] = ()
    labels: TeacherLabels = field(init=False)
    recurrent: bool = field(init=False)

    def __post_init__(self) -> None:
        self.labels = TeacherLabels(self.teacher)
        self.recurrent = self.teacher.initial_state(1) is not None


class Teaching:
    """Teachers of a student that learns from its own rewards; see ``objectives.teaching`` for the equation."""

    def __init__(
        self,
        guides: Sequence[Guide],
        *,
        rl_weight: Weight = _ONE,
        gate: bool = False,
        proximal: bool = False,
        reward: str = "none",
        reward_weight: Weight = _NONE,
        gamma: float = 1.0,
        warm_up: int = 0,
        keeps_normalizer: bool = False,
    ) -> None:
        """Keep the parts.

        Args:
            guides: The teachers.
            rl_weight: c, of policy gradient and entropy bonus.
            gate: Teachers count only where they expect more than the student does.
            proximal: Weigh by the clipped ratio, with the policy gradient's clip range.
            reward: ``none``, or what teachers add to rewards, summed over them: ``log_prob`` or ``value``.
            reward_weight: Its factor.
            gamma: Discount of ``value`` rewards.
            warm_up: Env steps in which only the value function learns.
            keeps_normalizer: The student's input statistics stay as they are: it began as a copy of its teacher.
        """
        self.guides = tuple(guides)
        self.warm_up, self.keeps_normalizer = warm_up, keeps_normalizer
        self._rl_weight, self._gate, self._proximal = rl_weight, gate, proximal
        self._reward, self._reward_weight, self._gamma = reward, reward_weight, gamma

    def terms(self, objective: ObjectiveSettings) -> list[Term]:
        """Return all terms of the objective, those of reinforcement learning first."""
        terms = actor_critic_terms(objective, self._rl_weight, self.warm_up)
        clip = objective.clip if self._proximal else None
        for i, g in enumerate(self.guides):
            family = g.teacher.family
            terms.append(FromTeacher(g.distance, family, i, g.weight, g.name, self._gate, clip, g.rho))
            if feedback.ends(g.value_weight) > 0:
                terms.append(ValueFromTeacher(i, g.value_weight, f"{g.name}_value"))
        return terms

    @property
    def gated(self) -> bool:
        """Whether a weight follows the student's score."""
        return any(isinstance(feedback.find(g.weight), Gated) for g in self.guides)

    def note_score(self, score: float) -> None:
        """Take in the student's last score; NaN before the first evaluation."""
        for guide in self.guides:
            weight = feedback.find(guide.weight)
            if isinstance(weight, Gated):
                weight.student = score

    def label(self, rollout: Rollout, env_steps: int) -> list[Labels | None]:
        """Ask every teacher that counts about the whole rollout, each in one call.

        A teacher with a memory is asked until none of its weights can come back: it must see every step.
        """
        return [g.labels.label(rollout) if self._asked(g, env_steps) else None for g in self.guides]

    def _asked(self, guide: Guide, env_steps: int) -> bool:
        weights = [guide.weight, guide.value_weight]
        if self._reward != "none":
            weights.append(self._reward_weight)
        if guide.recurrent:
            return any(env_steps < feedback.ends(weight) for weight in weights)
        return any(weight.value(env_steps) != 0 for weight in weights)

    def reward(self, rollout: Rollout, labels: Sequence[Labels | None], env_steps: int) -> Array | None:
        """Return what is added to the rewards before advantages are estimated, [T, B] float32; None: nothing."""
        weight = 0.0 if self._reward == "none" else self._reward_weight.value(env_steps)
        if weight == 0:
            return None
        total = np.zeros(rollout.shape, np.float32)
        for guide, columns in zip(self.guides, labels, strict=True):
            assert columns is not None
            if self._reward == "log_prob":
                total += log_prob_reward(guide.teacher, columns, rollout)
            else:
                total += value_reward(guide.teacher, columns, rollout, self._gamma)
        return np.asarray(weight * total, np.float32)

    def observe(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """Move the weights that follow the distance, after the updates on a rollout of ``env_steps`` env steps."""
        for guide in self.guides:
            weight, distance = feedback.find(guide.weight), metrics.get(f"kl/{guide.name}")
            if isinstance(weight, TargetKL) and distance is not None:
                weight.observe(distance, env_steps)

    def state(self) -> dict[str, Any]:
        """Return JSON-able data from which ``restore`` goes on exactly.

        Checkpoints begin new episodes: what teachers remember ends there.
        """
        return {"weights": [feedback.state(g.weight) for g in self.guides]}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        for guide, saved in zip(self.guides, data["weights"], strict=True):
            feedback.restore(guide.weight, saved)


def log_prob_reward(teacher: PolicyLike, columns: Labels, rollout: Rollout) -> Array:
    """Log pi_T(a_t|s_t) of the student's action, [T, B] (entropy-regularised distillation, Czarnecki 2019)."""
    assert rollout.trace is not None
    params, choice = torch.from_numpy(columns["params"]), torch.from_numpy(rollout.trace.choice)
    return np.asarray(distributions.log_prob(teacher.family, params, choice).numpy(), np.float32)


def value_reward(teacher: PolicyLike, columns: Labels, rollout: Rollout, gamma: float) -> Array:
    """Gamma V_T(s_{t+1}) - V_T(s_t), [T, B]: shaping that leaves the best policy as it is (Ng 1999, theorem 1).

    V_T is 0 after termination. Differs in: after truncation it is taken to be that of the last state, because what the
    final observation looked like is known to the student alone; Czarnecki 2019 has no gamma.
    """
    trace, value = rollout.trace, columns["value"]
    assert trace is not None
    last = teacher.label(trace.last_obs)[0].value
    assert last is not None
    following = next_values(value, rollout.terminated, rollout.truncated, value, last.cpu().numpy())
    return np.asarray(gamma * following - value, np.float32)
