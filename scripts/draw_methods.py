"""Run every method once on a small task and draw its learning curve: ``python scripts/draw_methods.py``.

The commands below are those of the pages in docs/methods, which a test compares. Pictures go to docs/images/methods,
returns to docs/methods/runs.md. All of it takes some minutes on two cores. Finished runs in runs/methods are kept;
unfinished ones begin anew.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from understudy.cli import main as understudy
from understudy.evaluation.picture import FAINT, GRID, INK, REFERENCE, STUDENTS, short_number, style_axes
from understudy.evaluation.tables import number
from understudy.report.curves import learning_curve, metric
from understudy.report.folder import Group, RunFolder, read_run

RUNS = Path("runs/methods")
_TRAIN = "understudy train --preset {} --env CartPole-v1 --env-steps {} --evaluate-every {} --run runs/methods/{}"
_TAUGHT = (
    "understudy kickstart --preset {0} --env CartPole-v1 --teacher runs/methods/teacher --env-steps 16000"
    " --evaluate-every 2000 --run runs/methods/{1}"
)
# Small rounds with a look after each, and a goal that nobody reaches, so that there is a curve to draw.
_LOOKS = (
    " --data.num_envs 4 --data.steps {0} --data.first_steps {0} --evaluation.screen 10 --evaluation.episodes 10"
    " --evaluation.max_episodes 10 --evaluation.backoff 1 --evaluation.pause 0 --evaluation.after 0"
    " --evaluation.final 0 --stop.ratio 1.2 --stop.env_steps {1}"
)
_FEW = _LOOKS.format(10, 800)
_DISTILL = "understudy distill runs/methods/teacher --student.hidden 16 16"


def _train(preset: str, env_steps: int, every: int, extra: str = "") -> str:
    return _TRAIN.format(preset, env_steps, every, preset) + extra


COMMANDS = {
    "teacher": "understudy train --preset ppo-cartpole --run runs/methods/teacher",
    "reinforce": _train("reinforce", 80_000, 4000),
    "a2c": _train("a2c", 40_000, 4000),
    "a3c": _train("a3c", 40_000, 4000, " --policy.lstm 0 --policy.hidden 64 64 --update.lr 1e-3"),
    "ppo": _train("ppo", 32_000, 4000),
    "impala": _train("impala", 40_000, 4000),
    **{n: _train(n, 16_000, 2000) for n in ("dqn", "double-dqn", "dueling", "per", "n-step", "c51", "qr-dqn")},
    "rainbow": _train("rainbow", 16_000, 2000),
    "ape-x": _train("ape-x", 16_000, 2000),
    "ddpg": "understudy train --preset ddpg --env Pendulum-v1 --policy.hidden 64 64 --replay.warm_up 512"
    " --env-steps 6000 --evaluate-every 1000 --run runs/methods/ddpg",
    "td3": "understudy train --preset td3-pendulum --env-steps 6000 --evaluate-every 1000 --run runs/methods/td3",
    "sac": "understudy train --preset sac-pendulum --env-steps 6000 --evaluate-every 1000 --run runs/methods/sac",
    "distill-discrete": _DISTILL + " --run runs/methods/distill-discrete" + _FEW,
    "teacher-acts": _DISTILL + " --behaviour.beta 1 --behaviour.noise 0 --run runs/methods/teacher-acts" + _FEW,
    "dagger": _DISTILL + " --preset dagger --behaviour.beta 'linear(1, 0, 400)' --run runs/methods/dagger" + _FEW,
    "distill-continuous": "understudy distill runs/methods/sac --student.hidden 16 16 --run"
    " runs/methods/distill-continuous" + _LOOKS.format(50, 4000),
    "scratch": "understudy train --preset ppo-cartpole --env-steps 16000 --evaluate-every 2000 --run"
    " runs/methods/scratch",
    **{n: _TAUGHT.format(n, n) for n in ("distill-student", "distill-teacher", "n-distill", "eer")},
    "kickstarting": _TAUGHT.format("kickstarting ppo-cartpole", "kickstarting")
    + " --teaching.weight 'linear(1, 0, 50%)'",
    **{n: _TAUGHT.format(f"{n} ppo-cartpole", n) for n in ("ppd", "jsrl", "value-shaping")},
    "weak": "understudy train --preset ppo --env CartPole-v1 --env-steps 10000 --run runs/methods/weak",
    "finetune": "understudy kickstart --preset finetune --env CartPole-v1 --teacher runs/methods/weak --env-steps 24000"
    " --evaluate-every 2000 --teaching.warm_up 4000 --run runs/methods/finetune",
    "qdagger": "understudy kickstart --preset qdagger --env CartPole-v1 --teacher runs/methods/teacher"
    " --env-steps 12000 --evaluate-every 1000 --teaching.offline_steps 4000 --teaching.offline_updates 4000"
    " --run runs/methods/qdagger",
    "sac-from-teacher": "understudy kickstart --preset sac-from-teacher --env Pendulum-v1 --teacher runs/methods/sac"
    " --policy.hidden 64 64 --replay.batch_size 128 --update.lr 1e-3 --env-steps 6000 --evaluate-every 1000"
    " --teaching.offline_steps 2048 --teaching.offline_updates 2000 --run runs/methods/sac-from-teacher",
}
"""What is run for each name, in this order: teachers come before their students."""


LABELS = {"teacher": "ppo-cartpole", "scratch": "from scratch (ppo-cartpole)", "teacher-acts": "the teacher acts"}
"""Of runs that are not called after their preset."""


TABLE = """# Runs of the method pages

