"""Distil a Python function into a small network, and compare the two: ``python examples/distil.py``."""

import numpy as np

import understudy

SMALL = {
    "student": {"hidden": [16, 16]},
    "data": {"num_envs": 4, "steps": 250},
    "evaluation": {"screen": 10, "episodes": 10, "num_envs": 10},
    "execution": {"type": "single"},  # done before workers have started
}


def balance(obs: np.ndarray) -> np.ndarray:
    """Keep CartPole's pole up: observations [N, 4] in, actions [N] out."""
    return (obs[:, 2] + 0.5 * obs[:, 3] + 0.1 * obs[:, 1] > 0).astype(np.int64)


def main() -> None:
    """Distil, compare on fresh episodes, load the student from its file."""
    result = understudy.distill(balance, "CartPole-v1", SMALL, run="runs/example-distil")
    print("stopped by", result.stopped, "after", result.env_steps, "env steps")

    found = understudy.compare([result.teacher, result.student], episodes=10, seed=100, names=["function", "network"])
    for row in found.rows:
        print(f"{row.name}: return {row.evaluation.mean:.1f}, ratio {row.ratio:.2f}")

    student = understudy.load("runs/example-distil")
    action, _ = student.predict(np.array([0.0, 0.0, 0.05, 0.3], np.float32), deterministic=True)
    print("the pole leans to the right, so push to the", ("left", "right")[int(action)])


if __name__ == "__main__":
    main()
