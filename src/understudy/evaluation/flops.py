"""How much arithmetic an action takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from understudy.data import map_obs
from understudy.evaluation.latency import example_observation
from understudy.policies.policy import Policy
from understudy.policies.weights import build, named_arrays


def flops_of(policy: Any) -> int | None:
    """Return the floating-point operations of one action; None where the network is not known.

    A multiplication and an addition count as two. Only matrix products and convolutions are counted (PyTorch's
    ``FlopCounterMode``): activations, normalisers and table look-ups are not. The value function is left out.
    """
    if not isinstance(policy, Policy):
        return None
    from torch.utils.flop_counter import FlopCounterMode

    arrays = {name: a for name, a in named_arrays(policy).items() if not name.startswith("value_")}
    actor = build(replace(policy.spec, value_hidden=None), arrays)
    observation = map_obs(lambda a: np.asarray(a)[None], example_observation(policy.observation_space))
    counter = FlopCounterMode(display=False)
    with counter:
        actor.predict(observation, None, np.ones(1, bool), True)
    return int(counter.get_total_flops())
