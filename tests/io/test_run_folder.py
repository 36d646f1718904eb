"""A folder holds one run, of one process at a time, and begins clean."""

import os
import signal
import subprocess
import sys
import time

import pytest

from understudy.errors import UserError
from understudy.io.log import RunLog, read_log
from understudy.io.run_folder import LOCK, check_free, in_use
from understudy.training import train

QUICK = {
    "evaluation__every": 0, "evaluation__final": 0, "policy__hidden": [8], "rollout__num_envs": 2, "rollout__steps": 8,
    "stop__env_steps": 32,
}  # fmt: skip


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "one"
    with in_use(folder):
        with pytest.raises(UserError, match=f"{folder} is in use by another run"), in_use(folder):
            pass
        with pytest.raises(UserError, match="in use"):
            train("CartPole-v1", run=folder, **QUICK)
        assert os.listdir(folder) == [LOCK]
    assert not folder.exists()  # nothing was written
    train("CartPole-v1", run=folder, **QUICK)
    assert LOCK not in os.listdir(folder)


def free(folder):
    """Whether no run is in the folder."""
    try:
        with in_use(folder):
            return True
    except UserError:
        return False


def test_death_frees_the_folder_even_where_children_live_on(tmp_path):
    """A forked child and a started one outlive the run; neither holds its lock."""
    code = (
        "import os, subprocess, sys, time\nfrom pathlib import Path\nfrom understudy.io.run_folder import in_use\n"
        "with in_use(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n        time.sleep(20)\n        os._exit(0)\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])\n"
        "    print(child.pid, flush=True)\n    time.sleep(20)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        assert run.stdout.readline()
        with pytest.raises(UserError, match="in use"), in_use(tmp_path):
            pass
        run.kill()
        run.wait()
        deadline = time.monotonic() + 10  # the forked child may only now come to its first instruction
        while not free(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)


@pytest.mark.parametrize("left", ["best.safetensors", "last.safetensors", "summary.json", "state.safetensors"])
def test_nothing_of_an_earlier_run_is_overwritten(tmp_path, left):
    (tmp_path / left).write_bytes(b"of before")
    with pytest.raises(UserError, match="holds"):
        train("CartPole-v1", run=tmp_path, **QUICK)
    assert os.listdir(tmp_path) == [left] and (tmp_path / left).read_bytes() == b"of before"


def test_the_log_of_a_run_that_saved_nothing_is_not_gone_on_with(tmp_path):
    log = RunLog(tmp_path)
    log.write(7, {"loss": 1.0, "eval_return": 3.0})
    log.close()
    (tmp_path / "config.yaml").write_text("settings: {}")
    check_free(tmp_path)
    train("CartPole-v1", run=tmp_path, **QUICK)
    assert [row["env_steps"] for row in read_log(tmp_path / "log.jsonl")] == [16, 32]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
