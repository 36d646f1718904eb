"""What the tutorial, the how-to pages and the examples tell people to type works, in an empty folder."""

import shutil
import sys

import gymnasium as gym
import pytest
from docs_helpers import PAGES, ROOT, commands, run_page

from understudy.objectives import distances

pytest.importorskip("mujoco")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What examples add to this process goes with them."""
    monkeypatch.setattr(distances, "_DISTANCES", dict(distances._DISTANCES))
    monkeypatch.setattr(distances, "_ADDED", {})
    yield
    gym.registry.pop("Thermostat-v0", None)
    sys.modules.pop("environment", None)


@pytest.mark.timeout(1800)  # half a minute, but on a machine with other work
def test_the_tutorial(tmp_path):
    run_page("tutorial.md", tmp_path)
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert made >= {
        "teacher.safetensors", "compare.png", "cartpole.gif",
        "runs/student/best.safetensors", "runs/student/result.png", "runs/student/report.html",
        "runs/student/best.onnx", "runs/cartpole/last.safetensors", "runs/taught/comparison.json",
        "runs/taught/comparison.png",
    }  # fmt: skip


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("howto/")] + ["examples.md"])
def test_examples(page, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    run_page(page, tmp_path)


def test_every_example_is_run():
    said = {word for page in PAGES for command in commands(page) for word in command.words}
    for path in (ROOT / "examples").glob("*.py"):
        assert f"examples/{path.name}" in said, f"no page runs {path.name}"
