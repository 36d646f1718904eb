"""One frame of ``understudy watch``: what a run's log says right now, as text with the width of the terminal."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from understudy.evaluation.evaluate import counted
from understudy.evaluation.tables import number
from understudy.io.log import in_order, parse_line
from understudy.report.braille import curve
from understudy.report.curves import evaluations, thinned
from understudy.report.folder import RunFolder, population_rows, read_run
from understudy.report.lessons import is_distance, lessons, whom

QUIET_SECONDS = 30.0
"""After which a run that logs nothing is called quiet; it may be in a long evaluation, or dead."""
_RECENT_SECONDS = 20.0
"""Of the log, that throughput is measured over."""
_DRAWN = ("training_return", "behaviour_return")
_BENEATH = {"distill": [("loss", "loss")], "train": [("entropy", "entropy, nats")]}


@dataclass
class Follower:
    """A run's folder that is read again and again, each line of its log once.

    Attributes:
        folder: Of the run.
        rows: Read so far.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    _place: int = 0
    _rest: bytes = b""

    def read(self) -> RunFolder:
        """Return the run as it is now.

        Raises:
            UserError: It is no run's folder.
        """
        run = read_run(self.folder, log=False)
        if run.members:
            run.rows.extend(population_rows(self.folder))
            return run
        try:
            with open(self.folder / "log.jsonl", "rb") as file:
                if file.seek(0, 2) < self._place:  # replaced by a shorter one
                    self._place, self._rest, self.rows = 0, b"", []
                file.seek(self._place)
                new = file.read()
        except OSError:
            new = b""
        self._place += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if lines:
            parsed = (parse_line(line.decode("utf-8", "replace")) for line in lines)
            self.rows = in_order(iter([*self.rows, *parsed]))
        run.rows.extend(self.rows)
        return run


def throughput(rows: list[dict[str, Any]]) -> float | None:
    """Return env steps per second of wall time over the last rows of the log; None with fewer than two."""
    if len(rows) < 2:
        return None
    last = rows[-1]
    begin = next((row for row in rows if row["wall"] >= last["wall"] - _RECENT_SECONDS), rows[0])
    if begin is last:
        begin = rows[-2]
    seconds = last["wall"] - begin["wall"]
    return (last["env_steps"] - begin["env_steps"]) / seconds if seconds > 0 else None


def duration(seconds: float) -> str:
    """Write 3725 as '1 h 02 min', 65 as '1 min 05 s', 9 as '9 s'."""
    whole = max(round(seconds), 0)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def state_of(run: RunFolder, now: float) -> tuple[str, str]:
    """Return (state, words): ``ended``, ``starting``, ``running`` or ``quiet``.

    A summary that is older than the log is that of the run before it was resumed.
    """
    logged = run.rows[-1]["wall"] if run.rows else None
    summary = run.path / "summary.json"
    if run.summary is not None and (logged is None or summary.stat().st_mtime >= logged - 1):
        return "ended", f"ended: {run.summary.get('stopped') or 'stopped'}"
    if logged is None:
        return "starting", "starting: nothing was logged yet"
    silent = now - logged
    if silent > QUIET_SECONDS:
        doing = "in an interval" if run.members else "evaluating"
        return "quiet", f"quiet for {duration(silent)}: {doing}, stopped or dead"
    return "running", "running"


def frame(run: RunFolder, width: int, height: int, now: float | None = None) -> list[tuple[str, str]]:
    """Return the lines of a frame as (style, text); styles are those of rich.

    Args:
        run: As it is now.
        width: Of the terminal, in characters.
        height: In lines.
        now: ``time.time()``.
    """
    now = time.time() if now is None else now
    state, words = state_of(run, now)
    color = {"ended": "bold", "running": "bold green", "starting": "yellow", "quiet": "yellow"}[state]
    lines = [
        ("bold", f"{run.kind} in {run.env_id}{f', a population of {run.members}' if run.members else ''}"),
        (color, f"{run.path}  {words}"),
        ("", _progress(run, state, width)),
    ]
    if run.rows:
        lines += [("", _evaluation(run)), ("", _rates(run)), ("", _workers(run, state))]
        lines += _plots(run, width, height - len(lines) - 2)
    return [(style, text) for style, text in lines if text]


def _progress(run: RunFolder, state: str, width: int) -> str:
    steps = int(run.rows[-1]["env_steps"]) if run.rows else 0
    share = min(steps / max(run.budget, 1), 1)
    text = f" {steps:,} of {'at most ' if run.kind == 'distill' else ''}{run.budget:,} env steps"
    rate = throughput(run.rows)
    if rate and state in ("running", "quiet"):
        limit = run.settings["stop"].get("seconds")
        left = (run.budget - steps) / rate
        if limit:
            left = min(left, max(limit - (run.rows[-1]["wall"] - run.rows[0]["wall"]), 0))
        text += f", {'at most ' if run.kind == 'distill' else ''}{duration(left)} left"
    room = min(max(width - len(text) - 1, 6), 30)
    full = round(share * room)
    return f"{'━' * full}{'╌' * (room - full)}{text}"


