"""An environment of one's own, and a policy for it: ``python examples/environment.py``.

On the command line the same environment is ``--env environment:Thermostat-v0``, in the folder of this file.
"""

from typing import Any

import gymnasium as gym
import numpy as np

import understudy


class Thermostat(gym.Env):
    """A room that loses heat; the heater is off, low or high. Reward: minus the distance to 20 degrees, in tens."""

    observation_space = gym.spaces.Box(-50.0, 50.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw the temperatures inside and outside."""
        super().reset(seed=seed)  # all randomness comes from self.np_random, so that a seed is an episode
        self.inside, self.outside = self.np_random.uniform(5, 25), self.np_random.uniform(-10, 15)
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Heat, lose heat, and pay."""
        self.inside += 1.5 * int(action) + 0.05 * (self.outside - self.inside)
        return self._see(), -abs(self.inside - 20) / 10, False, False, {}

    def _see(self) -> np.ndarray:
        return np.array([self.inside - 20, self.outside - 20], np.float32)


# An id gives it a time limit; where there is none, the class itself can be passed.
if "Thermostat-v0" not in gym.registry:
    gym.register("Thermostat-v0", Thermostat, max_episode_steps=50)


def by_hand(obs: np.ndarray) -> np.ndarray:
    """Heat where it would be below 20 degrees otherwise: observations [N, 2] in, actions [N] out."""
    loss = 0.05 * (obs[:, 1] - obs[:, 0])
    return np.clip(np.rint(-(obs[:, 0] + loss) / 1.5), 0, 2).astype(np.int64)


def main() -> None:
    """Train a policy in it, and distil a teacher written by hand."""
    env = "Thermostat-v0"
    small = {"rollout": {"num_envs": 8, "steps": 64}, "stop": {"env_steps": 16_384}, "evaluation": {"final": 20}}
    trained = understudy.train(env, "ppo", small, run="runs/example-trained")
    print(f"trained: return {trained.score:.1f}")
    settings = {"student": {"hidden": [16, 16]}, "data": {"num_envs": 4, "steps": 250}, "execution": {"type": "single"},
                "evaluation": {"screen": 10, "episodes": 10, "num_envs": 10}}  # fmt: skip
    result = understudy.distill(by_hand, env, settings, run="runs/example-distilled")
    policies = ["random", result.teacher, result.student, trained.policy]
    found = understudy.compare(policies, env, episodes=10, names=["random", "by hand", "distilled", "trained"])
    for row in found.rows:
        print(f"{row.name}: return {row.evaluation.mean:.1f}")


if __name__ == "__main__":
    main()
