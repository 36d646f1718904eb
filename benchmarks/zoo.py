"""Distil every teacher of a zoo folder into a 64x64 student with the preset of its kind of action; print the table.

    python benchmarks/zoo.py ../shared/zoo --out runs/zoo

One row per teacher, failures included: whether parity (ratio 0.95, one-sided test at 95 %) was reached, wall seconds,
environment steps, and the returns of teacher and student on fresh episodes with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from understudy.config import merge, nest
from understudy.distill_job import prepare
from understudy.distillation import distill
from understudy.errors import UserError
from understudy.evaluation.compare import compare

console = Console(highlight=False)


def one(agent: Path, out: Path, settings: dict[str, Any], seconds: float, final: int) -> dict[str, Any]:
    """Distil one agent; a failure becomes a row too."""
    name = f"{agent.parent.name} {agent.name.removesuffix('_1')}"
    row: dict[str, Any] = {"teacher": name, "parity": False}
    folder = out / name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    try:
        job = prepare([str(agent)], None, merge({"stop": {"seconds": seconds}}, settings), run=folder)
        row["env"] = job.env.id
        result = distill(job)
        row |= {
            "parity": result.stopped == "parity",
            "seconds": round(time.perf_counter() - begin, 1),
            "working": round(sum(result.seconds[k] for k in ("collect", "label", "learn")), 1),
            "env_steps": result.env_steps,
            "updates": result.updates,
            "ratio": round(result.ratio, 3),
        }
        seed = job.settings.final_seed
        found = compare([result.teacher, result.student], job.env, final, seed=seed, names=["teacher", "student"])
        row["table"] = found.to_json()
    except UserError as error:
        row["error"] = str(error)
    return row


def main() -> None:
    """Run all agents, or those whose name holds one of the words given."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="words of the names")
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--seconds", type=float, default=95.0, help="wall seconds of learning per teacher")
    parser.add_argument("--final", type=int, default=20, help="fresh episodes for the last columns")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = nest(dict(pair.split("=", 1) for pair in arguments.set))
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for agent in sorted(arguments.zoo.glob("*/*_1")):
        if arguments.only and not any(word in str(agent) for word in arguments.only):
            continue
        rows.append(one(agent, arguments.out, settings, arguments.seconds, arguments.final))
        shown = {k: v for k, v in rows[-1].items() if k != "table"}
        console.print(shown, soft_wrap=True)
        (arguments.out / "zoo.json").write_text(json.dumps(rows, indent=1))
    passed = sum(r["parity"] for r in rows)
    console.print(f"parity: {passed} of {len(rows)}")


if __name__ == "__main__":
    main()
