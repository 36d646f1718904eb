"""Rehearsal: a term with batches of its own, of states that were stored before the run.

What a student knew, or its teacher knows, about states that it no longer visits is not forgotten (Wolczyk 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, Target, map_obs
from understudy.errors import UserError
from understudy.io.checkpoint import read_arrays
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.objective import unit_output
from understudy.objectives.schedules import Constant, Weight
from understudy.policies.policy import Output, Policy, PolicyLike
from understudy.policies.spaces import members

_ROWS = 4096
"""States that the teacher is asked about at once."""


@dataclass
class Rehearsal:
    """E_{s ~ data}[ D(T(s), S(s)) ], on ``size`` stored states that are drawn anew for every gradient step.

    Attributes:
        obs: [N, ...] a tensor, or one per key.
        target: What the teacher says about them.
        teacher: Its family.
        distance: D.
        rng: Draws the states.
        weight: How much it counts.
        size: States of a batch.
        name: What logs call it.
    """

    obs: Any
    target: Target
    teacher: PolicyLike
    distance: Distance
    rng: np.random.Generator
    weight: Weight = Constant(1.0)
    size: int = 256
    name: str = "rehearsal"

    def loss(self, policy: Policy, batch: Batch, output: Output) -> Tensor:
        """Mean distance over a batch of its own; see ``Term``."""
        rows = torch.from_numpy(self.rng.integers(0, len(self.target.params), self.size))
        params, _, mask = (None if part is None else part[rows].to(policy.device) for part in self.target)
        assert params is not None
        said = unit_output(policy, Batch(map_obs(lambda a: a[rows].to(policy.device), self.obs)))
        return self.distance(self.teacher.family, params, policy.family, said.params, mask).mean()


def stored_states(folder: Path) -> dict[str, Array]:
    """Return the observations in a distillation's folder, [N, ...] by key (``""`` where there are no keys).

    Raises:
        UserError: There are none, or a file is damaged.
    """
    files = sorted((folder / "data").glob("*.safetensors"))
    if not files:
        raise UserError(f"teaching.rehearsal.data: {folder} has no data/*.safetensors, as distillations write them")
    parts = [read_arrays(file)[0] for file in files]
    keys = [name for name in parts[0] if name.startswith("obs:")]
    return {key.removeprefix("obs:"): np.concatenate([part[key] for part in parts]) for key in keys}


def check_states(states: dict[str, Array], student: Policy) -> None:
    """Refuse states that the student does not see.

    Raises:
        UserError: Naming the shapes.
    """
    for key, space in members(student.observation_space).items():
        got = states[key].shape[1:] if key in states else None
        if got != space.shape:
            raise UserError(
                f"teaching.rehearsal.data: the student sees {key or 'observations'} of shape {space.shape}, the stored "
                f"ones {'have no such key' if got is None else f'have {got}'}"
            )


def rehearsal_of(
    states: dict[str, Array], teacher: PolicyLike, distance: Distance, weight: Weight, size: int, seed: int
) -> Rehearsal:
    """Ask the teacher about all stored states, once."""
    obs: Any = states[""] if list(states) == [""] else states
    count = len(next(iter(states.values())))
    parts = [teacher.label(map_obs(lambda a, i=begin: a[i : i + _ROWS], obs))[0] for begin in range(0, count, _ROWS)]
    masks = [part.mask for part in parts if part.mask is not None]
    target = Target(torch.cat([part.params for part in parts]).cpu(), None, torch.cat(masks) if masks else None)
    if not torch.isfinite(target.params).all():
        raise UserError("teaching.rehearsal.data: the teacher answers NaN or infinity to a stored state")
    tensors = map_obs(torch.from_numpy, obs)
    return Rehearsal(tensors, target, teacher, distance, np.random.default_rng((seed, 5)), weight, size)
