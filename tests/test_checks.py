"""What is refused before a run starts, in one line that names the field."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy
from understudy.checks import check_device
from understudy.config import Bounds, bounds_of, build, check_bounds, flags
from understudy.distill_job import resolve
from understudy.errors import UserError
from understudy.preset_files import preset, presets
from understudy.settings import METHODS, TAUGHT, DistillSettings, KickstartSettings
from understudy.training import resolve_training

CARTPOLE = {"env": {"id": "CartPole-v1"}}


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("ppo", "update.lr", "-1", "update.lr is -1.0; it must be at least 0"),
        ("ppo", "update.lr", "linear(3e-4, -1e-4, 100%)", "update.lr is -0.0001; it must be at least 0"),
        ("ppo", "seed", -1, "seed is -1; it must be between 0 and 4294967295"),
        ("ppo", "update.minibatch", -1, "update.minibatch is -1; it must be at least 0"),
        ("ppo", "execution.learner_threads", -1, "execution.learner_threads is -1; it must be at least 0"),
        ("ppo", "execution.worker_timeout", 0, "execution.worker_timeout is 0.0; it must be above 0"),
        ("ppo", "objective.gamma", 2, "objective.gamma is 2.0; it must be between 0 and 1"),
        ("ppo", "objective.gamma", "nan", "objective.gamma is nan; it must be between 0 and 1"),
        ("ppo", "policy.log_std", "nan", "policy.log_std is nan; it must be a number"),
        ("ppo", "policy.hidden", [64, 0], "policy.hidden is 0; it must be at least 1"),
        ("ppo", "stop.env_steps", "inf", "stop.env_steps is 'inf'; it must be a whole number"),
        ("ppo", "update.decay", 1, "update.decay is 1.0; it must be at least 0 and below 1"),
        ("dqn", "exploration.epsilon", "linear(7, 0, 10)", "exploration.epsilon is 7.0; it must be between 0 and 1"),
        ("dqn", "replay.beta", "piecewise(0:0.4, 10:2)", "replay.beta is 2.0; it must be between 0 and 1"),
        ("sac", "update.tau", 0, "update.tau is 0.0; it must be above 0 and at most 1"),
        ("td3", "exploration.std", "exponential(-1, 0.5, 10, -1)", "exploration.std: schedule exponential: needs 0"),
        ("ppo", "device", "tpu", "device is 'tpu'; it can be cpu, cuda or cuda:NUMBER"),
    ],
)
def test_out_of_bounds_is_refused_by_name(name: str, key: str, value: Any, message: str) -> None:
    """On the way that every ``understudy train`` goes."""
    group, _, leaf = key.rpartition(".")
    settings = CARTPOLE | ({group: {leaf: value}} if group else {leaf: value})
    with pytest.raises(UserError) as refused:
        resolve_training(settings, name)
    assert str(refused.value).startswith(message)


def test_distillation_is_held_to_its_bounds() -> None:
    """Schedules as well as numbers."""
    with pytest.raises(UserError, match=r"^behaviour.beta is 1.5; it must be between 0 and 1$"):
        resolve({"behaviour": {"beta": "linear(1.5, 0, 1000)"}}, None)
    with pytest.raises(UserError, match=r"^learning.average is 1.0; it must be at least 0 and below 1$"):
        resolve({"learning": {"average": 1}}, None)


ALL = [DistillSettings, KickstartSettings, *METHODS.values(), *TAUGHT.values()]


@pytest.mark.parametrize("settings", ALL, ids=lambda kind: kind.__name__)
def test_defaults_lie_within_bounds_and_numbers_have_some(settings: type) -> None:
    """Every number but a few that may be anything, and every schedule that the settings name."""
    check_bounds(settings())
    free = {"policy.log_std", "objective.low", "objective.high", "objective.target_entropy", "stop.score"}
    for name, kind, field in flags(settings):
        if kind in (int, float, float | None) and name not in free:
            assert field.metadata["bounds"] != Bounds(), name
    for name in settings().schedules:
        assert isinstance(bounds_of(settings(), name), Bounds)


@pytest.mark.parametrize("name", presets())
def test_presets_lie_within_bounds(name: str) -> None:
    """As settings of a command that takes them."""
    taken = []
    for kind in ALL:
        with contextlib.suppress(UserError):
            taken.append(build(kind, preset(name)))
    assert taken
    for settings in taken:
        check_bounds(settings)


def test_cuda_without_a_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether PyTorch was built without CUDA or finds no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"^device cuda: PyTorch .* is built without CUDA; take --device cpu"):
        check_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"^device cuda:1: no GPU answers; take --device cpu"):
        check_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_device("cuda")
    with pytest.raises(UserError, match=r"^device cuda:1: there are 1, numbered from 0$"):
        check_device("cuda:1")


@pytest.mark.parametrize("name", ["weight", "value_weight", "reward_weight", "rl_weight"])
def test_negative_weights_of_teachers_are_refused(name: str, tmp_path: Path) -> None:
    """A teacher is never something to flee from."""
    teacher = understudy.load(Path(understudy.__file__).parent / "assets" / "demo-teacher.safetensors")
    settings = {"teaching": {name: "linear(1, -1, 50%)"}, "objective": {"normalize_reward": False}}
    with pytest.raises(UserError, match=rf"^teaching.{name} is -1.0; it must be at least 0$"):
        understudy.kickstart(teacher=teacher, preset=["kickstarting"], settings=settings, run=tmp_path)
