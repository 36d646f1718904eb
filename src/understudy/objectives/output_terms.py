"""Terms that look at nothing but what a student says, with their slopes there: teachers for a hand-derived kernel.

A kernel needs dL/d outputs; what lies below is its own. Those of ``FromTeacher`` and ``ValueFromTeacher`` come from
``teacher_slopes`` where these have them, otherwise from autograd over a graph that begins at the outputs and ends at
the loss. A term of weight 0 is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np
import torch

from understudy.data import Array, Target
from understudy.errors import UserError
from understudy.objectives.batch import Batch
from understudy.objectives.objective import Term
from understudy.objectives.teacher_slopes import Apart, Slope, closed_form
from understudy.objectives.teaching import FromTeacher, ValueFromTeacher
from understudy.policies.family import Family
from understudy.policies.policy import Output, Policy

TeacherTerm = FromTeacher | ValueFromTeacher


def supports(terms: Sequence[Term]) -> TypeGuard[Sequence[TeacherTerm]]:
    """Say whether all of these terms look at outputs and targets alone."""
    return all(
        isinstance(term, ValueFromTeacher) or (isinstance(term, FromTeacher) and term.where is None) for term in terms
    )


class OutputTerms:
    """A weighted sum of terms as a function of the outputs."""

    def __init__(self, policy: Policy, terms: Sequence[TeacherTerm]) -> None:
        """Take terms that ``supports`` names."""
        self._policy = policy
        self._terms = [(term, _by_hand(term, policy.family)) for term in terms]
        self._sums: dict[str, float] = {}
        self._counted = 0

    def slopes(self, params: Array, value: Array, batch: Batch, env_steps: int) -> tuple[Array, Array] | None:
        """Return dL/d params [P, n] and dL/d value [n] of the outputs, shaped alike; None where no term has any weight.

        Args:
            params: [P, n] float32, in unit actions; a Gaussian's log standard deviations come last.
            value: [n] float32.
            batch: n states: ``targets``, and of the columns those that the terms read.
            env_steps: For the weights.
        """
        slope, value_slope = np.zeros_like(params), np.zeros_like(value)
        parts, others, total = {}, [], 0.0
        for term, by_hand in self._terms:
            weight = parts[f"{term.name}_weight"] = term.weight.value(env_steps)
            if weight == 0:
                continue
            target = batch.targets[term.number]
            assert target is not None, "a term of weight above 0 whose teacher was not asked"
            if by_hand is None or target.mask is not None or isinstance(term, ValueFromTeacher):
                others.append((weight, term))
                continue
            parts |= _taught(term, by_hand(target.params.numpy().T, params), target, value, weight, slope)
            total += weight * parts[term.name]
        if others:
            total += self._autograd(others, params, value, batch, parts, slope, value_slope)
        self._note(parts | {"loss": total})
        return (slope, value_slope) if any(parts[f"{term.name}_weight"] for term, _ in self._terms) else None

    def _autograd(
        self,
        terms: Sequence[tuple[float, TeacherTerm]],
        params: Array,
        value: Array,
        batch: Batch,
        parts: dict[str, float],
        slope: Array,
        value_slope: Array,
    ) -> float:
        """Add the slopes of terms to those given, and what they tell to ``parts``; return their weighted sum."""
        said, valued = torch.from_numpy(params).T.requires_grad_(), torch.from_numpy(value).requires_grad_()
        output, total = Output(said, valued, None), torch.zeros(())
        for weight, term in terms:
            if isinstance(term, FromTeacher):
                loss, diagnostics = term.diagnosed_loss(self._policy, batch, output)
                parts |= {name: float(each) for name, each in diagnostics.items()}
            else:
                loss = term.loss(self._policy, batch, output)
            parts[term.name] = float(loss.detach())
            total = total + weight * loss
        found = torch.autograd.grad(total, (said, valued), allow_unused=True, materialize_grads=True)
        slope += found[0].numpy().T
        value_slope += found[1].numpy()
        return float(total.detach())

    def _note(self, parts: Mapping[str, float]) -> None:
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + part
        self._counted += 1

    def metrics(self) -> dict[str, float]:
        """Return means over the steps since the last call, named as ``Objective`` names them; ``loss`` is this sum."""
        means = {name: total / max(self._counted, 1) for name, total in self._sums.items()}
        self._sums, self._counted = {}, 0
        return means


def _by_hand(term: TeacherTerm, student: Family) -> Slope | None:
    if not isinstance(term, FromTeacher) or term.proximal is not None:
        return None
    return closed_form(term.distance, term.teacher, student)


def _taught(
    term: FromTeacher, apart: Apart, target: Target, value: Array, weight: float, slope: Array
) -> dict[str, float]:
    """Add a term's weighted slope; return its loss and what it tells, as ``FromTeacher.diagnosed_loss`` does."""
    distance = apart.kl + apart.entropy if term.distance.name == "cross_entropy" else apart.kl
    parts, each = {f"kl/{term.name}": float(apart.kl.mean())}, apart.slope
    each *= np.float32(weight / len(value))
    if term.gate:
        if target.value is None:
            raise UserError("teaching.gate value: the teacher has no value function")
        opened = (target.value.numpy() > value).astype(np.float32)
        distance = distance * opened
        each *= opened
        parts[f"gate/{term.name}"] = float(opened.mean())
    slope += each
    return parts | {term.name: float(distance.mean())}


__all__ = ["OutputTerms", "TeacherTerm", "supports"]