Written by `python scripts/draw_methods.py`, which runs every command of these pages once, seed 0, and draws the
pictures. One small run says that a method works and how its curve looks, not which method is better: nothing was tuned
for it, and other seeds give other curves.

| run | environment | env steps | return, 95 % interval | over |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Picture:
    """What one picture shows.

    Attributes:
        names: Of the runs.
        reference: A run to compare with, drawn grey.
        weight: Whether the teacher's weight is drawn beneath.
    """

    names: tuple[str, ...]
    reference: str = ""
    weight: bool = False


PICTURES = {
    "reinforce": Picture(("reinforce",)),
    "actor-critic": Picture(("a2c", "a3c")),
    "ppo": Picture(("ppo",), "teacher"),
    "impala": Picture(("impala",)),
    "dqn": Picture(("dqn", "double-dqn", "dueling", "per", "n-step")),
    "distributional": Picture(("c51", "qr-dqn"), "dqn"),
    "rainbow": Picture(("rainbow",), "dqn"),
    "ape-x": Picture(("ape-x",), "dqn"),
    "ddpg-td3": Picture(("ddpg", "td3")),
    "sac": Picture(("sac",), "td3"),
    "distill": Picture(("distill-discrete", "teacher-acts", "dagger")),
    "distill-continuous": Picture(("distill-continuous",)),
    "on-policy-distillation": Picture(("distill-student", "distill-teacher"), "scratch"),
    "n-distill": Picture(("n-distill", "eer"), "scratch"),
    "kickstarting": Picture(("kickstarting",), "scratch", weight=True),
    "ppd": Picture(("ppd",), "scratch"),
    "jsrl": Picture(("jsrl",), "scratch"),
    "value-shaping": Picture(("value-shaping",), "scratch"),
    "finetune": Picture(("finetune",)),
    "qdagger": Picture(("qdagger",), "dqn", weight=True),
    "sac-from-teacher": Picture(("sac-from-teacher",), "sac", weight=True),
}


def teacher_return(run: RunFolder) -> float:
    """Return what the run's teacher earned in the evaluations of the run; NaN where it was not measured."""
    found = run.last("teacher_return")
    return math.nan if found is None else float(found)


