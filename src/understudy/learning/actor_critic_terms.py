"""The terms of actor-critic methods, as the settings name them."""

from __future__ import annotations

from understudy.objectives.feedback import Product
from understudy.objectives.objective import Term
from understudy.objectives.rl import EntropyBonus, PolicyGradient, ValueRegression
from understudy.objectives.schedules import Constant, Schedule, Weight, parse
from understudy.settings.train import ObjectiveSettings

_ONE = Constant(1.0)
REINFORCEMENT = (PolicyGradient, ValueRegression, EntropyBonus)
"""What ``actor_critic_terms`` returns some of."""


def entropy_schedule(objective: ObjectiveSettings) -> Schedule:
    """Return the schedule of the entropy bonus."""
    return parse(objective.entropy_weight, "objective.entropy_weight")


def actor_critic_terms(objective: ObjectiveSettings, weight: Weight = _ONE, begin: int = 0) -> list[Term]:
    """Return the terms of the reinforcement-learning objective.

    Args:
        objective: Which there are.
        weight: c, which multiplies policy gradient and entropy bonus; the value function learns whatever c is.
        begin: Env steps before which c is 0.
    """
    terms: list[Term] = [
        PolicyGradient(Product(_ONE, weight, begin), objective.clip or None, objective.normalize_advantage)
    ]
    if objective.value_weight:
        terms.append(ValueRegression(Constant(objective.value_weight), objective.value_clip or None))
    entropy = entropy_schedule(objective)
    if not (entropy.constant and entropy.value(0) == 0):
        terms.append(EntropyBonus(Product(entropy, weight, begin)))
    return terms
