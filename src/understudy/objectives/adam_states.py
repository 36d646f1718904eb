"""Adam's statistics as autograd keeps them, by parameter, and as the hand-derived kernel does, in vectors.

The numbers are the same, so that a run may go on with the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from understudy.data import Array
from understudy.errors import UserError
from understudy.objectives.actor_critic_kernel import supports
from understudy.objectives.actor_critic_net import Layout
from understudy.policies.policy import Policy

_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}


def by_parameter(policy: Policy, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> dict[str, Array]:
    """Return what ``optimizers.Adam`` goes on from, of what either of them saved.

    Raises:
        UserError: It belongs to another network.
    """
    if "m" not in arrays:
        return dict(arrays)
    layout = Layout(policy.spec, _features(policy)) if supports(policy.spec) else None
    if layout is None or layout.size != len(arrays["m"]):
        raise UserError("the optimiser state does not fit this student; resume with the same network")
    return from_vectors(policy, layout.named, arrays, data)


def from_vectors(
    policy: Policy, named: Callable[[Array], dict[str, Array]], arrays: Mapping[str, Array], data: Mapping[str, Any]
) -> dict[str, Array]:
    """Return what ``optimizers.Adam`` goes on from, of vectors of moments; ``named`` as for ``as_vectors``."""
    found: dict[str, Array] = {}
    for vector, name in _MOMENTS.items():
        views = named(arrays[vector])
        found |= {f"{i}:{name}": views[parameter] for i, parameter in enumerate(_learnt(policy))}
    step = np.asarray(data["steps"], np.float32)
    return found | {f"{i}:step": step for i in range(len(_learnt(policy)))}


def as_vectors(
    policy: Policy,
    named: Callable[[Array], dict[str, Array]],
    params: Array,
    arrays: Mapping[str, Array],
    data: Mapping[str, Any],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return what ``FlatAdam`` goes on from, of what either of them saved.

    Args:
        policy: The student, its weights those to go on with.
        named: Cuts a vector into views by parameter.
        params: [size] the student's parameters.
        arrays: That were saved.
        data: Beside them.

    Raises:
        UserError: It is of another optimiser or network, or its parameters learnt for different numbers of steps.
    """
    if "m" in arrays:
        return dict(arrays), dict(data)
    found, names = {"params": params.copy()}, _learnt(policy)
    steps = {float(array) for name, array in arrays.items() if name.endswith(":step")}
    if len(steps) != 1:
        raise UserError("parts of this student learnt for different numbers of steps: resume with update.kernel false")
    for vector, moment in _MOMENTS.items():
        found[vector] = np.zeros_like(params)
        views = named(found[vector])
        for i, name in enumerate(names):
            saved = arrays.get(f"{i}:{moment}")
            if saved is None or saved.shape != views[name].shape:
                raise UserError(
                    "the optimiser state does not fit: resume with the same network and the same update.optimizer"
                )
            views[name][...] = saved
    return found, {"steps": steps.pop()}


def in_order(policy: Policy, vector: Array) -> dict[str, Array]:
    """Cut a vector, in which a student's parameters lie one after another, into views by parameter."""
    views, begin = {}, 0
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            views[name] = vector[begin : begin + parameter.numel()].reshape(parameter.shape)
            begin += parameter.numel()
    return views


def _learnt(policy: Policy) -> list[str]:
    """Return the names of the parameters in the order in which autograd's optimiser has them."""
    return [name for name, parameter in policy.named_parameters() if parameter.requires_grad]


def _features(policy: Policy) -> int:
    return next(module for module in policy.body if isinstance(module, nn.Linear)).in_features
