"""Kickstarting: what teachers save, and under which schedules.

    python benchmarks/kickstarting.py doorkey weak --seeds 5 --out runs/kickstarting
    python benchmarks/kickstarting.py all --quick

| part | what |
|---|---|
| `doorkey` | DoorKey-6x6, a strong and a weak teacher, each linear, constant and without rewards, against scratch |
| `schedules` | DoorKey-6x6: scratch, constants, linear over 5 to 40 %, exponential, gated, population based |
| `weak` | DoorKey-6x6, a teacher that plays 50 % at random: linear, constant, without rewards, scratch |
| `strong` | DoorKey-8x8, KeyCorridorS3R1, or `--levels BabyAI-…` with language: env steps to the teacher's score |
| `surpass` | HalfCheetah with a teacher that stopped early: does the student end above it, and above scratch? |
| `multitask` | ten MiniGrid and BabyAI tasks with missions, ten experts, one larger student with an LSTM |

Teachers are trained first and kept in `OUT/teachers`. Every part prints a markdown table and writes `OUT/PART.json`.
Scores are evaluation episodes (of sampled actions in MiniGrid, of the mode in HalfCheetah); env steps to a score are
read off straight lines between evaluations; [low, high] are bootstrap 95 % intervals over seeds. Runs that an earlier
call finished are read, not run again. `--quick` only shows that a part runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from kickstart_plan import Plan, Row, run_plan, train_teacher
from kickstart_tasks import run_tasks
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.evaluation.evaluate import evaluate
from understudy.settings import TrainSettings
from understudy.teachers.load import load

PRESET = "ppo-minigrid-doorkey"
NOISE = 0.5


def minigrid(name: str) -> EnvSpec:
    """Return a MiniGrid environment whose mission is text of one length."""
    return EnvSpec(name, {}, ({"type": "mission", "length": 64},))


DOORKEY = minigrid("MiniGrid-DoorKey-6x6-v0")


def weakened(teacher: Any, noise: float, env: EnvSpec = DOORKEY) -> Any:
    """Return the teacher's policy mixed with the uniform one: p = (1 - noise) p_T + noise / n."""
    observations, actions = spaces_of(env)

    def weak(obs: Any) -> Any:
        probabilities = teacher.label(obs)[0].params.softmax(-1).numpy()
        return np.log((1 - noise) * probabilities + noise / probabilities.shape[1])

    return load(weak, env=env, observation_space=observations, action_space=actions, output="logits")


def doorkey_teacher(options: argparse.Namespace) -> tuple[Any, int | None]:
    """Return the strong teacher of DoorKey-6x6, and what it cost."""
    if options.teacher:
        return load(options.teacher, env=DOORKEY), None
    folder, cost = train_teacher(options, DOORKEY, PRESET, options.teacher_steps, "doorkey-6x6")
    return load(folder / "last.safetensors", env=DOORKEY), cost


def scratch(options: argparse.Namespace, steps: int = 0, **settings: Any) -> Row:
    """Return a row without a teacher, evaluated less often: its episodes run to their limits for long."""
    return Row(settings={"evaluation": {"every": options.scratch_every}, **settings}, steps=steps)


def taught(who: str, weight: str, rewards: bool = True) -> Row:
    """Return a row with a teacher; without rewards the entropy bonus goes too, or the student would be more random."""
    if rewards:
        return Row(who, {"teaching": {"weight": weight}})
    return Row(who, {"teaching": {"weight": weight, "rl_weight": "0"}, "objective": {"entropy_weight": "0"}})


def three(who: str, linear: int, prefix: str = "") -> dict[str, Row]:
    """Return the three ways to learn from one teacher."""
    return {
        f"{prefix}linear": taught(who, f"linear(1, 0, {linear})"),
        f"{prefix}constant": taught(who, "1"),
        f"{prefix}distill only": taught(who, "1", rewards=False),
    }


def run_doorkey(options: argparse.Namespace) -> dict[str, Any]:
    """Compare a strong and a weak teacher."""
    strong, cost = doorkey_teacher(options)
    rows = {"scratch": scratch(options, options.scratch_steps)}
    rows |= three("strong", options.linear[0], "strong, ") | three("weak", options.linear[1], "weak, ")
    teachers = {"strong": strong, "weak": weakened(strong, NOISE)}
    return run_plan(options, Plan("doorkey", DOORKEY, PRESET, options.steps, teachers, rows, {}, (0.9, 0.95), cost))