def draw(picture: Picture, path: Path) -> None:
    """Draw the returns of separate evaluation episodes, their 95 % intervals, and perhaps the teacher's weight."""
    names = picture.names + ((picture.reference,) if picture.reference else ())
    runs = {name: read_run(RUNS / name) for name in names}
    figure = Figure(figsize=(7, 4.4 if picture.weight else 3.3), facecolor="white")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasSVG(figure)
    count = 1 + picture.weight
    rows = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=(3, 1)[:count])
    axes = rows[0, 0]
    last = max(learning_curve(Group(name, (runs[name],))).points[-1].steps for name in picture.names)
    for i, name in enumerate(names):
        points = [p for p in learning_curve(Group(name, (runs[name],))).points if p.steps <= last]
        color = REFERENCE if name == picture.reference else STUDENTS[i]
        steps = [p.steps for p in points]
        axes.plot(steps, [p.value for p in points], color=color, lw=1.4 if color == REFERENCE else 2,
                  label=LABELS.get(name, name))  # fmt: skip
        if len(names) <= 2 and color != REFERENCE:
            known = [p for p in points if math.isfinite(p.low)]
            axes.fill_between([p.steps for p in known], [p.low for p in known], [p.high for p in known],
                              color=color, alpha=0.15, lw=0)  # fmt: skip
    teacher = teacher_return(runs[picture.names[0]])
    if math.isfinite(teacher):
        axes.axhline(teacher, color=FAINT, lw=1, ls=(0, (2, 3)), zorder=1)
        axes.annotate("teacher", (1.0, teacher), xycoords=axes.get_yaxis_transform(), xytext=(0, -10),
                      textcoords="offset points", ha="right", fontsize=8, color=FAINT)  # fmt: skip
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    style_axes(axes, f"Return in evaluation episodes, {runs[names[0]].env_id}")
    if picture.weight:
        points = metric(Group("", (runs[picture.names[0]],)), "teacher_weight").points
        rows[1, 0].plot([p.steps for p in points], [p.value for p in points], color=STUDENTS[0], lw=1.8)
        rows[1, 0].set_ylim(bottom=0)
        style_axes(rows[1, 0], "λ, weight of the teacher")
    _finish(rows[:, 0])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "understudy"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _finish(rows: Sequence[Any]) -> None:
    for axes in rows:
        axes.grid(axis="y", color=GRID, lw=0.8)
    rows[-1].set_xlabel("env steps", fontsize=9, color=FAINT)
    rows[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))


def needed(names: Sequence[str]) -> list[str]:
    """Return the runs behind these pictures, in the order in which they can be run."""
    wanted = {run for name in names for run in (*PICTURES[name].names, PICTURES[name].reference) if run}
    for run in reversed(COMMANDS):  # teachers stand before their students
        wanted |= {r for r in COMMANDS if run in wanted and f"runs/methods/{r} " in COMMANDS[run].split("--run ")[0]}
    return [name for name in COMMANDS if name in wanted]


def write_table(path: Path) -> None:
    """Write what the runs that are there ended with."""
    text = TABLE
    for name in COMMANDS:
        if not (RUNS / name / "summary.json").exists():
            continue
        run = read_run(RUNS / name)
        if run.kind == "distill":
            last = learning_curve(Group(name, (run,))).points[-1]
            score, interval, what = last.value, (last.low, last.high), "last evaluation, 10 episodes"
        else:
            assert run.summary is not None
            score, interval = run.summary["score"], run.summary["interval"]
            what = f"{run.settings['evaluation']['final']} fresh episodes"
        low, high = (number(end) for end in interval)
        steps = run.rows[-1]["env_steps"]
        text += f"| `{name}` | {run.env_id} | {steps:,} | {number(score)} [{low}, {high}] | {what} |\n"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run what has not been run yet, then draw."""
    parser = argparse.ArgumentParser(description="Draw the learning curves of docs/methods.")
    parser.add_argument("picture", nargs="*", help=f"[all] {' '.join(PICTURES)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "methods")
    arguments = parser.parse_args()
    wanted = arguments.picture or list(PICTURES)
    for name in needed(wanted):
        if not (RUNS / name / "summary.json").exists():
            shutil.rmtree(RUNS / name, ignore_errors=True)
            print("$", COMMANDS[name], flush=True)
            understudy(shlex.split(COMMANDS[name])[1:])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        draw(PICTURES[name], arguments.out / f"{name}.svg")
    write_table(arguments.out.parents[1] / "methods" / "runs.md")


if __name__ == "__main__":
    main()
