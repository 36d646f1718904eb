"""A teacher in a format of its own, weights in an ``.npz`` file: ``python examples/teacher_format.py``."""

from pathlib import Path

import gymnasium as gym
import numpy as np

import understudy
from understudy.teachers.opaque import Asked, OpaqueTeacher


class NpzTeacher(OpaqueTeacher):
    """An MLP with tanh layers in an ``.npz`` file: w0, b0, w1, b1, … and logits at the end."""

    def __init__(self, path: Path, asked: Asked) -> None:
        with np.load(path, allow_pickle=False) as file:  # nothing in a teacher's file may run
            depth = len(file.files) // 2
            self._layers = [(file[f"w{i}"], file[f"b{i}"]) for i in range(depth)]
        if self._layers[0][0].shape[1] != asked.observation_space.shape[0]:
            raise understudy.UserError(f"{path} is for other observations than those of {asked.env.id}")
        super().__init__(path.name, "NPZ", asked)

    @property
    def parameters_count(self) -> int:
        """How many numbers it takes to act."""
        return sum(w.size + b.size for w, b in self._layers)

    def _ask(self, obs: np.ndarray) -> list[np.ndarray]:
        """Return logits for observations [N, 4]; the base class does the rest."""
        for w, b in self._layers[:-1]:
            obs = np.tanh(obs @ w.T + b)
        w, b = self._layers[-1]
        return [obs @ w.T + b]


def load_npz(path: Path, env_id: str) -> NpzTeacher:
    """Load such a file as a teacher for an environment."""
    env = gym.make(env_id)
    return NpzTeacher(path, Asked(understudy.EnvSpec(env_id), "cpu", env.observation_space, env.action_space, "logits"))


def main() -> None:
    """Write a file, load it, distil it."""
    path = Path("balance.npz")
    lean = np.array([[0.0, 0.1, 1.0, 0.5]])  # as in examples/distil.py, with one hidden unit
    np.savez(path, w0=lean, b0=np.zeros(1), w1=np.array([[-50.0], [50.0]]), b1=np.zeros(2))
    teacher = load_npz(path, "CartPole-v1")
    print(teacher.about.algorithm, teacher.family.name, teacher.parameters_count, "parameters")
    settings = {
        "student": {"hidden": [16]},
        "data": {"num_envs": 4, "steps": 250},
        "evaluation": {"screen": 10, "episodes": 10, "num_envs": 10},
        "execution": {"type": "single"},
    }
    result = understudy.distill(teacher, settings=settings, run="runs/example-format")
    print("stopped by", result.stopped)


if __name__ == "__main__":
    main()