def run_weak(options: argparse.Namespace) -> dict[str, Any]:
    """Ask whether linear ends above constant, and constant above pure distillation."""
    strong, cost = doorkey_teacher(options)
    rows = three("weak", options.linear[1]) | {"scratch": scratch(options, options.scratch_steps)}
    teachers = {"weak": weakened(strong, NOISE)}
    data = run_plan(options, Plan("weak", DOORKEY, PRESET, options.steps, teachers, rows, {}, (0.9, 0.95), cost))
    found = {row["name"]: row for row in data["rows"]}
    if {"linear", "constant", "distill only"} <= found.keys():
        order = [found[name] for name in ("linear", "constant", "distill only")]
        apart = all(a["interval"][0] > b["interval"][1] for a, b in zip(order[:-1], order[1:], strict=True))
        means = [float(np.mean(row["final"])) for row in order]
        above = order[0]["interval"][0] > data["scores"]["weak"]
        print(f"\nlinear > constant > distill only: {means[0] > means[1] > means[2]}, intervals apart: {apart}")
        print(f"linear above its teacher: {above}")
    return data


def run_schedules(options: argparse.Namespace) -> dict[str, Any]:
    """Rebuild the paper's table 2 on one task."""
    strong, cost = doorkey_teacher(options)
    rows = {"scratch": scratch(options), "constant 1": taught("strong", "1"), "constant 2": taught("strong", "2")}
    rows |= {f"linear 1 to 0 over {p} %": taught("strong", f"linear(1, 0, {p}%)") for p in (5, 10, 20, 40)}
    rows |= {"exponential": taught("strong", "exponential(1, 0.5, 5%)"), "gated": taught("strong", "gated(1)")}
    if all(importlib.util.find_spec(name) for name in ("ray", "pandas", "pyarrow")):
        size = 2 if options.quick else 4
        rows["PBT"] = Row("strong", {"pbt": {"population": size}}, population=True)
    else:
        print("no PBT row: it needs ray[tune]")
    plan = Plan("schedules", DOORKEY, PRESET, options.schedules_steps, {"strong": strong}, rows, {}, (0.9, 0.95), cost)
    data = run_plan(options, plan)
    if "PBT" in rows and (not options.only or "PBT" in options.only):
        print(f"\nPBT: env steps of one member; the population of {size} takes {size} times as many")
    return data


def teacher_level(options: argparse.Namespace, teacher: Any, env: EnvSpec, seed: int) -> float:
    """Return the teacher's score in the very episodes that the evaluations of runs with this seed play.

    Fifty layouts are by up to 0.01 easier or harder than others, as much as separates a student from its teacher.
    """
    first = TrainSettings(seed=seed).evaluation_seed
    score = evaluate(teacher, env, options.episodes, seed=first, num_envs=options.episodes, deterministic=False)
    return float(score.mean)


def run_strong(options: argparse.Namespace) -> dict[str, Any]:
    """Count env steps to the teacher's score on harder tasks; runs end where an evaluation is as good."""
    found = {}
    for name in options.levels:
        env = minigrid(f"{name if name.startswith('BabyAI-') else f'MiniGrid-{name}'}-v0")
        reads: dict[str, Any] = {}
        if name.startswith("BabyAI-"):  # what to do is told in words
            reads = {"policy": {"keys": ["image", "direction", "mission"]}}
        more = reads | {"stop": {"score": options.strong_score}}
        folder, cost = train_teacher(options, env, PRESET, options.strong_teacher_steps, name.lower(), more)
        teacher = load(folder / "last.safetensors", env=env)
        level = evaluate(
            teacher, env, 10 * options.final, seed=3_000_000, num_envs=options.episodes, deterministic=False
        ).mean  # of many
        rows = {"kickstarted": taught("teacher", options.strong_weight)}
        rows["scratch"] = scratch(options, options.strong_steps)
        levels = cache(partial(teacher_level, options, teacher, env))
        teachers = {"teacher": teacher}
        plan = Plan(
            f"strong-{name.lower()}",
            env,
            PRESET,
            options.steps * 2,
            teachers,
            rows,
            reads,
            (),
            cost,
            {"teacher": level},
            levels,
        )
        found[name] = run_plan(options, plan)
    return found


