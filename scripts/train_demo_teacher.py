"""Train the HalfCheetah teacher that ships with the demo, with stable-baselines3's PPO on one CPU core.

Run it from the repository root:

    python scripts/train_demo_teacher.py --out runs/demo-teacher

Measured with the default seed (stable-baselines3 2.9.2, torch 2.13 on the CPU, gymnasium 1.4, MuJoCo 4.0): return
5477.9 +- 44.2 over 20 deterministic episodes, none below 5351.1; 5497.6 +- 50.3 over 200 with other start states.
Training twice on one core of a shared machine took 447 s and 774 s, and gave the same weights, bit for bit.

The folder is laid out like one of rl-baselines3-zoo: ENV.zip, and ENV/ with config.yml, args.yml, vecnormalize.pkl.
"""

import argparse
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

ENV = "HalfCheetah-v5"
EVAL_SEED_OFFSET = 10_000  # keeps the evaluation's start states apart from those of training
NET = [128, 128]
PPO_PARAMS = {"n_steps": 64, "batch_size": 512, "n_epochs": 8, "gamma": 0.99, "gae_lambda": 0.92}
N_ENVS = 32
MAX_PITCH = 0.8  # radians
LEARNING_RATE = 3e-4  # falls linearly to 3 % of this


class EndWhenTipped(gym.Wrapper):
    """Ends a training episode once the torso tips over, so that the gait stays upright; never used in evaluation."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Steps the environment; an episode whose torso tips further than MAX_PITCH is terminated."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        tipped = abs(self.unwrapped.data.qpos[2]) > MAX_PITCH
        return obs, float(reward), bool(terminated or tipped), truncated, info


class Progress(BaseCallback):
    """Prints the return and the length of recent training episodes every now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.next_print, self.start = 0, time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next_print and self.model.ep_info_buffer:
            self.next_print = self.num_timesteps + 50_000
            mean, length = np.mean([(info["r"], info["l"]) for info in self.model.ep_info_buffer], axis=0)
            took = time.perf_counter() - self.start
            print(f"{self.num_timesteps:>9,} steps {took:5.0f} s  return {mean:7.1f}  length {length:5.0f}", flush=True)
        return True


def train(seed: int, n_timesteps: int) -> tuple[PPO, VecNormalize]:
    """Trains PPO; returns the model and the statistics that its observations are normalised with."""
    train_envs = make_vec_env(lambda: EndWhenTipped(gym.make(ENV)), N_ENVS, seed=seed)
    envs = VecNormalize(train_envs, gamma=PPO_PARAMS["gamma"])
    net_arch = {"pi": NET, "vf": NET}
    policy_kwargs = {"log_std_init": -2, "ortho_init": False, "activation_fn": torch.nn.ReLU, "net_arch": net_arch}
    schedule = LinearSchedule(LEARNING_RATE, 0.03 * LEARNING_RATE, 1.0)
    model = PPO("MlpPolicy", envs, schedule, **PPO_PARAMS, policy_kwargs=policy_kwargs, seed=seed, device="cpu")
    model.learn(n_timesteps, callback=Progress())
    return model, envs


def evaluate(model: PPO, stats: VecNormalize, seed: int, episodes: int = 20) -> np.ndarray:
    """Returns the raw returns of deterministic episodes in the unchanged environment; `stats` is not updated."""
    envs = VecNormalize(make_vec_env(ENV, episodes, seed=seed), training=False, norm_reward=False)
    envs.obs_rms = stats.obs_rms
    return np.array(evaluate_policy(model, envs, episodes, deterministic=True, return_episode_rewards=True)[0])


def save(out: Path, model: PPO, stats: VecNormalize, seed: int, n_timesteps: int) -> None:
    """Writes the zoo-like folder; its two YAML files are plain lists of [key, value] pairs."""
    folder = out / ENV
    folder.mkdir(parents=True, exist_ok=True)
    model.save(out / f"{ENV}.zip")
    stats.save(str(folder / "vecnormalize.pkl"))
    policy_kwargs = f"dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi={NET}, vf={NET}))"
    config = PPO_PARAMS | {"learning_rate": f"lin_{LEARNING_RATE}", "n_envs": N_ENVS, "n_timesteps": n_timesteps}
    config |= {"normalize": True, "policy": "MlpPolicy", "policy_kwargs": policy_kwargs}
    args = {"algo": "ppo", "env": ENV, "env_kwargs": None, "n_timesteps": n_timesteps, "seed": seed, "vec_env": "dummy"}
    for name, values in (("config.yml", config), ("args.yml", args)):
        pairs = [[key, values[key]] for key in sorted(values)]
        (folder / name).write_text(yaml.safe_dump(pairs), encoding="utf-8")


def main() -> None:
    """Trains, saves and evaluates."""
    parser = argparse.ArgumentParser(description="Train the demo's HalfCheetah teacher.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n-timesteps", type=int, default=1_500_000)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-teacher"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small, and one thread keeps the sums in one order
    start = time.perf_counter()
    model, stats = train(args.seed, args.n_timesteps)
    seconds = time.perf_counter() - start
    save(args.out, model, stats, args.seed, args.n_timesteps)
    returns = evaluate(model, stats, args.seed + EVAL_SEED_OFFSET)
    print(f"{len(returns)} deterministic episodes: return {returns.mean():.1f} +- {returns.std():.1f}", flush=True)
    print(f"(min {returns.min():.1f}, max {returns.max():.1f}); trained {seconds:.0f} s; wrote {args.out}")


if __name__ == "__main__":
    main()
