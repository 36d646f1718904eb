"""The settings of reinforcement learning with teachers: those of training, and one section more."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from understudy.config import doc
from understudy.errors import UserError
from understudy.settings.distill import DistanceSettings
from understudy.settings.train import TrainSettings


@dataclass(frozen=True)
class TeachingSettings:
    """What the teachers add to the objective; steps of schedules may be a share of the run, as in 15%."""

    teachers: tuple[str, ...] = doc("paths, hub ids or module:function, as `--teacher` takes them", ())
    weight: str = doc(
        "schedule of lambda on env steps: those of other settings, gated(c), or target_kl(d, initial)",
        "linear(1, 0, 15%)",
    )
    rho: tuple[float, ...] = doc("factor of each teacher: lambda_i = lambda * rho_i; empty: 1 each", ())
    assignment: Literal["all", "mixture", "task"] = doc(
        "all: the losses to all teachers are added; mixture: their distributions are averaged; task: each teaches the "
        "task of a multitask environment that it belongs to",
        "all",
    )
    gate: Literal["none", "value"] = doc("value: only states count where V_teacher > V_student", "none")
    value_weight: str = doc("schedule of the squared error of the student's value to the teacher's", "0")
    reward: Literal["none", "log_prob", "value"] = doc(
        "what the teacher adds to rewards: log_prob, log pi_T(a|s) of the action taken; value, gamma V_T(s') - V_T(s)",
        "none",
    )
    reward_weight: str = doc("schedule of the teacher's reward's factor", "1")
    rl_weight: str = doc("schedule of c, which multiplies policy gradient and entropy bonus", "1")
    proximal: bool = doc("weigh states by max(ratio, 1 - objective.clip), as PPD does", False)
    init: Literal["none", "teacher"] = doc("teacher: the student begins as a copy of its only teacher", "none")
    warm_up: int = doc("env steps in which only the value function learns; teaching.weight begins after them", 0)
    distance: DistanceSettings = doc("", factory=DistanceSettings)


@dataclass(frozen=True)
class KickstartSettings(TrainSettings):
    """A training run with teachers."""

    teaching: TeachingSettings = doc("", factory=TeachingSettings)

    @property
    def alone(self) -> TrainSettings:
        """The same run without teachers."""
        return TrainSettings(**{f.name: getattr(self, f.name) for f in fields(TrainSettings)})

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        if self.execution.shared_gradients:
            raise UserError(
                "execution.shared_gradients (A3C): its workers know no teachers; take --preset impala, or a2c with "
                "--execution async"
            )
        super().check()
        teaching, objective = self.teaching, self.objective
        if teaching.rho and len(teaching.rho) != len(teaching.teachers):
            raise UserError(f"teaching.rho has {len(teaching.rho)} factors for {len(teaching.teachers)} teachers")
        if any(rho < 0 for rho in teaching.rho):
            raise UserError("teaching.rho must be 0 or more")
        if teaching.rho and teaching.assignment == "mixture":
            raise UserError("teaching.rho weighs losses; a mixture has one: take --teaching.assignment all")
        if teaching.proximal and not objective.clip:
            raise UserError("teaching.proximal needs objective.clip, as PPO has it")
        if teaching.warm_up < 0:
            raise UserError("teaching.warm_up must be 0 or more")
        if teaching.warm_up and not objective.value_weight:
            raise UserError("teaching.warm_up trains the value function alone, but objective.value_weight is 0")
        if teaching.init == "teacher" and len(teaching.teachers) > 1:
            raise UserError("teaching.init teacher copies one teacher, but there are several")
        # A zero is the only text for a schedule that is off, so that what needs values is known without parsing.
        compares = teaching.gate == "value" or teaching.reward == "value" or teaching.value_weight not in ("0", "0.0")
        if compares and (objective.normalize_reward or objective.reward_clip):
            raise UserError(
                "teaching.gate, teaching.value_weight and teaching.reward value compare with the teacher's value, "
                "which is in the scale of raw rewards: set objective.normalize_reward false and objective.reward_clip 0"
            )
        if compares and not objective.value_weight and teaching.reward != "value":
            raise UserError("teaching.gate and teaching.value_weight need a student with a value function")
