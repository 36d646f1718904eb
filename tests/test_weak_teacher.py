"""MiniGrid DoorKey-6x6 with a teacher that plays half of its actions at random: what is taken from it, what is not.

``benchmarks/kickstarting.py weak`` with one seed and fewer steps; five seeds and intervals are in docs/kickstart.md.
"""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from understudy.teachers.load import load

pytestmark = pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="minigrid is not installed")
ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "src" / "understudy" / "assets" / "doorkey-teacher.safetensors"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("kickstarting")
    for name in ("kickstarting", "kickstart_plan", "kickstart_tasks"):
        sys.modules.pop(name, None)


@pytest.mark.timeout(1800)  # about 60 CPU-seconds
def test_linear_ends_above_constant_above_distillation_and_above_its_teacher(bench, tmp_path, monkeypatch):
    # The same episodes with EnvPool or without.
    monkeypatch.setattr(bench, "DOORKEY", replace(bench.DOORKEY, backend="gymnasium"))
    rows = ("linear", "constant", "distill only")
    words = ["weak", "--teacher", str(TEACHER), "--seeds", "1", "--steps", "57344", "--linear", "0", "36864"]
    bench.main([*words, "--every", "0", "--final", "48", "--only", *rows, "--out", str(tmp_path)])
    data = json.loads((tmp_path / "weak.json").read_text())
    linear, constant, cloned = (row["final"][0] for row in data["rows"])
    weak, chance = data["scores"]["weak"], data["scores"]["random"]
    assert linear > constant + 0.01 and constant > cloned + 0.01
    assert linear > weak + 0.03
    assert abs(cloned - weak) < 0.1 < weak - chance  # without rewards the student plays as its teacher does


def test_the_weak_teacher_is_the_strong_one_half_of_the_time(bench):
    strong = load(TEACHER, env=bench.DOORKEY)
    weak = bench.weakened(strong, 0.5)
    strong.observation_space.seed(0)
    samples = [strong.observation_space.sample() for _ in range(3)]
    obs = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    found, expected = (t.label(obs)[0].params.softmax(-1) for t in (weak, strong))
    assert (found - (0.5 * expected + 0.5 / 7)).abs().max() < 1e-6
