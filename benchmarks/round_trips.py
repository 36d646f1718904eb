"""Out and in again: a student leaves for Stable-Baselines3, trains there, comes back; and teaches from an ONNX file.

    python benchmarks/round_trips.py ../shared/zoo/dqn/CartPole-v1_1 --hidden 16 16
    python benchmarks/round_trips.py ../shared/zoo/sac/Pendulum-v1_1 --family squashed_gaussian --distance forward_kl

For each teacher, with fresh episodes of the same seeds for all policies at the end:

1. it is distilled into a student;
2. the student is exported to a zip, Stable-Baselines3 opens it with its normaliser, trains ``--steps`` more, and saves;
3. what was trained further is distilled into another student;
4. the first student is exported to ONNX (float32, int8), and the int8 file is the teacher of a third student.
"""

from __future__ import annotations

import argparse
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import stable_baselines3
from rich.console import Console
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from understudy.config import nest
from understudy.distillation import distill
from understudy.evaluation.compare import compare
from understudy.evaluation.tables import print_comparison
from understudy.io.export.export import export
from understudy.policies.policy import Policy, PolicyLike
from understudy.teachers.load import load

console = Console(highlight=False)
OPTIONS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 256, "learning_rate": 1e-4},
    "A2C": {"learning_rate": 1e-4},
    "DQN": {"learning_starts": 1000, "learning_rate": 1e-4, "exploration_initial_eps": 0.1},
    # The critics are fresh: they learn a while before the actor is worth their advice.
    "SAC": {"learning_starts": 1000, "learning_rate": 3e-4},
    "TD3": {"learning_starts": 1000, "learning_rate": 1e-4},
}
"""For going on with a policy that can do its task already: small steps, little exploration."""


def student_of(teacher: Any, out: Path, options: argparse.Namespace) -> Policy:
    """Distil a teacher with the settings of the command line."""
    settings = {"student.hidden": options.hidden, "stop.seconds": options.seconds, "stop.env_steps": 100_000}
    for flag, key in (("family", "student.family"), ("distance", "distance.name")):
        settings |= {key: getattr(options, flag)} if getattr(options, flag) else {}
    found = distill(teacher, None, nest({**settings, "seed": options.seed}), run=out)
    console.print(f"  {out.name}: {found.stopped} after {found.env_steps:,} env steps, {found.updates:,} updates")
    return found.student


def further(student: Policy, out: Path, steps: int, seed: int) -> Path:
    """Let Stable-Baselines3 train a student further; return the zip of what became of it."""
    made = export(student, "sb3", out / "student.zip", force=True)
    name = dict(made.facts)["algorithm"]
    env = student.about.env
    assert env is not None
    venv: Any = DummyVecEnv([lambda: gym.make(env.id, **env.kwargs)] * (4 if name in ("PPO", "A2C") else 1))
    folder, target = out / "student", out / "further"
    normal = folder / "vecnormalize.pkl"
    if normal.exists():
        venv = VecNormalize.load(str(normal), venv)
    model = getattr(stable_baselines3, name).load(made.path, env=venv, seed=seed, **OPTIONS[name])
    before = model.num_timesteps
    model.learn(steps, reset_num_timesteps=False)
    console.print(f"  {name}.load, learn({steps:,}): {model.num_timesteps - before:,} steps more")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)  # the zoo's layout: the environment and its wrappers
    if normal.exists():
        venv.save(str(target / "vecnormalize.pkl"))
    model.save(out / "further.zip")
    return out / "further.zip"


def main() -> None:
    """Make the round trips of all teachers that were named."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("teacher", type=Path, nargs="+")
    parser.add_argument("--hidden", type=int, nargs="*", default=[32, 32])
    parser.add_argument("--family", help="of the students; by default the one of the preset")
    parser.add_argument("--distance", help="by default the one of the preset")
    parser.add_argument("--steps", type=int, default=10_000, help="that Stable-Baselines3 trains")
    parser.add_argument("--seconds", type=float, default=60, help="of each distillation at most")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/round-trips"))
    options = parser.parse_args()
    for source in options.teacher:
        out = options.out / f"{source.parent.name}-{source.name.removesuffix('_1')}"
        shutil.rmtree(out, ignore_errors=True)
        console.print(str(source))
        teacher = load(source)
        first = student_of(source, out / "first", options)
        trained = load(further(first, out, options.steps, options.seed))
        second = student_of(out / "further.zip", out / "second", options)
        file = export(first, "onnx", out / "first-int8.onnx", int8=True, force=True).path
        third = student_of(file, out / "third", options)
        rows: dict[str, PolicyLike] = {
            "teacher": teacher, "student": first, "trained further": trained, "distilled again": second,
            "ONNX int8": load(file), "its student": third,
        }  # fmt: skip
        env = first.about.env
        print_comparison(compare(list(rows.values()), env, options.episodes, 800_000, names=list(rows)), console)


if __name__ == "__main__":
    main()
