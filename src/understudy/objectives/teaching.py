"""Terms of several teachers beside reinforcement learning: kickstarting (Schmitt 2018) and what grew out of it.

    sum_i lambda_i(k) E_s[ w_i(s) D_i( pi_Ti(.|s), pi_S(.|s) ) ]  +  sum_i nu_i(k) E_s[ (V_S(s) - V_Ti(s))^2 ]

States are those of the student's own trajectories. w_i is a product of the parts that are switched on: the gate
1[V_T(s) > V_S(s)] (Czarnecki 2019), the proximal ratio max(pi_S/pi_old, 1 - clip) (Spigler 2025), and
whether the state is one of T_i's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from understudy.data import Target
from understudy.errors import UserError
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.objective import mean_valid
from understudy.objectives.schedules import Constant, Weight
from understudy.policies import distributions
from understudy.policies.family import Family
from understudy.policies.policy import Output, Policy

_DIVERGENCES = {"cross_entropy": "forward_kl", "reverse_cross_entropy": "reverse_kl"}


@dataclass(frozen=True)
class FromTeacher:
    """Mean over valid states of w_i(s) D_i(T_i(s), S(s)).

    Diagnostics: ``kl/NAME``, the distance itself, or KL where the distance is a cross-entropy, which differs from it by
    an entropy: KL(T||S) for H(T, S), KL(S||T) for H(S, T); unweighted, so that it says how far the student is from its
    teacher. With a gate, ``gate/NAME`` is the share of states that count.

    Attributes:
        distance: D_i.
        teacher: The family of T_i.
        number: Which of ``Batch.targets`` is T_i's.
        weight: lambda_i.
        name: What logs call it.
        gate: Only states with V_T > V_S count; the sum is still divided by the number of all valid states.
        proximal: Clip range of the ratio's lower bound; None for no ratio. The gradient goes through the ratio, as in
            the authors' code (sb3_distill, ppd.py): teaching then also moves the probability of the actions taken.
        where: An observation key and a number: only states count whose key says it, as an integer or as a one-hot
            vector; the sum is still divided by the number of all valid states. None: all states.
    """

    distance: Distance
    teacher: Family
    number: int = 0
    weight: Weight = Constant(1.0)
    name: str = "teacher"
    gate: bool = False
    proximal: float | None = None
    where: tuple[str, int] | None = None

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """See ``Term``."""
        return self.diagnosed_loss(policy, batch, output)[0]

    def diagnosed_loss(self, policy: Policy, batch: Batch, output: Output) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the diagnostics; see ``DiagnosedTerm``.

        Raises:
            UserError: There is a gate, but the teacher or the student has no value function.
        """
        target = batch.targets[self.number]
        assert target is not None, "a term of weight above 0 whose teacher was not asked"
        said = (self.teacher, target.params, policy.family, output.params)
        distances = self.distance(*said, target.mask)
        taught = batch.valid
        if self.where is not None:
            here = says(batch.obs[self.where[0]], self.where[1], distances.ndim)
            taught = here if batch.valid is None else batch.valid * here
        with torch.no_grad():
            apart = distances
            if self.distance.name in _DIVERGENCES:
                apart = replace(self.distance, name=_DIVERGENCES[self.distance.name])(*said, target.mask)
            diagnostics = {f"kl/{self.name}": mean_valid(apart, taught)}
        if self.where is not None:
            distances = distances * here
        if self.gate:
            opened = _opened(target, output)
            distances = distances * opened
            diagnostics[f"gate/{self.name}"] = mean_valid(opened, batch.valid)
        if self.proximal is not None:
            assert batch.action is not None and batch.log_prob is not None
            log_prob = distributions.log_prob(policy.family, output.params, batch.action)
            distances = distances * torch.exp(log_prob - batch.log_prob).clamp_min(1 - self.proximal)
        return mean_valid(distances, batch.valid), diagnostics


def says(column: Any, number: int, ndim: int) -> Any:
    """Return 1.0 where an observation key says this number, else 0.0, [...]; of tensors and arrays alike.

    Args:
        column: [...] integers, or one-hot vectors [..., n].
        number: Which.
        ndim: Axes of the result.
    """
    return (column == number) * 1.0 if column.ndim == ndim else column[..., number]


def _opened(target: Target, output: Output) -> Tensor:
    """1 where V_T(s) > V_S(s), else 0; [...] float32 without a gradient."""
    if target.value is None or output.value is None:
        who = "teacher" if target.value is None else "student"
        raise UserError(f"teaching.gate value: the {who} has no value function")
    return (target.value > output.value.detach()).float()


@dataclass(frozen=True)
class ValueFromTeacher:
    """Mean over valid states of (V_S(s) - V_T(s))^2; both in the scale of raw rewards."""

    number: int = 0
    weight: Weight = Constant(0.5)
    name: str = "teacher_value"

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """See ``Term``.

        Raises:
            UserError: The teacher or the student has no value function.
        """
        target = batch.targets[self.number]
        value = target.value if target is not None else None
        if value is None or output.value is None:
            who = "teacher" if value is None else "student"
            raise UserError(f"teaching.value_weight: the {who} has no value function")
        return mean_valid((output.value - value).square(), batch.valid)
