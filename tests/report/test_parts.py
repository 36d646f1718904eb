"""Curves, verdicts, commands, arithmetic and disagreements, each with its own arithmetic."""

import math
import shlex
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from understudy.cli_parser import command_parser
from understudy.config import build, merge, nest, plain
from understudy.evaluation.flops import flops_of
from understudy.policies.family import family_for
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import Encoder, PolicySpec
from understudy.preset_files import preset
from understudy.report.command import command_of
from understudy.report.content import comparison_from_json, stored_table
from understudy.report.curves import Point, learning_curve, mean_interval, metric, over_runs, thinned
from understudy.report.disagreement import as_picture, differences, find
from understudy.report.folder import Group, RunFolder, gather, read_json, read_run
from understudy.report.lessons import lessons
from understudy.report.svg import ticks
from understudy.report.verdict import GOOD, OPEN, SHORT, verdict_of
from understudy.settings import DistillSettings, KickstartSettings, TrainSettings
from understudy.teachers.load import load

BOX = gym.spaces.Box(-1, 1, (5,), np.float32)


def test_the_interval_of_an_evaluation():
    # 4 episodes 1, 2, 3, 4: mean 2.5, sample deviation sqrt(5/3), t(0.975, 3) = 3.18245
    low, high = mean_interval(2.5, float(np.std([1, 2, 3, 4])), 4)
    half = 3.18245 * math.sqrt(5 / 3) / 2
    assert (low, high) == (pytest.approx(2.5 - half, abs=1e-4), pytest.approx(2.5 + half, abs=1e-4))
    assert all(map(math.isnan, mean_interval(2.5, 1.0, 1)))


def run_of(rows, **settings):
    base = {"stop": {"env_steps": 100}, "evaluation": {"episodes": 4}}
    return RunFolder(None, "train", {"settings": {**base, **settings}}, rows)


def evaluation(steps, value):
    return {"env_steps": steps, "eval_env_steps": steps, "eval_return": value, "eval_std": 1.0}


def test_curves_of_several_seeds_meet_on_one_grid():
    group = Group("a", (run_of([evaluation(10, 0.0), evaluation(30, 20.0)]), run_of([evaluation(20, 30.0)])))
    curve = learning_curve(group, start=0.0)
    # The first is 0, 0, 10, 20 at 0, 10, 20, 30; the second 0, 15, 30 and ends at 20.
    assert [(p.steps, p.value) for p in curve.points] == [(0, 0.0), (10, 7.5), (20, 20.0)]
    assert len(curve.singles) == 2 and "2 runs" in curve.interval
    assert all(p.low <= p.value <= p.high for p in curve.points)
    assert over_runs([[Point(0, 1.0)], [Point(0, 3.0)]])[0].value == 2.0
    assert metric(Group("b", (run_of([{"env_steps": k, "loss": None} for k in range(3)]),)), "loss").points == ()


def taught(name, **config):
    settings = {"stop": {"env_steps": 100}, "teaching": {"distance": {"name": name}}}
    return RunFolder(None, "kickstart", {"settings": settings, **config}, [])


@pytest.mark.parametrize(
    ("run", "title"),
    [
        (taught("cross_entropy"), "KL to the teacher, nats"),
        (taught("mse"), "Distance to the teacher (mse)"),
        (taught("auto", distances={"teacher": "forward_kl"}), "KL to the teacher, nats"),
        (taught("auto", distances={"teacher": "mse"}), "Distance to the teacher (mse)"),
        (taught("auto"), "Distance to the teacher"),  # of an earlier version
    ],
)
def test_only_a_divergence_is_called_one(run, title):
    run.rows.append({"env_steps": 1, "teacher_weight": 0.5, "kl/teacher": 0.1})
    assert lessons([run]) == [("teacher_weight", "λ, weight of the teacher"), ("kl/teacher", title)]


def test_several_teachers_have_a_weight_and_a_distance_each():
    run = taught("auto", distances={"teacher_1": "mse", "teacher_2": "forward_kl"})
    names = ("teacher_1_weight", "teacher_2_weight", "kl/teacher_1", "kl/teacher_2")
    run.rows.append({"env_steps": 1, **dict.fromkeys(names, 0.5)})
    assert [title for _, title in lessons([run])] == [
        "λ of teacher_1", "λ of teacher_2", "Distance to teacher_1 (mse)", "KL to teacher_2, nats"]  # fmt: skip


def test_a_run_says_what_its_distance_was(runs):
    assert read_run(runs / "taught" / "kickstarted-0").config["distances"] == {"teacher": "cross_entropy"}
    assert "distances" not in read_run(runs / "taught" / "scratch-0").config