def _evaluation(run: RunFolder) -> str:
    points = evaluations(run)
    if not points:
        return "evaluation  none yet"
    last = points[-1]
    text = f"evaluation  {number(last.value)}"
    if math.isfinite(last.low):
        text += f" [{number(last.low)}, {number(last.high)}]"
    text += f" at {last.steps:,.0f} env steps"
    best = max(points, key=lambda p: p.value)
    if best.value > last.value:
        text += f", best {number(best.value)}"
    row: dict[str, Any] = next((row for row in reversed(run.rows) if row.get("student_return") is not None), {})
    if row.get("ratio") is not None:
        goal = run.settings["stop"]["ratio"]
        text += f"  = {100 * row['ratio']:.1f} % of the teacher's (goal {100 * goal:g} %)"
    if row.get("parity_p") is not None:
        text += f"  p {row['parity_p']:.3g}"
    return text


def _rates(run: RunFolder) -> str:
    parts = []
    rate = throughput(run.rows)
    if rate is not None:
        parts.append(f"{rate:,.0f} env steps/s")
    if not run.members:
        parts.append(f"{int(run.last('updates') or 0):,} updates")
    for name in dict.fromkeys(key for row in run.rows[-1:] for key in row):
        if name.startswith("teacher") and name.endswith("_weight"):
            which = name.removesuffix("_weight").removeprefix("teacher")
            parts.append(f"λ{which} {run.rows[-1][name]:.3g}")
    distances = [(name, f"to {whom(name)}") for name in run.rows[-1] if is_distance(name)]
    for name, label in (("loss", "loss"), *distances, ("entropy", "entropy"), ("beta", "β")):
        value = run.rows[-1].get(name)
        if value is not None:
            parts.append(f"{label} {value:.3g}")
    return "learning    " + "  ".join(parts)


def _workers(run: RunFolder, state: str) -> str:
    if run.members:
        row = run.rows[-1]
        text = (
            f"population  interval {row['interval']}: {row['finished']} of {run.members} members, best {row['member']}"
        )
        return f"{text}; picture {run.picture.name}" if run.picture else text
    execution = run.settings.get("execution", {})
    if execution.get("type") == "single":
        return "workers     none: everything in one process"
    wanted, alive = execution.get("num_workers"), run.rows[-1].get("workers")
    if state == "ended":
        text = f"workers     {wanted}, all gone"
    elif alive is None:
        text = f"workers     {wanted}"
    else:
        text = f"workers     {alive} of {wanted} alive"
    if run.last("restarts") is not None:
        text += f", {int(run.last('restarts'))} replaced, {counted(int(run.last('lost_episodes') or 0))} lost"
    if run.rows[-1].get("lag") is not None and execution.get("type") == "async":
        text += f", lag {run.rows[-1]['lag']:.2g} updates"
    return text


def _plots(run: RunFolder, width: int, height: int) -> list[tuple[str, str]]:
    """Return the curves that there is room for, the return first."""
    last = run.rows[-1]["env_steps"]
    drawn: list[tuple[str, list[tuple[float, float]], tuple[float, ...]]] = []
    points = [(p.steps, p.value) for p in evaluations(run)]
    marks = tuple(v for v in [run.last("teacher_return")] if v is not None)
    if points:
        drawn.append(("return in evaluation episodes" + (", ┈ the teacher's" if marks else ""), points, marks))
    else:
        drawn += [("return while training", _series(run, name), ()) for name in _DRAWN if run.last(name) is not None]
    for name, title in _BENEATH.get(run.kind) or lessons([run]):
        if run.last(name) is not None:
            drawn.append((title, _series(run, name), ()))
    lines: list[tuple[str, str]] = []
    for i, (title, series, wanted) in enumerate(drawn):
        room = height - len(lines) - 1
        tall = min(10, max(room - 5 * (len(drawn) - i - 1), 0)) if i == 0 else min(4, room)
        if tall < 2 or not series:
            break
        lines.append(("dim", title))
        lines += [("cyan", line) for line in curve(series, width - 1, tall, (0, last), wanted)]
    if lines:
        label = f"{last:,.0f} env steps"
        lines.append(("dim", f"{label:>{width - 1}}"))
    return lines


def _series(run: RunFolder, name: str) -> list[tuple[float, float]]:
    pairs = [(row["env_steps"], row[name]) for row in run.rows if isinstance(row.get(name), (int, float))]
    return [(p.steps, p.value) for p in thinned(np.array(pairs, np.float64))] if pairs else []
