"""Logs are read by TensorBoard, and leave no thread that a Ctrl-C could make wait."""

import math
import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
