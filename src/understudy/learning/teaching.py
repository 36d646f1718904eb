"""What teachers add to reinforcement learning: labels of every rollout, terms, rewards, and weights that move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from understudy.data import Array, Rollout
from understudy.errors import UserError
from understudy.evaluation.task_score import Level
from understudy.learning.actor_critic_terms import REINFORCEMENT, actor_critic_terms
from understudy.learning.behaviours import STUDENT, TeacherActs
from understudy.learning.from_dataset import TeacherLabels
from understudy.learning.rehearsal import Rehearsal
from understudy.objectives import feedback, output_terms
from understudy.objectives.distances import Distance
from understudy.objectives.feedback import Gated, Product, TargetKL
from understudy.objectives.objective import Term
from understudy.objectives.returns import next_values
from understudy.objectives.schedules import Constant, Weight
from understudy.objectives.teaching import FromTeacher, ValueFromTeacher, says
from understudy.policies import distributions
from understudy.policies.family import Family
from understudy.policies.policy import PolicyLike
from understudy.rollouts.behaviour import Mixture
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
        rho: Factor of every task, for a teacher of several, each a term of its own; empty for none.
        where: Key and number of the states that it teaches, see ``FromTeacher``; None for all.
    """

    name: str
    teacher: PolicyLike
    distance: Distance
    weight: Weight
    value_weight: Weight = _NONE
    rho: tuple[Weight, ...] = ()
    where: tuple[str, int] | None = None
    labels: TeacherLabels = field(init=False)
    recurrent: bool = field(init=False)

    def __post_init__(self) -> None:
        self.labels = TeacherLabels(self.teacher)
        self.recurrent = self.teacher.initial_state(1) is not None

    @property
    def parts(self) -> list[tuple[str, Weight, tuple[str, int] | None]]:
        """Name, weight and states of each of its terms."""
        if not self.rho:
            return [(self.name, self.weight, self.where)]
        return [(f"{self.name}_{k + 1}", Product(self.weight, r), ("task", k)) for k, r in enumerate(self.rho)]

    def counts(self, rollout: Rollout, env_steps: int | None = None) -> Any:
        """Return how much it counts in each state: lambda_i, or 1 without ``env_steps``, and 0 where it does not teach.

        A number, or [T, B].
        """
        total: Any = 0.0
        for _, weight, where in self.parts:
            obs: Any = rollout.obs
            here = 1.0 if where is None else says(obs[where[0]], where[1], 2)
            total = total + here * (1.0 if env_steps is None else weight.value(env_steps))
        return total


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
        env_reward: bool = True,
        gamma: float = 1.0,
        warm_up: int = 0,
        keeps_normalizer: bool = False,
        acting: TeacherActs | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            guides: The teachers.
            rl_weight: c, of policy gradient and entropy bonus.
            gate: Teachers count only where they expect more than the student does.
            proximal: Weigh by the clipped ratio, with the policy gradient's clip range.
            reward: ``none``, or what teachers add to rewards, summed over them: ``log_prob``, ``value``, ``distance``.
            reward_weight: Its factor.
            env_reward: Whether the environment's rewards count too.
            gamma: Discount of ``value`` rewards.
            warm_up: Env steps in which only the value function learns.
            keeps_normalizer: The student's input statistics stay as they are: it began as a copy of its teacher.
            acting: A teacher that acts at some steps of the rollouts; None: the student alone acts.
            rehearsal: A term on stored states; None for none.
        """
        self.guides = tuple(guides)
        self.env_reward, self.warm_up, self.keeps_normalizer = env_reward, warm_up, keeps_normalizer
        self.acting, self.rehearsal = acting, rehearsal
        self.levels: tuple[Level, ...] = ()
        """What the teachers of several tasks reach, for evaluations to measure by."""
        self._rl_weight, self._gate, self._proximal = rl_weight, gate, proximal
        self._reward, self._reward_weight, self._gamma = reward, reward_weight, gamma

    def terms(self, objective: ObjectiveSettings) -> list[Term]:
        """Return all terms of the objective, those of reinforcement learning first."""
        terms = actor_critic_terms(objective, self._rl_weight, self.warm_up)
        clip = objective.clip if self._proximal else None
        for i, g in enumerate(self.guides):
            family = g.teacher.family
            for name, weight, where in g.parts:
                terms.append(FromTeacher(g.distance, family, i, weight, name, self._gate, clip, where))
            if feedback.ends(g.value_weight) > 0:
                terms.append(ValueFromTeacher(i, g.value_weight, f"{g.name}_value"))
        if self.rehearsal is not None:
            terms.append(self.rehearsal)
        return terms

    def output_terms(self, objective: ObjectiveSettings) -> Sequence[output_terms.TeacherTerm] | None:
        """Return what is added to the terms of reinforcement learning, where the hand-derived kernel can add it.

        None: it takes autograd. The kernel has the terms of reinforcement learning at full weight from the first step
        on, in all states.
        """
        whole = self._rl_weight == _ONE and not self.warm_up and self.acting is None
        terms = [term for term in self.terms(objective) if not isinstance(term, REINFORCEMENT)]
        return terms if whole and output_terms.supports(terms) else None

    @property
    def distances(self) -> dict[str, str]:
        """What the distance of each term is called."""
        return {name: guide.distance.name for guide in self.guides for name, _, _ in guide.parts}

    @property
    def gated(self) -> bool:
        """Whether a weight, or who acts, follows scores."""
        if self.acting is not None and self.acting.curriculum is not None:
            return True
        return any(isinstance(feedback.find(g.weight), Gated) for g in self.guides)

    def note_score(self, score: float) -> None:
        """Take in the student's last score; NaN before the first evaluation."""
        for guide in self.guides:
            weight = feedback.find(guide.weight)
            if isinstance(weight, Gated):
                weight.student = score

    def mixture(self, env_steps: int) -> Mixture:
        """Return who acts in the rollout that begins after ``env_steps`` steps."""
        return STUDENT if self.acting is None else self.acting.mixture(env_steps)

    def label(self, rollout: Rollout, env_steps: int) -> list[Labels | None]:
        """Ask every teacher that counts about the whole rollout, each in one call.

        A teacher with a memory is asked until none of its weights can come back: it must see every step.
        """
        return [g.labels.label(rollout) if self._asked(g, env_steps) else None for g in self.guides]

    def _asked(self, guide: Guide, env_steps: int) -> bool:
        weights = [guide.weight, guide.value_weight]
        if self._reward not in ("none", "distance"):  # lambda is part of that of the distance
            weights.append(self._reward_weight)
        if guide.recurrent:
            return any(env_steps < feedback.ends(weight) for weight in weights)
        return any(weight.value(env_steps) != 0 for weight in weights)

    def reward(
        self,
        rollout: Rollout,
        labels: Sequence[Labels | None],
        env_steps: int,
        student: Family,
        params: Callable[[], Array],
    ) -> Array | None:
        """Return what is added to the rewards before advantages are estimated, [T, B] float32; None: nothing.

        Args:
            rollout: [T, B].
            labels: From ``label``.
            env_steps: Before the rollout.
            student: The student's family.
            params: Returns its parameters [T, B, P]; called where they are needed.
        """
        weight = 0.0 if self._reward == "none" else self._reward_weight.value(env_steps)
        if weight == 0:
            return None
        total = np.zeros(rollout.shape, np.float32)
        for guide, columns in zip(self.guides, labels, strict=True):
            if columns is None:
                continue  # its lambda is 0
            if self._reward == "distance":
                total += guide.counts(rollout, env_steps) * distance_reward(guide, columns, student, params())
            elif self._reward == "log_prob":
                total += guide.counts(rollout) * log_prob_reward(guide.teacher, columns, rollout)
            else:
                total += guide.counts(rollout) * value_reward(guide.teacher, columns, rollout, self._gamma)
        return np.asarray(weight * total, np.float32)

    def observe(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """Move the weights that follow the distance, after the updates on a rollout of ``env_steps`` env steps."""
        for guide in self.guides:
            weight = feedback.find(guide.weight)
            seen = [metrics[f"kl/{name}"] for name, _, _ in guide.parts if f"kl/{name}" in metrics]
            if isinstance(weight, TargetKL) and seen:
                weight.observe(float(np.mean(seen)), env_steps)

    def state(self) -> dict[str, Any]:
        """Return JSON-able data from which ``restore`` goes on exactly.

        Checkpoints begin new episodes: what teachers remember ends there.
        """
        jump = {} if self.acting is None else feedback.state(self.acting.jump)
        drawn = None if self.rehearsal is None else self.rehearsal.rng.bit_generator.state
        return {"weights": [feedback.state(g.weight) for g in self.guides], "jump": jump, "rehearsal": drawn}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            UserError: There were more or fewer teachers.
        """
        if len(data["weights"]) != len(self.guides):
            raise UserError(
                f"the run has {len(data['weights'])} teachers, not {len(self.guides)}: resume it with as many, or "
                "start another with --run"
            )
        for guide, saved in zip(self.guides, data["weights"], strict=True):
            feedback.restore(guide.weight, saved)
        if self.acting is not None:
            feedback.restore(self.acting.jump, data["jump"])
        if self.rehearsal is not None and data["rehearsal"] is not None:
            self.rehearsal.rng.bit_generator.state = data["rehearsal"]


def distance_reward(guide: Guide, columns: Labels, student: Family, params: Array) -> Array:
    """-D(T(s_t), S(s_t)), [T, B]: makes the distance's update the gradient of its sum over student trajectories.

    grad E_S[sum_t D(s_t)] = E_S[sum_t grad D(s_t) + grad log S(a_t|s_t) sum_{k > t} D(s_k)]  (Czarnecki 2019, theorem
    2). With cross_entropy this is N-distill, with reverse_cross_entropy expected-entropy-regularised distillation.
    Differs in: paid for s_t, not for s_{t+1}, so that discounts are those of the sum and nothing beyond the rollout is
    asked: D(s_t) does not depend on a_t and changes nothing in expectation. And where the paper takes
    log pi_T(a_{t+1}|s_{t+1}) for H(S, T), this is its expectation over a_{t+1}.
    """
    said = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
    distance = guide.distance(guide.teacher.family, said["params"], student, torch.from_numpy(params), said.get("mask"))
    return -np.asarray(distance.numpy(), np.float32)


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
