"""Train the MiniGrid DoorKey-6x6 teacher that ships with Understudy, by its own PPO in EnvPool.

Run it from the repository root:

    python scripts/train_doorkey_teacher.py --out runs/doorkey-teacher

The file ``last.safetensors`` in that folder is what ships as ``assets/doorkey-teacher.safetensors``: 303,104 env steps,
return 0.9665 [0.9652, 0.9677] over 200 episodes in EnvPool and 0.9661 [0.9648, 0.9672] in the package minigrid. Other
numbers of threads sum in another order and end with other weights.
"""

import argparse
from pathlib import Path

import understudy
from understudy.data import EnvSpec

ENV = EnvSpec("MiniGrid-DoorKey-6x6-v0", wrappers=({"type": "mission", "length": 64},))
SETTINGS = {
    "policy": {"features": 32, "hidden": [32], "value_hidden": [32]},  # 0.3 MB
    "execution": {"type": "single"},
    "seed": 1_000,
}


def main() -> None:
    """Train, then play 200 episodes in each of the two libraries that have the task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/doorkey-teacher"))
    parser.add_argument("--env-steps", type=int, default=300_000)
    options = parser.parse_args()
    settings = {**SETTINGS, "env": ENV.to_json(), "stop": {"env_steps": options.env_steps}}
    result = understudy.train(None, "ppo-minigrid-doorkey", settings, run=options.out)
    print(f"{result.env_steps:,} env steps, evaluations {[(k, round(v, 3)) for k, v in result.curve]}")
    for backend in ("envpool", "gymnasium"):
        env = EnvSpec(ENV.id, wrappers=ENV.wrappers, backend=backend)
        found = understudy.evaluate(
            options.out / "last.safetensors", env, 200, seed=2_000_000, num_envs=50, deterministic=False
        )
        print(f"{backend}: {found.mean:.4f} {found.mean_interval}")


if __name__ == "__main__":
    main()
