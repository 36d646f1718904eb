"""The parts of ``benchmarks/kickstarting.py`` run, from teachers to tables; what they measure is for long runs."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="minigrid is not installed")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("kickstarting")
    for name in ("kickstarting", "kickstart_plan", "kickstart_tasks"):
        sys.modules.pop(name, None)


def run(bench, tmp_path, *words):
    bench.main([*words, "--quick", "--out", str(tmp_path)])
    (folder,) = tmp_path.iterdir()
    return folder


def test_one_teacher(bench, tmp_path, capsys):
    folder = run(bench, tmp_path, "weak", "--only", "linear", "scratch")
    data = json.loads((folder / "weak.json").read_text())
    assert [row["name"] for row in data["rows"]] == ["linear", "scratch"] and data["teacher_env_steps"] == 512
    assert all(row["curves"][0][-1][0] == 512 for row in data["rows"])
    shown = capsys.readouterr().out
    assert "### weak: MiniGrid-DoorKey-6x6-v0" in shown and "| linear | " in shown


@pytest.mark.slow
def test_a_strong_teacher(bench, tmp_path):
    """Runs end at the first evaluation that is as good as the teacher, or with their steps."""
    folder = run(bench, tmp_path, "strong", "--levels", "DoorKey-5x5")
    data = json.loads((folder / "strong-doorkey-5x5.json").read_text())
    level = data["scores"]["teacher"]
    assert [row["name"] for row in data["rows"]] == ["kickstarted", "scratch"]
    for row in data["rows"]:
        *before, (steps, last) = row["curves"][0]
        assert all(score < level for _, score in before) and (last >= level or steps >= 512)


@pytest.mark.slow
def test_several_tasks(bench, tmp_path):
    folder = run(bench, tmp_path, "multitask")
    data = json.loads((folder / "multitask.json").read_text())
    assert data["experts_env_steps"] == 2 * 512 and list(data["levels"]) == list(bench_tasks().TASKS[:2])
    assert {kind: len(found) for kind, found in data["curves"].items()} == {"kickstarted": 1, "scratch": 1}
    assert [k for k, _ in data["curves"]["kickstarted"][0]] == [k for k, _ in data["curves"]["scratch"][0]]


def test_the_report_of_several_tasks(bench, tmp_path, capsys):
    tasks, options = bench_tasks(), bench.parse(["multitask", "--out", str(tmp_path)])
    options.tasks_steps = 1000
    levels = {"a": tasks.Level(1.0, 0.0), "b": tasks.Level(0.0, 0.0)}
    curves = {"kickstarted": [[(100, 0.5), (1000, 0.9)]], "scratch": [[(100, 0.1), (1000, 0.5)]]}
    data = tasks.report(options, curves, levels, 900)
    assert (data["speedup"], data["counting the experts"]) == (10.0, 1.0)
    assert data["final ratio"] == pytest.approx(1.8)
    shown = capsys.readouterr().out
    assert "left out, their experts are no better than chance: b" in shown and "| scratch | 0.500 |" in shown
    nothing = tasks.report(options, {kind: [[(100, float("nan"))]] for kind in curves}, {"b": levels["b"]}, 900)
    assert "speedup" not in nothing and (tmp_path / "multitask.json").exists()


def bench_tasks():
    return importlib.import_module("kickstart_tasks")


def test_the_schedules_are_the_paper_s(bench, monkeypatch):
    plans = []
    monkeypatch.setattr(bench, "doorkey_teacher", lambda options: (None, 7))
    monkeypatch.setattr(bench, "run_plan", lambda options, plan: plans.append(plan))
    bench.run_schedules(bench.parse(["schedules"]))
    rows = plans[0].rows
    weights = [row.settings.get("teaching", {}).get("weight") for row in rows.values()]
    assert weights[:7] == [None, "1", "2", *(f"linear(1, 0, {p}%)" for p in (5, 10, 20, 40))]
    assert {"exponential", "gated", "scratch"} <= rows.keys() and plans[0].teacher_steps == 7


def test_an_unknown_part_is_refused(bench, capsys):
    with pytest.raises(SystemExit):
        bench.parse(["nonsense"])
    assert "no such part: nonsense" in capsys.readouterr().err