def test_thinning_keeps_the_mean_and_the_end():
    pairs = np.stack([np.arange(1001.0), np.arange(1001.0) % 2], axis=1)
    points = thinned(pairs, 101)
    assert len(points) == 101 and (points[-1].steps, points[-1].value) == (1000.0, 0.0)
    assert all(abs(p.value - 0.5) < 1e-9 for p in points[:-1])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (8500, 9400, [8600, 8800, 9000, 9200, 9400]), (3, 3, [3])],
)
def test_round_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def saved(speedup, interval, seeds=3, final=(500.0, 500.0), at_least=False):
    row = {"share": 0.95, "score": 475, "speedup": speedup, "interval": interval, "at_least": at_least}
    return {"savings": [row], "student": [[]] * seeds, "student_final": [final[0]] * seeds,
            "scratch_final": [final[1]] * seeds, "teacher": 500.0, "random": 20.0}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "tone", "words"),
    [
        (saved(2.0, [1.5, 2.5]), GOOD, "2.00× faster with its teacher"),
        (saved(2.0, [1.5, 2.5], seeds=2), OPEN, "2.00× faster with its teacher"),
        (saved(2.0, [1.5, 2.5], final=(400.0, 500.0)), OPEN, "ends lower than from scratch"),
        (saved(1.2, [0.9, 1.5]), OPEN, "No clear saving"),
        (saved(0.5, [0.4, 0.8]), SHORT, "Slower with its teacher"),
        (saved(0.5, [0.4, 0.8], at_least=True), OPEN, "No clear saving"),
        (saved(2.0, [None, None], seeds=1), OPEN, "2.00× faster"),
        (saved(None, [None, None]), SHORT, "No saving can be told"),
    ],
)
def test_what_is_said_of_savings(found, tone, words):
    verdict = verdict_of([Group("kickstarted", (run_of([]),))], found, None)
    assert verdict.tone == tone and words in verdict.headline


def test_what_is_said_of_a_student(runs):
    run = read_run(runs / "run")
    table = comparison_from_json(run.result)
    assert table.to_json() == run.result, "what was written is read back"
    verdict = verdict_of([Group("student", (run,))], None, table)
    parity = run.result["rows"][1]["parity"]
    assert verdict.tone == GOOD and f"at least {100 * parity['ratio_lower_bound']:.1f} %" in verdict.text
    failed = {**run.result, "rows": [run.result["rows"][0], dict(run.result["rows"][1])]}
    failed["rows"][1] |= {"parity": {**parity, "passed": False, "p_value": 0.4}, "ratio": 0.5}
    verdict = verdict_of([Group("student", (run,))], None, comparison_from_json(failed))
    assert verdict.tone == SHORT and "does not pass" in verdict.text and "p 0.400" in verdict.text


def test_what_is_said_of_several_students(runs):
    run = read_run(runs / "run")
    first, student = run.result["rows"]
    failed = {
        **student,
        "name": "small",
        "ratio": 0.5,
        "parity": {**student["parity"], "passed": False, "p_value": 0.4},
    }
    table = comparison_from_json({**run.result, "rows": [first, student, failed]})
    verdict = verdict_of([Group("student", (run,)), Group("small", (run,))], None, table)
    assert verdict.tone == GOOD and verdict.headline == "1 of 2 students shown to be on par"
    assert "small 50.0 % (p 0.400)" in verdict.text


def test_students_of_several_goals_are_tested_for_that_of_the_first(runs):
    run = read_run(runs / "run")
    failed = {**run.result["rows"][1]["parity"], "ratio": 1.2, "passed": False, "p_value": 1.0}
    rows = [run.result["rows"][0], {**run.result["rows"][1], "parity": failed}]
    strict = replace(run, result={**run.result, "wanted_ratio": 1.2, "rows": rows})
    groups = [Group("loose", (run,)), Group("strict", (strict,))]
    table = stored_table(groups, [])
    assert [row.parity and (row.parity.ratio, row.parity.passed) for row in table.rows] == [
        None,
        (0.95, True),
        (0.95, True),
    ]
    assert table.rows[2].parity.p_value == run.result["rows"][1]["parity"]["p_value"]
    assert any("other shares were asked of strict (1.2)" in note for note in table.notes)
    table = stored_table(groups[::-1], [])
    assert [row.parity and row.parity.passed for row in table.rows] == [None, False, False]
    other = replace(run, config={**run.config, "teachers": ["another"]})
    assert any("different teachers" in note for note in stored_table([groups[0], Group("other", (other,))], []).notes)


