"""What a run leaves for people: ``log.jsonl`` and TensorBoard events.

A log that cannot be written warns once and the run goes on: no result is lost for want of a curve.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

_SHARE = 1 / 2_000
"""Of the time so far: rounds that come sooner after the last row join the next one."""


_AT_ONCE = {"eval_return", "student_return"}
"""What evaluations tell."""


class RunLog:
    """Scalars by env step, to JSONL and TensorBoard.

    Rows become rarer the longer a run takes, so that a night of rounds of milliseconds leaves some 20 MB, and not
    gigabytes: a row has the means of the rounds since the last one, and the newest of what is counted up. Evaluations
    are written at once.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        """Open the files; a ``fresh`` log has nothing of what a run that was given up has left."""
        self._values: dict[str, Any] = {}
        self._floats: dict[str, list[float]] = {}
        self._env_steps = 0
        self._broken = False
        self._file: IO[str] | None = None
        self._events: _Events | None = None
        try:
            if fresh:
                for left in (folder / "log.jsonl", *(folder / "tensorboard").glob("events.out.tfevents.*")):
                    left.unlink(missing_ok=True)
            self._file = open(folder / "log.jsonl", "a", buffering=1)  # noqa: SIM115 (open as long as the run)
            if _torn(folder / "log.jsonl"):
                self._file.write("\n")
            self._events = _Events(folder / "tensorboard")
        except OSError as error:
            self._give_up(error)
        self._start = self._written = time.perf_counter()

    def _give_up(self, error: OSError) -> None:
        if not self._broken:
            warnings.warn(f"logging stops, the run goes on: {error}", stacklevel=2)
        self._broken = True

    def write(self, env_steps: int, values: Mapping[str, Any]) -> None:
        """Take one round; numbers go to TensorBoard too."""
        self._env_steps = env_steps
        for name, value in values.items():
            plain = value.item() if hasattr(value, "item") else value
            self._values[name] = plain
            if isinstance(plain, float) and name != "rate" and not name.startswith("seconds/"):
                self._floats.setdefault(name, []).append(plain)
        now = time.perf_counter()
        if not _AT_ONCE.isdisjoint(values) or now - self._written >= _SHARE * (now - self._start):
            self._flush(now)

    def _flush(self, now: float = 0.0) -> None:
        """Write one line about the rounds since the last one."""
        values = {
            name: value if name not in self._floats else _mean(self._floats[name])
            for name, value in self._values.items()
        }
        self._written, self._values, self._floats = now, {}, {}
        if self._broken or self._file is None or self._events is None or not values:
            return
        row = {"env_steps": self._env_steps, "wall": round(time.time(), 3), **values}
        try:
            self._file.write(json.dumps({k: _jsonable(v) for k, v in row.items()}) + "\n")
            self._events.write(self._env_steps, values)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left, and close the files."""
        self._flush()
        try:
            if self._events is not None:
                self._events.close()
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._give_up(error)


class _Events:
    """A file of scalars for TensorBoard.

    Written at once: TensorBoard's own writer has a thread behind a queue, and a Ctrl-C in the middle of a ``put`` can
    lose the signal that wakes it (the waiter is released, but still in the list); closing then waits for two minutes.
    """

    def __init__(self, folder: Path) -> None:
        # Imported late: half a second that a failing start should not cost.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self._file = RecordWriter(open(folder / name, "ab", buffering=0))  # noqa: SIM115 (open as long as the run)
        self._file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def write(self, env_steps: int, values: Mapping[str, Any]) -> None:
        """Write the numbers among the values."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        summary = Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in numbers.items()])
        self._file.write(Event(wall_time=time.time(), step=env_steps, summary=summary).SerializeToString())

    def close(self) -> None:
        """Close the file; what was written is there already."""
        self._file.close()


def _mean(values: list[float]) -> float:
    """Return the mean of those that are numbers."""
    numbers = [value for value in values if math.isfinite(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _jsonable(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(value: Any) -> Any:
    """Return nested data as JSON can hold it: what is no number is None."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else _jsonable(value)


def _torn(path: Path) -> bool:
    """Say whether the last line lacks its end, as that of a killed run may."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        return file.read(1) not in (b"", b"\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of ``log.jsonl``; a last line that is still being written, or a broken one, is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return in_order(parse_line(line) for line in text.split("\n"))


def parse_line(line: str) -> dict[str, Any] | None:
    """Read one line of the log; None where it is no whole row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and isinstance(row.get("env_steps"), (int, float))
    return row if whole else None


def in_order(rows: Iterator[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Return the rows with rising env steps: a resumed run counts again from its checkpoint, and its rows are valid."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        if row is None:
            continue
        while kept and kept[-1]["env_steps"] > row["env_steps"]:
            kept.pop()
        kept.append(row)
    return kept


def logged_curve(path: Path, env_steps: int) -> list[tuple[int, float]]:
    """Return (env steps, mean return) of the evaluations that were logged by ``env_steps``."""
    rows = [row for row in read_log(path) if row["env_steps"] <= env_steps]
    points = [(row.get("eval_env_steps"), row.get("eval_return")) for row in rows]
    whole = [(steps, value) for steps, value in points if isinstance(steps, int) and isinstance(value, (int, float))]
    return list(dict(whole).items())  # one evaluation of each, where a killed run made it and then a resumed one again
