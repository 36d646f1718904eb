"""Everything that can run a student is timed where it is there; what is not there is said in the table."""

import sys

import gymnasium as gym
import pytest

from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec
from understudy.report import runtimes
from understudy.report.runtimes import measure
from understudy.teachers import exported_c

KEYS = gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (36, 36, 3), "uint8"), "speed": gym.spaces.Box(-1, 1, (2,))})
VECTOR = gym.spaces.Box(-1, 1, (4,))
pytest.importorskip("onnxruntime")
needs_compiler = pytest.mark.skipif(exported_c.compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(runtimes, "_SECONDS", 0.01)


def student(space=VECTOR, **fields):
    spec = PolicySpec(space_to_json(space), space_to_json(gym.spaces.Discrete(3)), "categorical", **fields)
    return Policy(spec).eval()


def timed(policy):
    return {found.name: found for found in measure("student", policy).runtimes}


@needs_compiler
def test_torch_numpy_onnxruntime_and_c_are_timed():
    found = timed(student())
    assert list(found) == ["PyTorch", "NumPy", "onnxruntime", "C"]
    assert 0 < found["C"].microseconds < found["PyTorch"].microseconds, "about a hundredth"
    assert found["NumPy"].microseconds > 0 and found["onnxruntime"].microseconds > 0


@needs_compiler
@pytest.mark.parametrize(
    ("space", "fields"),
    [
        (VECTOR, {"lstm": 8}),
        (gym.spaces.MultiDiscrete([3, 4]), {"encoders": (Encoder("", "one_hot"),)}),
        (KEYS, {"encoders": (Encoder("camera", "nature_cnn", 8, 1 / 255), Encoder("speed"))}),
    ],
)
def test_so_are_memories_dicts_and_pictures(space, fields):
    found = timed(student(space, **fields))
    assert found["C"].microseconds > 0 and found["onnxruntime"].microseconds > 0


def test_what_cannot_be_timed_says_why(monkeypatch):
    monkeypatch.setattr(exported_c, "compiler", lambda: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = timed(student())
    assert found["C"].microseconds is None and "needs a C compiler" in found["C"].note
    assert "understudy[onnx]" in found["onnxruntime"].note
    assert "activation gelu" in timed(student(activation="gelu"))["C"].note
    assert "more than 300,000 weights" in timed(student(hidden=(600, 600)))["C"].note
