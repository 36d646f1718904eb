import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_helpers import new_policy
from PIL import Image
from rich.console import Console

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.evaluation.compare import compare
from understudy.evaluation.contestants import resolve_all
from understudy.evaluation.picture import draw
from understudy.evaluation.tables import NONE, number, print_comparison, to_markdown, to_text, write_table
from understudy.report.content import comparison_from_json
from understudy.report.verdict import _measured


def good_cartpole(seed=0, hidden=(16,)):
    """Pushes towards where the pole leans and falls: about 500 steps, written into the weights by hand."""
    policy = new_policy(seed=seed, hidden=hidden, activation="tanh")
    with torch.no_grad():
        for layer in policy.body:
            if hasattr(layer, "weight"):
                layer.weight.mul_(0.01), layer.bias.zero_()
        policy.body[0].weight[0] = torch.tensor([0.05, 0.2, 1.0, 0.6])
        for layer in list(policy.body)[2::2]:
            layer.weight[0, 0] = 1.0
        policy.head.weight.zero_(), policy.head.bias.zero_()
        policy.head.weight[1, 0], policy.head.weight[0, 0] = 5.0, -5.0
    return policy


@pytest.fixture(scope="module")
def comparison():
    policies = [good_cartpole(hidden=(64, 64)), good_cartpole(1), new_policy(seed=2), "random"]
    names = ["teacher", "student", "untrained", "chance"]
    return compare(policies, episodes=12, names=names)


def test_same_seeds_ratios_and_tests(comparison):
    teacher, student, untrained, chance = comparison.rows
    seeds = {tuple(row.evaluation.seeds.tolist()) for row in comparison.rows}
    assert seeds == {tuple(range(12))} and comparison.env == "CartPole-v1"
    assert teacher.evaluation.mean > 400 and teacher.ratio == 1 and teacher.parity is None
    random = comparison.random.mean
    assert untrained.ratio == pytest.approx((untrained.evaluation.mean - random) / (teacher.evaluation.mean - random))
    assert student.parity.passed and not untrained.parity.passed and not chance.parity.passed
    assert chance.ratio == pytest.approx(0, abs=0.1)


def test_sizes_latency_agreement(comparison):
    teacher, student, untrained, chance = comparison.rows
    assert student.parameters == 4 * 16 + 16 + 16 * 2 + 2 and student.kilobytes == 4 * student.parameters / 1000
    assert teacher.parameters > 40 * student.parameters / 2
    assert student.latency.array_us is not None and chance.latency is None and chance.parameters is None
    assert student.agreement.share > untrained.agreement.share and student.agreement.kl is not None
    assert teacher.agreement is None and chance.agreement is None


def test_written_as_json_markdown_and_text(comparison, tmp_path):
    data = json.loads(write_table(comparison, tmp_path / "c.json").read_text())
    assert data["rows"][1]["parity"]["passed"] is True and len(data["rows"][0]["evaluation"]["returns"]) == 12
    markdown = write_table(comparison, tmp_path / "deep" / "c.md").read_text()
    assert markdown.startswith("| policy | return | 95 % interval |") and "yes (p " in markdown
    assert markdown.count("\n| ") == 5 and len({line.count("|") for line in markdown.splitlines()[:6]}) == 1
    text = to_text(comparison)
    assert "same seeds" in text and NONE in text
    assert to_markdown(comparison) == markdown == comparison._repr_markdown_()
    assert repr(comparison) == text
    one = comparison.rows[0].evaluation
    assert repr(one).startswith(f"<Evaluation of {one.name} in {one.env}: return {one.mean:.5g} [")


def test_of_several_tasks_it_says_what_is_of_each_and_what_of_the_worst(comparison):
    random = replace(comparison.random, tasks=(comparison.random,) * 2)
    several, student = replace(comparison, random=random), comparison.rows[1]
    student = replace(student, parity=replace(student.parity, episodes=6))
    several = replace(several, rows=[comparison.rows[0], student])
    assert "6 episodes of each task cannot show" in to_text(several) and "12 episodes cannot" in to_text(comparison)
    worst = "in its worst task, measured from the random policy up; over all tasks, "
    assert worst in _measured(student, several) and "task" not in _measured(student, comparison)


def test_a_bound_of_minus_infinity_is_null(comparison):
    row = comparison.rows[1]
    endless = replace(row.parity, ratio_lower_bound=-math.inf, degrees=math.inf)
    found = replace(comparison, rows=[comparison.rows[0], replace(row, parity=endless)])
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["rows"][1]["parity"]["ratio_lower_bound"] is None
    assert comparison_from_json(written).rows[1].parity == endless, "as the report reads it"