def run_surpass(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the student with a teacher that stopped early, and with scratch at as many env steps."""
    env, preset = EnvSpec("HalfCheetah-v5"), "ppo-halfcheetah"
    steps = options.surpass_steps
    folder, cost = train_teacher(options, env, preset, options.surpass_teacher_steps, "halfcheetah-early")
    rows = {"kickstarted": taught("teacher", options.surpass_weight), "scratch": Row()}
    teachers = {"teacher": load(folder / "last.safetensors", env=env)}
    data = run_plan(options, Plan("surpass", env, preset, steps, teachers, rows, {}, (), cost))
    by_name = {row["name"]: row["interval"] for row in data["rows"]}
    if len(by_name) == 2:
        print(f"\nabove its teacher: {by_name['kickstarted'][0] > data['scores']['teacher']}")
        print(f"above scratch, intervals apart: {by_name['kickstarted'][0] > by_name['scratch'][1]}")
    return data


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "doorkey": run_doorkey, "schedules": run_schedules, "weak": run_weak, "strong": run_strong,
    "surpass": run_surpass, "multitask": run_tasks,
}  # fmt: skip


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["doorkey"], help=f"{', '.join(PARTS)} or all [doorkey]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="settings were chosen on seeds from 100 on")
    parser.add_argument("--quick", action="store_true", help="one seed of a few hundred steps: does it run?")
    parser.add_argument("--only", nargs="*", help="rows to run, such as  'weak, linear'")
    parser.add_argument("--teacher", help="a policy for DoorKey-6x6 instead of training one")
    parser.add_argument("--teacher-steps", type=int, default=303_104)
    parser.add_argument("--steps", type=int, default=98_304, help="env steps of a run with a teacher")
    parser.add_argument("--scratch-steps", type=int, default=196_608)
    parser.add_argument("--schedules-steps", type=int, default=200_000, help="of every row of schedules")
    parser.add_argument("--strong-teacher-steps", type=int, default=1_000_000, help="of a teacher of strong, at most")
    parser.add_argument("--strong-steps", type=int, default=2_000_000, help="of scratch in strong, at most")
    parser.add_argument("--surpass-teacher-steps", type=int, default=200_000)
    parser.add_argument("--surpass-steps", type=int, default=400_000, help="of student and scratch")
    parser.add_argument("--surpass-weight", default="linear(1, 0, 50%)", help="lambda of surpass")
    parser.add_argument("--expert-steps", type=int, default=800_000, help="of each expert of multitask, at most")
    parser.add_argument("--expert-score", type=float, default=0.93, help="at which an expert is done")
    parser.add_argument("--tasks-steps", type=int, default=1_000_000, help="of a student of multitask")
    parser.add_argument("--tasks-every", type=int, default=50_000, help="env steps between its evaluations")
    parser.add_argument("--tasks-weight", default="linear(1, 0, 40%)", help="its lambda")
    parser.add_argument("--linear", type=int, nargs=2, default=(40_000, 40_000), help="end of lambda, strong and weak")
    parser.add_argument("--strong-weight", default="linear(8, 0, 60000)", help="lambda of strong")
    parser.add_argument(
        "--levels", nargs="*", default=["DoorKey-8x8", "KeyCorridorS3R1"], help="of strong, BabyAI's with their prefix"
    )
    parser.add_argument("--strong-score", type=float, default=0.95, help="at which teachers of strong are done")
    parser.add_argument("--every", type=int, default=8_192, help="env steps between evaluations")
    parser.add_argument("--scratch-every", type=int, default=16_384, help="the same for teachers and from scratch")
    parser.add_argument("--episodes", type=int, default=50, help="of each evaluation")
    parser.add_argument("--final", type=int, default=200, help="episodes after training")
    parser.add_argument("--execution", default="single", help="EnvPool's grids take microseconds")
    parser.add_argument("--out", type=Path, default=Path("runs/kickstarting"))
    options = parser.parse_args(words)
    if unknown := set(options.parts) - {*PARTS, "all"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.quick:
        options.seeds, options.every, options.episodes, options.final, options.linear = 1, 256, 2, 2, (128, 256)
        options.scratch_every, options.strong_score, options.expert_score = 256, None, None
        for name, kind in vars(options).items():
            if name.endswith("steps") and isinstance(kind, int):
                setattr(options, name, 512)
        options.tasks_every, options.execution = 256, "single"
        options.out = options.out / time.strftime("quick-%H%M%S")
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts."""
    warnings.filterwarnings("ignore", message="teaching.weight")  # the constant rows are what is being measured
    options = parse(words)
    for name in PARTS if "all" in options.parts else options.parts:
        PARTS[name](options)
        print(f"\nnumbers: {options.out}/{name}*.json\n", flush=True)


if __name__ == "__main__":
    main()
