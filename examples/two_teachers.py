"""Merge two teachers into one student: ``python examples/two_teachers.py``.

One steers gently, the other hard, so they disagree about how sure to be. What the student learns is the mean of their
probabilities.
"""

import numpy as np

import understudy
from understudy.envs.make import spaces_of

SMALL = {
    "student": {"hidden": [16, 16]},
    "data": {"num_envs": 4, "steps": 250},
    "evaluation": {"screen": 10, "episodes": 10, "num_envs": 10},
    "execution": {"type": "single"},
}


def calm(obs: np.ndarray) -> np.ndarray:
    """Logits [N, 2] of a teacher that watches the pole."""
    lean = 4 * obs[:, 2] + 2 * obs[:, 3]
    return np.stack((-lean, lean), axis=1)


def firm(obs: np.ndarray) -> np.ndarray:
    """Logits [N, 2] of a teacher that also brings the cart back to the middle."""
    lean = 20 * (obs[:, 2] + 0.5 * obs[:, 3] + 0.1 * obs[:, 1] + 0.05 * obs[:, 0])
    return np.stack((-lean, lean), axis=1)


def main() -> None:
    """Distil both, and print what each of the three earns."""
    observations, actions = spaces_of(understudy.EnvSpec("CartPole-v1"))  # functions do not know theirs
    spaces = {"observation_space": observations, "action_space": actions}
    teachers = [understudy.load(function, env="CartPole-v1", **spaces) for function in (calm, firm)]
    result = understudy.distill(teachers, settings=SMALL, ensemble="distributions", run="runs/example-two-teachers")
    found = understudy.compare([*teachers, result.student], episodes=10, seed=100, names=["calm", "firm", "student"])
    for row in found.rows:
        print(f"{row.name}: return {row.evaluation.mean:.1f}")


if __name__ == "__main__":
    main()
