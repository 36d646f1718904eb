"""The settings of reinforcement learning with teachers: those of training, and one section more."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from understudy.config import doc
from understudy.errors import UserError
from understudy.settings.distill import DistanceSettings
from understudy.settings.population import PopulationSettings
from understudy.settings.train import TrainSettings


@dataclass(frozen=True)
class TeacherBehaviourSettings:
    """Who acts while data is gathered; terms of reinforcement learning do not see steps at which a teacher acted."""

    beta: str = doc("schedule of P(teacher acts), at every step: 1 the teacher, 0 the student", "0")
    jump: str = doc(
        "schedule of how many first steps of every episode the teacher plays, or curriculum(steps, stages, tolerance), "
        "which follows the scores of both together",
        "0",
    )
    samples: bool = doc("the teacher's actions are drawn from its distribution; false: its mode", False)

    @property
    def acts(self) -> bool:
        """Whether a teacher ever acts; a zero is the only text for a schedule that is off."""
        return any(text not in ("0", "0.0") for text in (self.beta, self.jump))


@dataclass(frozen=True)
class RehearsalSettings:
    """A term on stored states, in batches of their own."""

    data: str = doc("folder of a distillation whose stored states are rehearsed with the teacher; empty: none", "")
    weight: str = doc("schedule of its weight", "1", least=0)
    batch: int = doc("states of each gradient step", 256, least=1)


@dataclass(frozen=True)
class TeachingSettings:
    """What the teachers add to the objective; steps of schedules may be a share of the run, as in 15%."""

    teachers: tuple[str, ...] = doc("paths, hub ids or module:function, as `--teacher` takes them", ())
    weight: str = doc(
        "schedule of lambda on env steps: those of other settings, gated(c), or target_kl(d, initial)",
        "linear(1, 0, 15%)",
        least=0,
    )
    rho: tuple[str, ...] = doc(
        "factor of each teacher, a number or a schedule: lambda_i = lambda * rho_i; empty: 1 each", (), least=0
    )
    assignment: Literal["all", "mixture", "task", "key"] = doc(
        "all: the losses to all teachers are added; mixture: their distributions are averaged; task: each teaches the "
        "task of a multitask environment that it belongs to; key: teacher i has the states whose teaching.key says i",
        "all",
    )
    key: str = doc("observation key that names the teacher of a state, as an integer from 0 or one-hot", "")
    gate: Literal["none", "value"] = doc("value: only states count where V_teacher > V_student", "none")
    value_weight: str = doc("schedule of the squared error of the student's value to the teacher's", "0", least=0)
    reward: Literal["none", "log_prob", "value", "distance"] = doc(
        "what the teacher adds to rewards: log_prob, log pi_T(a|s) of the action taken; value, gamma V_T(s') - V_T(s); "
        "distance, -lambda D(s), which makes the distance's update a gradient (n-distill, eer)",
        "none",
    )
    reward_weight: str = doc("schedule of the teacher's reward's factor", "1", least=0)
    env_reward: bool = doc("learn from the environment's rewards too; false: from what the teacher adds alone", True)
    rl_weight: str = doc("schedule of c, which multiplies policy gradient and entropy bonus", "1", least=0)
    proximal: bool = doc("weigh states by max(ratio, 1 - objective.clip), as PPD does", False)
    init: Literal["none", "teacher"] = doc("teacher: the student begins as a copy of its only teacher", "none")
    warm_up: int = doc(
        "env steps in which only the value function learns; teaching.weight begins after them", 0, least=0
    )
    distance: DistanceSettings = doc("", factory=DistanceSettings)
    behaviour: TeacherBehaviourSettings = doc("", factory=TeacherBehaviourSettings)
    rehearsal: RehearsalSettings = doc("", factory=RehearsalSettings)


@dataclass(frozen=True)
class KickstartSettings(TrainSettings):
    """A training run with teachers."""

    teaching: TeachingSettings = doc("", factory=TeachingSettings)
    pbt: PopulationSettings = doc("", factory=PopulationSettings)

    @property
    def alone(self) -> TrainSettings:
        """The same run without teachers."""
        return TrainSettings(**{f.name: getattr(self, f.name) for f in fields(TrainSettings)})

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        if self.execution.shared_gradients and (self.teaching.behaviour.acts or self.teaching.rehearsal.data):
            raise UserError(
                "execution.shared_gradients (A3C): its students act alone and learn from their own rollouts; leave "
                "teaching.behaviour and teaching.rehearsal, or take --preset impala, or a2c with --execution async"
            )
        super().check()
        self.pbt.check()
        teaching, objective = self.teaching, self.objective
        if teaching.rho and len(teaching.rho) != len(teaching.teachers):
            raise UserError(f"teaching.rho has {len(teaching.rho)} factors for {len(teaching.teachers)} teachers")
        if teaching.rho and teaching.assignment == "mixture":
            raise UserError("teaching.rho weighs losses; a mixture has one: take --teaching.assignment all")
        if teaching.proximal and not objective.clip:
            raise UserError("teaching.proximal needs objective.clip, as PPO has it")
        if teaching.warm_up and not objective.value_weight:
            raise UserError("teaching.warm_up trains the value function alone, but objective.value_weight is 0")
        if teaching.init == "teacher" and len(teaching.teachers) > 1:
            raise UserError("teaching.init teacher copies one teacher, but there are several")
        if (teaching.assignment == "key") != bool(teaching.key):
            raise UserError("teaching.assignment key and teaching.key NAME belong together")
        self._check_rehearsal()
        if teaching.behaviour.acts and len(teaching.teachers) > 1 and teaching.assignment in ("all", "key"):
            raise UserError(
                "teaching.behaviour: there are several teachers and one can act: take --teaching.assignment mixture"
            )
        if not teaching.env_reward and teaching.reward == "none":
            raise UserError("teaching.env_reward false leaves no reward: set teaching.reward, or teaching.rl_weight 0")
        if teaching.reward == "distance" and (teaching.gate != "none" or teaching.proximal):
            raise UserError("teaching.reward distance knows no weights of states: leave teaching.gate and proximal off")
        # A zero is the only text for a schedule that is off, so that what needs values is known without parsing.
        compares = teaching.gate == "value" or teaching.reward == "value" or teaching.value_weight not in ("0", "0.0")
        if compares and (objective.normalize_reward or objective.reward_clip):
            raise UserError(
                "teaching.gate, teaching.value_weight and teaching.reward value compare with the teacher's value, "
                "which is in the scale of raw rewards: set objective.normalize_reward false and objective.reward_clip 0"
            )
        if compares and not objective.value_weight and teaching.reward != "value":
            raise UserError("teaching.gate and teaching.value_weight need a student with a value function")

    def _check_rehearsal(self) -> None:
        teaching, rehearsal = self.teaching, self.teaching.rehearsal
        if not rehearsal.data:
            return
        if self.policy.lstm:
            raise UserError("teaching.rehearsal learns single states: leave policy.lstm 0")
        if len(teaching.teachers) > 1 and teaching.assignment in ("all", "key"):
            raise UserError("teaching.rehearsal asks one teacher about states: take --teaching.assignment mixture")
