"""Logs are read by TensorBoard, and leave no thread that a Ctrl-C could make wait."""

import math
import threading

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from understudy.io import log as log_module
from understudy.io.log import RunLog, read_log


def test_tensorboard_reads_what_is_written_while_the_run_goes_on(tmp_path):
    threads = threading.active_count()
    log = RunLog(tmp_path)
    for step in range(3):
        log.write(10 * step, {"loss": 0.5 * step, "word": "no number", "bad": math.nan, "good": True})
    assert threading.active_count() == threads
    for _ in range(2):  # before and after the log is closed
        found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert found.Tags()["scalars"] == ["loss", "good"]
        assert [(event.step, event.value) for event in found.Scalars("loss")] == [(0, 0.0), (10, 0.5), (20, 1.0)]
        log.close()
    assert [row["bad"] for row in read_log(tmp_path / "log.jsonl")] == [None] * 3


def test_a_resumed_run_goes_on_in_a_file_of_its_own(tmp_path):
    for step in (1, 2):
        log = RunLog(tmp_path)
        log.write(step, {"loss": float(step)})
        log.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_the_log_alone(tmp_path):
    (tmp_path / "tensorboard").write_text("taken")
    with pytest.warns(UserWarning, match="logging stops, the run goes on: .*tensorboard"):
        log = RunLog(tmp_path)
    log.write(1, {"loss": 1.0})
    log.close()


def test_a_long_run_of_short_rounds_leaves_a_short_log(tmp_path, monkeypatch):
    """Ten hours of rounds of 0.1 s; what is skipped is in the means, what is counted in the newest number."""
    clock = [0.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: clock[0])
    log = RunLog(tmp_path)
    monkeypatch.setattr(log._events, "write", lambda env_steps, values: None)
    for i in range(360_000):
        clock[0] += 0.1
        values = {"loss": float(i % 2), "updates": i, "seconds/total": clock[0], "rate": clock[0]}
        if i % 20 == 0:
            values["training_return"] = 7.0
        if i == 300_001:
            values["eval_return"] = 1.0
        log.write(i, values)
    log.close()
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["env_steps"] for row in rows[:1900]] == list(range(1900))
    assert 8_000 < len(rows) < 20_000
    late = rows[-2]
    assert abs(late["loss"] - 0.5) < 0.01 and late["training_return"] == 7.0
    assert late["updates"] == late["env_steps"] and late["seconds/total"] == late["rate"] > 35_000
    (evaluated,) = [row for row in rows if "eval_return" in row]
    assert evaluated["env_steps"] == 300_001
    assert rows[-1]["env_steps"] == 359_999


def test_means_leave_out_what_is_no_number(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: clock[0])
    log = RunLog(tmp_path)
    clock[0] = 10_000.0
    log.write(1, {"a": 1.0})
    for value in (float("nan"), np.float32(2), np.float32(4)):
        log.write(2, {"a": value, "b": float("nan")})
    log.close()
    assert [(row["a"], row.get("b", 0)) for row in read_log(tmp_path / "log.jsonl")] == [(1.0, 0), (3.0, None)]
