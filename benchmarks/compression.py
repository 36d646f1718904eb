"""The compression table of Policy Distillation: students of 25 %, 7 % and 4 % of the teacher's parameters.

    python benchmarks/compression.py ../shared/zoo/dqn/CartPole-v1_1 ../shared/zoo/dqn/LunarLander-v2_1
    python benchmarks/compression.py TEACHER ... --seeds 3 --recipe paper --set stop.env_steps=200000
    python benchmarks/compression.py TEACHER --quick

Rusu 2015 (arXiv 1511.06295) distilled ten DQN agents of Atari games; the geometric means of their students' scores were
108.3, 101.7 and 83.9 % of their teachers'. Here shares are (S - R) / (T - R): measured from the random policy's return
up, because returns may be negative; so is the geometric mean, of shares that are above 0.

``--recipe ours`` is the preset of the teacher's kind of action. ``--recipe paper`` is theirs where it applies: the
teacher acts all along, KL of softmax(q / 0.01). Differs in: their students were as deep as their teachers and had fewer
filters; ours are as deep and have narrower layers (pictures: a narrower last layer). Our runs end when the student is
on par.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from understudy.config import merge, nest
from understudy.errors import UserError
from understudy.evaluation.compare import Row
from understudy.sweeping import Sweep, sweep

console = Console(highlight=False)
SHARES = ("25%", "7%", "4%")
PAPER = {"25%": 108.3, "7%": 101.7, "4%": 83.9}
"""Geometric means of table 2 there, in % of the teacher's score."""
RECIPES: dict[str, dict[str, Any]] = {
    "ours": {},
    "paper": {
        "behaviour": {"beta": "1", "noise": "0.05"},
        "distance": {"name": "forward_kl", "temperature": 0.01},
    },
}
QUICK = {"stop": {"env_steps": 4000}, "evaluation": {"final": 5, "max_episodes": 40}}


def geometric_mean(ratios: list[float]) -> float:
    """Return the geometric mean; NaN where a ratio is not above 0."""
    values = np.array(ratios, np.float64)
    return float(np.exp(np.log(values).mean())) if len(values) and (values > 0).all() else float("nan")


def one(teacher: Path, seed: int, options: argparse.Namespace) -> Sweep:
    """Distil the three students of one teacher; those that are there already are kept."""
    settings = merge(RECIPES[options.recipe], QUICK if options.quick else {})
    settings = merge(settings, nest({"seed": seed, **dict(pair.split("=", 1) for pair in options.set)}))
    name = f"{teacher.parent.name}-{teacher.name}".replace("_1", "")
    folder = options.out / f"{options.recipe}{'-quick' if options.quick else ''}" / f"{name}-{seed}"
    return sweep(teacher, sizes=SHARES, settings=settings, run=folder, tell=lambda *line: console.print(name, *line))


def cell(rows: list[Row]) -> tuple[float, str]:
    """Return the mean share of a teacher's return over seeds, and the text of the table."""
    ratios = [float("nan") if row.ratio is None else row.ratio for row in rows]
    mean = float(np.mean(ratios))
    passed = sum(bool(row.parity and row.parity.passed) for row in rows)
    spread = f" [{100 * min(ratios):.1f}, {100 * max(ratios):.1f}]" if len(ratios) > 1 else ""
    return mean, f"{100 * mean:.1f} %{spread}; {rows[0].parameters:,}; on par {passed} of {len(rows)}"


def show(found: dict[str, list[Sweep]]) -> None:
    """Print one row per teacher, then the geometric means beside those of the paper."""
    table = Table("teacher", "parameters", *SHARES, title="share of the teacher's return, from the random policy's up")
    ratios: dict[str, list[float]] = {share: [] for share in SHARES}
    for name, results in found.items():
        cells = []
        for share in SHARES:
            rows = [next(row for row in result.comparison.rows if row.name == share) for result in results]
            mean, text = cell(rows)
            ratios[share].append(mean)
            cells.append(text)
        table.add_row(name, f"{results[0].comparison.reference.parameters or 0:,}", *cells)
    table.add_section()
    table.add_row("geometric mean", "", *(f"{100 * geometric_mean(ratios[share]):.1f} %" for share in SHARES))
    table.add_row("Rusu 2015, 10 games", "", *(f"{PAPER[share]:.1f} %" for share in SHARES))
    console.print(table)
    console.print("mean over seeds [least, most]; parameters; seeds that passed the parity test", markup=False)


def main() -> None:
    """Run all teachers that were named."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("teacher", type=Path, nargs="+")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="ours")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--seeds", type=int, default=1, help="distillations of each size")
    parser.add_argument("--quick", action="store_true", help="only shows that it runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    found: dict[str, list[Sweep]] = {}
    for teacher in options.teacher:
        try:
            results = [one(teacher, seed, options) for seed in range(options.seeds)]
            found[f"{teacher.parent.name} {teacher.name.removesuffix('_1')}"] = results
        except UserError as error:
            console.print(f"{teacher}: {error}", soft_wrap=True)
    if found:
        show(found)
        options.out.mkdir(parents=True, exist_ok=True)
        data = {name: [result.to_json() for result in results] for name, results in found.items()}
        (options.out / f"compression-{options.recipe}.json").write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
