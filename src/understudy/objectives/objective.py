"""The whole loss as a weighted sum of terms, each an object with a ``loss``.

    L(theta; k) = sum_i w_i(k) L_i(theta)

with weights w_i that follow schedules on env steps k. Every L_i is a mean over the valid states of the batch, so that
weights and learning rate mean the same for every batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from understudy.errors import UserError
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.schedules import Constant, Schedule, Weight
from understudy.policies import distributions
from understudy.policies.family import ActionMap, Family
from understudy.policies.policy import Output, Policy


class Term(Protocol):
    """One summand of the objective."""

    @property
    def name(self) -> str:
        """What logs call it; unique in an objective."""

    @property
    def weight(self) -> Weight:
        """How much it counts."""

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """Return a scalar.

        Args:
            policy: The student, for terms that ask it about other states.
            batch: The states and targets.
            output: What the student says about the batch, computed once for all terms; parameters in unit actions.
        """


@runtime_checkable
class DiagnosedTerm(Term, Protocol):
    """A term that tells more about the batch than its loss, from what it computes anyway."""

    def diagnosed_loss(self, policy: Policy, batch: Batch, output: Output) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and detached scalars by name, unique in an objective."""


@dataclass(frozen=True)
class PolicyTransfer:
    """Mean over valid states of the distance from the teacher's to the student's distribution."""

    distance: Distance
    teacher: Family
    weight: Schedule = Constant(1.0)
    name: str = "distance"

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """E[D(T(s), S(s))]; see ``Term``.

        Raises:
            UserError: No teacher labelled the batch.
        """
        if batch.target is None:
            raise UserError("policy transfer: there is no teacher to learn from; switch the distance off")
        distances = self.distance(self.teacher, batch.target.params, policy.family, output.params, batch.mask)
        return mean_valid(distances, batch.valid)


@dataclass(frozen=True)
class ValueTransfer:
    """Mean over valid states of (V_S - V_T)^2, in the teacher's reward scale.

    Attributes:
        normalize: Divide by the variance of V_T over the valid states of the batch, so that the weight does not depend
            on the scale of rewards; the student still learns V_T itself.
    """

    weight: Schedule = Constant(0.5)
    normalize: bool = False
    name: str = "value"

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """E[(V_S(s) - V_T(s))^2]; see ``Term``.

        Raises:
            UserError: The teacher or the student has no value function.
        """
        target = batch.target.value if batch.target is not None else None
        if target is None or output.value is None:
            who = "teacher" if target is None else "student"
            raise UserError(f"value transfer: the {who} has no value function; switch the value term off")
        loss = mean_valid((output.value - target).square(), batch.valid)
        if self.normalize:
            center = mean_valid(target, batch.valid)
            loss = loss / mean_valid((target - center).square(), batch.valid).clamp_min(1e-8)
        return loss


class Objective:
    """The weighted sum of terms."""

    def __init__(self, terms: Sequence[Term]) -> None:
        names = [term.name for term in terms]
        if not terms or len(set(names)) < len(names):
            raise UserError(f"an objective needs at least one term, each with its own name, not {names}")
        self.terms = tuple(terms)
        self._diagnosed = [term if isinstance(term, DiagnosedTerm) else None for term in terms]

    def __call__(self, policy: Policy, batch: Batch, env_steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its detached parts.

        The parts are ``loss``, each term's loss under its name and weight under ``NAME_weight``, and the diagnostics of
        a ``DiagnosedTerm``. A term of weight 0 is not computed and left out. Nothing waits for a result.

        Raises:
            UserError: No term has any weight at this step.
        """
        output = unit_output(policy, batch)
        total, parts = None, {}
        for term, diagnosed in zip(self.terms, self._diagnosed, strict=True):
            weight = term.weight.value(env_steps)
            parts[f"{term.name}_weight"] = torch.tensor(weight)
            if weight == 0:
                continue
            if diagnosed is None:
                loss = term.loss(policy, batch, output)
            else:
                loss, diagnostics = diagnosed.diagnosed_loss(policy, batch, output)
                parts |= diagnostics
            parts[term.name] = loss.detach()
            total = weight * loss if total is None else total + weight * loss
        if total is None:
            raise UserError(f"after {env_steps} env steps the weight of every term is 0: nothing is left to learn from")
        parts["loss"] = total.detach()
        return total, parts


def unit_output(policy: Policy, batch: Batch) -> Output:
    """Ask the student about the batch; its parameters come in unit actions, as targets do.

    In float32, whatever precision the network computed in: probabilities and losses are not for half of it.
    """
    params, value, state = policy(batch.obs, batch.state, batch.episode_start, batch.tape)
    params, value = params.float(), None if value is None else value.float()
    if policy.family.continuous and not policy.spec.unit_actions:
        params = distributions.to_unit(params, policy.family, ActionMap(policy.action_space))
    return Output(params, value, state)


def mean_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """sum(valid * x) / sum(valid), a scalar; x and valid have one shape, and 0 comes out where nothing is valid."""
    if valid is None:
        return x.mean()
    return (x * valid).sum() / valid.sum().clamp_min(1e-8)
