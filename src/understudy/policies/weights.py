"""A policy's weights and statistics by name: out of it, into it, and a policy made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.policy import Policy
from understudy.policies.protocol import About
from understudy.policies.spec import PolicySpec


def named_arrays(policy: Policy) -> dict[str, Array]:
    """Return every weight and statistic by name, as arrays that share the policy's memory (on the CPU)."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in policy.state_dict().items()}


@torch.no_grad()
def load_arrays(policy: Policy, arrays: Mapping[str, Array]) -> None:
    """Copy what ``named_arrays`` returned, among others perhaps, into the policy."""
    for name, tensor in policy.state_dict().items():
        tensor.copy_(torch.as_tensor(arrays[name]))


def build(spec: PolicySpec, arrays: Mapping[str, Any], about: About | None = None) -> Policy:
    """Build a policy from its description and its arrays.

    Raises:
        UserError: A weight is missing, unexpected, or of the wrong shape.
    """
    policy = Policy(spec, about)
    for name, array in arrays.items():
        if np.iscomplexobj(array):
            raise UserError(f"the weights {name} are complex numbers, which no network here has")
    try:
        policy.load_state_dict({name: torch.as_tensor(np.asarray(a)) for name, a in arrays.items()}, strict=True)
    except RuntimeError as error:
        raise UserError(f"the weights do not fit the network that the description names: {error}") from error
    return policy.eval()
