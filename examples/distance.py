"""A distance of one's own between two policies: ``python examples/distance.py``."""

import numpy as np
import torch
from torch import Tensor

import understudy
from understudy.objectives.distances import Distance, add_distance
from understudy.policies.family import Family


def total_variation(
    teacher: Family, teacher_params: Tensor, student: Family, student_params: Tensor, mask: Tensor | None
) -> Tensor:
    """Half of sum_a |p(a) - q(a)|, from 0 to 1; logits [..., n] of both -> [...]."""
    p, q = teacher_params.softmax(dim=-1), student_params.softmax(dim=-1)
    return 0.5 * (p - q).abs().sum(dim=-1)


def choices_only(teacher: Family, student: Family) -> str:
    """Say why the distance is not defined between two families, or nothing."""
    return "" if teacher.name == student.name == "categorical" else "total variation compares choices; use wasserstein2"


def balance(obs: np.ndarray) -> np.ndarray:
    """Keep CartPole's pole up: actions [N]."""
    return (obs[:, 2] + 0.5 * obs[:, 3] + 0.1 * obs[:, 1] > 0).astype(np.int64)


def main() -> None:
    """Add the distance, check one number of it, distil with it."""
    add_distance("total_variation", total_variation, choices_only)
    two = Family("categorical", (2,))
    even, sure = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 100.0])
    print("an even choice against a sure one:", float(Distance("total_variation")(two, even, two, sure)))

    settings = {
        "student": {"hidden": [16, 16]},
        "distance": {"name": "total_variation"},
        "data": {"num_envs": 4, "steps": 250},
        "evaluation": {"screen": 10, "episodes": 10, "num_envs": 10},
        "execution": {"type": "single"},
    }
    result = understudy.distill(balance, "CartPole-v1", settings, run="runs/example-distance")
    print("stopped by", result.stopped)


if __name__ == "__main__":
    main()
