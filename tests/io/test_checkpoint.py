"""Run files: whole or not at all, and damage is noticed."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from understudy.errors import UserError
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.io.log import RunLog

ARRAYS = {"a": np.arange(200, dtype=np.float32), "b": np.array([True, False])}


def test_round_trip(tmp_path):
    write_arrays(tmp_path / "x.safetensors", ARRAYS, {"round": 3})
    arrays, data = read_arrays(tmp_path / "x.safetensors")
    assert data == {"round": 3}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_flipped_bits_never_load(tmp_path):
    path = tmp_path / "x.safetensors"
    write_arrays(path, ARRAYS, {"round": 3})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged|cannot be read"):
            read_arrays(path)


def test_truncation_never_loads(tmp_path):
    path = tmp_path / "x.safetensors"
    write_arrays(path, ARRAYS, {})
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError):
            read_arrays(path)


def test_full_disk_keeps_the_last_good_file(tmp_path):
    """A real limit on file size in a process of its own: the write fails half way."""
    path = tmp_path / "x.safetensors"
    write_arrays(path, ARRAYS, {"round": 1})
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from understudy.errors import UserError
from understudy.io.checkpoint import write_arrays
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_arrays(Path({str(path)!r}), {{"a": np.zeros(100_000)}}, {{"round": 2}})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "what was there before is intact" in done.stdout
    assert read_arrays(path)[1] == {"round": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_a_log_that_cannot_be_written_warns_once(tmp_path):
    log = RunLog(tmp_path)
    log.write(10, {"loss": 0.5, "nothing": float("nan")})
    assert '"loss": 0.5' in (tmp_path / "log.jsonl").read_text()

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    log._file = Full()
    with pytest.warns(UserWarning, match="logging stops, the run goes on"):
        log.write(20, {"loss": 0.4})
    log.write(30, {"loss": 0.3})
    log.close()