@pytest.mark.parametrize("name", ["run", "trained", "taught/kickstarted-1"])
def test_the_command_resolves_to_the_settings_of_the_run(runs, name):
    run = read_run(runs / name)
    words = shlex.split(command_of(run))
    assert words[:2] == ["understudy", run.kind]
    values = vars(command_parser().parse_args(words[1:]))
    cls = {"distill": DistillSettings, "train": TrainSettings, "kickstart": KickstartSettings}[run.kind]
    base = {}
    for one in [values["preset"]] if isinstance(values["preset"], str) else values["preset"]:
        base = merge(base, preset(one))
    over = nest({k: v for k, v in values.items() if "." in k or k in ("seed", "device", "checkpoint_every")})
    resolved = plain(build(cls, merge(base, over)))
    wanted = yaml.safe_load((runs / name / "config.yaml").read_text())["settings"]
    if run.kind == "kickstart":
        assert values["teacher"] == list(wanted["teaching"]["teachers"])
        wanted["teaching"].pop("teachers"), resolved["teaching"].pop("teachers")
    assert resolved == wanted


def test_runs_are_grouped_by_their_settings(runs):
    groups, found, home = gather([runs / "taught"])
    assert [(g.label, len(g.runs)) for g in groups] == [("kickstarted", 2), ("scratch", 2)]
    assert found == read_json(runs / "taught" / "comparison.json") and home == runs / "taught"
    groups, found, _ = gather([runs / "taught" / "scratch-0", runs / "taught" / "scratch-1"])
    assert [(g.label, len(g.runs)) for g in groups] == [("student", 2)] and found is None
    groups, _, _ = gather([runs / "trained", runs / "taught" / "scratch-1"])
    assert [g.label for g in groups] == ["trained", "scratch-1"], "they differ in more than two settings"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (dict(hidden=(16, 8)), 2 * (5 * 16 + 16 * 8 + 8 * 3)),
        (dict(hidden=(16,), value_hidden=(64, 64)), 2 * (5 * 16 + 16 * 3)),
        (dict(hidden=(16,), lstm=8), 2 * (4 * 8 * (5 + 8) + 8 * 16 + 16 * 3)),
    ],
)
def test_flops(spec, expected):
    policy = Policy(PolicySpec(space_to_json(BOX), space_to_json(gym.spaces.Discrete(3)), "categorical", **spec))
    assert flops_of(policy) == expected


def test_flops_of_pictures_and_of_what_is_not_known():
    pictures = space_to_json(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8))
    spec = PolicySpec(pictures, space_to_json(gym.spaces.Discrete(3)), "categorical",
                      (Encoder("", "nature_cnn", 512, 1 / 255),), hidden=())  # fmt: skip
    convolutions = 20 * 20 * 32 * 4 * 64 + 9 * 9 * 64 * 32 * 16 + 7 * 7 * 64 * 64 * 9
    assert flops_of(Policy(spec)) == 2 * (convolutions + 3136 * 512 + 512 * 3)
    assert flops_of(object()) is None


def test_differences():
    choices = family_for("categorical", gym.spaces.Discrete(2))
    values = family_for("q_values", gym.spaces.Discrete(2))
    theirs, ours = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    what, amount = differences(choices, theirs, choices, ours, None)
    p = 1 / (1 + math.exp(-2))
    assert "KL" in what
    assert amount.tolist() == pytest.approx(
        [0.0, p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)], abs=1e-6
    )
    what, amount = differences(values, theirs[1:], choices, ours[1:], None)
    assert "log" in what and amount.tolist() == pytest.approx([-math.log(1 - p)], abs=1e-6)
    box = family_for("deterministic", gym.spaces.Box(-2, 2, (2,)))
    low = torch.full((2,), -1.0)
    what, amount = differences(box, torch.tensor([[3.0, 0.0]]), box, torch.tensor([[1.0, 0.5]]), low)
    assert "%" in what and amount.tolist() == pytest.approx([100 * (0 + 0.25) / 2]), "beyond a bound nothing differs"


def test_disagreements_are_the_largest_and_apart(runs, monkeypatch):
    monkeypatch.chdir(runs)
    run = read_run("run")
    teacher, student = load("trained/last.safetensors"), load("run")
    found = find(teacher, student, load("run").about.env, 4, 123, 5)
    amounts = [state.amount for state in found.states]
    assert amounts == sorted(amounts, reverse=True) and amounts[0] > found.quantile > found.mean
    assert [name for name, _, _ in found.states[0].values] == ["obs[0]", "obs[1]", "obs[2]", "obs[3]"]
    obs = np.array([[value for _, value, _ in state.values] for state in found.states], np.float32)
    for policy, side in ((teacher, "teacher"), (student, "student")):
        actions, _ = policy.predict(obs, deterministic=True)
        assert actions.tolist() == [int(getattr(state, side)[0]) for state in found.states]
    assert run.student.name == "best.safetensors"


def test_pictures_are_the_newest_of_a_stack():
    stack = np.zeros((4, 6, 8), np.uint8)
    stack[3] = 200
    assert as_picture(stack).shape == (6, 8) and (as_picture(stack) == 200).all()
    grid = np.full((7, 7, 3), 5, np.uint8)
    assert as_picture(grid).shape == (7, 7, 3) and as_picture(grid).max() == 5 * 51