@pytest.mark.parametrize("width", [60, 80, 160])
def test_printed_at_any_width(comparison, width, tmp_path):
    with open(tmp_path / "out", "w") as file:
        console = Console(width=width, record=True, file=file)
        print_comparison(comparison, console)
        text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    for cell in (
        "teacher",
        "untrained",
        "95 % interval",
        "IQM",
        "parameters",
        "agreement",
        number(comparison.rows[2].evaluation.mean),
    ):
        assert cell in text


def test_names_are_no_markup_and_every_policy_is_shown(comparison, tmp_path):
    rows = [replace(row, name=name) for row, name in zip(comparison.rows, ("a [bold] [/b]", "s"), strict=False)]
    for width in (160, 40, 20):
        with open(tmp_path / "out", "w") as file:
            console = Console(width=width, record=True, file=file)
            print_comparison(replace(comparison, rows=rows), console)
            text = console.export_text()
        words = text.split("\n\n")[0].split()
        assert "s" in words and (width == 20 or ("[bold]" in words and "[/b]" in words))
        assert all(len(line) <= width for line in text.splitlines())


def test_picture(comparison, tmp_path):
    image = np.asarray(Image.open(draw(comparison, tmp_path / "c.png")).convert("L"))
    assert image.shape[1] > 1200 and image.std() > 10
    assert draw(comparison, tmp_path / "c.svg").stat().st_size > 1000
    with pytest.raises(UserError, match="cannot draw"):
        draw(comparison, tmp_path / "c.txt")


def test_a_reference_no_better_than_random_has_no_ratio():
    class Worst:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), int), state

    found = compare([Worst(), good_cartpole()], env="CartPole-v1", episodes=5, measure_latency=False)
    assert all(row.ratio is None and row.parity is None for row in found.rows)
    assert "ratio of them has no meaning" in found.notes[0] and len(found.notes) == 1
    assert "ratio of them has no meaning" in to_text(found)


def test_names_are_unique_and_tasks_are_the_same():
    found = compare([new_policy(), new_policy()], episodes=2, measure_latency=False)
    assert [row.name for row in found.rows] == ["runs/policy0", "runs/policy0 (2)"]
    with pytest.raises(UserError, match="different tasks"):
        compare([new_policy(), new_policy("Acrobot-v1")])
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])
    with pytest.raises(UserError, match="2 policies, but 1 names"):
        compare([new_policy(), new_policy()], names=["a"])


LIMIT, ATARI = {"type": "time_limit", "max_steps": 20}, {"type": "atari"}


@pytest.mark.parametrize(
    ("env", "one", "other", "message"),
    [
        ("CartPole-v1", [], [LIMIT], r"CartPole-v1 without time_limit, .* CartPole-v1 with time_limit \[20\]: returns"),
        ("ALE/Pong-v5", [ATARI], [ATARI | {"sticky": 0.25}], "with sticky 0.0, .* with sticky 0.25: returns of diff"),
        ("ALE/Pong-v5", [ATARI], [ATARI | {"frame_skip": 1}], "with frame_skip 4, .* with frame_skip 1: returns"),
        ("ALE/Pong-v5", [ATARI], [ATARI | {"noop_max": 0}], "with noop_max 30, .* with noop_max 0: returns"),
        ("ALE/Pong-v5", [ATARI], [ATARI | {"stack": 1, "screen_size": 42}], ""),
        ("CartPole-v1", [LIMIT], [{"type": "time_feature"}, LIMIT], ""),
    ],
)
def test_wrappers_that_change_the_task_set_returns_apart(env, one, other, message):
    policies = [new_policy(), new_policy()]
    for policy, wrappers in zip(policies, (one, other), strict=True):
        policy.about.env = EnvSpec(env, {}, tuple(wrappers))
    if not message:
        assert len(resolve_all(policies, None, None, 0)) == 2
    else:
        with pytest.raises(UserError, match=message):
            compare(policies)


@pytest.mark.parametrize("policies", ["runs/one", Path("runs/one"), torch.nn.Sequential(torch.nn.Linear(4, 2))])
def test_one_policy_is_no_list(policies):
    with pytest.raises(UserError, match=f"as a list, .* of the type {type(policies).__name__}"):
        compare(policies, "CartPole-v1")


def test_one_library_runs_all(monkeypatch):
    from understudy.evaluation import contestants

    monkeypatch.setattr(contestants, "env_backend", lambda spec: "gymnasium" if spec.wrappers else "fast")
    wrapped = EnvSpec("CartPole-v1", {}, ({"type": "time_feature"},))
    policies = [new_policy(), new_policy()]
    policies[0].about.env, policies[1].about.env = wrapped, EnvSpec("CartPole-v1")
    assert [one.env.backend for one in contestants.resolve_all(policies, None, None, 0)] == ["gymnasium"] * 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12346"), (500.0, "500.0"), (0.01234, "0.0123"), (-3.14159, "-3.142"), (0.0, "0"), (None, NONE)],
)
def test_numbers(value, text):
    assert number(value) == text
