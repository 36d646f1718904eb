"""The settings of learning from a replay: what its three methods share, and what each alone has.

A run's ``method`` says which class its settings are of, so that DQN has no clip range and PPO no replay:

| method         | class                   | presets                                                                  |
|----------------|-------------------------|--------------------------------------------------------------------------|
| actor_critic   | ``TrainSettings``       | reinforce, a2c, a3c, ppo, impala                                         |
| q_learning     | ``QLearningSettings``   | dqn, double-dqn, dueling, per, n-step, c51, qr-dqn, rainbow, ape-x       |
| deterministic  | ``DeterministicSettings`` | ddpg, td3                                                              |
| soft           | ``SoftSettings``        | sac                                                                      |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from understudy.config import doc
from understudy.errors import UserError
from understudy.settings.replayed_sections import (
    ContinuousNetworkSettings,
    DeterministicObjective,
    NoiseExploration,
    QExploration,
    QNetworkSettings,
    QObjective,
    ReplayedExecution,
    ReplayedRollout,
    ReplayedUpdate,
    ReplaySettings,
    SoftObjective,
)
from understudy.settings.train import CommonChecks, EnvSettings, TrainEvaluation, TrainStop


@dataclass(frozen=True)
class ReplayedSettings(CommonChecks):
    """A training run from a replay."""

    method: Literal["q_learning", "deterministic", "soft"] = doc("which method's settings these are", "q_learning")
    env: EnvSettings = doc("", factory=EnvSettings)
    rollout: ReplayedRollout = doc("", factory=ReplayedRollout)
    replay: ReplaySettings = doc("", factory=ReplaySettings)
    update: ReplayedUpdate = doc("", factory=ReplayedUpdate)
    evaluation: TrainEvaluation = doc("", factory=TrainEvaluation)
    stop: TrainStop = doc("", factory=TrainStop)
    execution: ReplayedExecution = doc("", factory=ReplayedExecution)
    checkpoint_every: int = doc(
        "env steps between checkpoints, each of which begins new episodes, so that a resumed run equals the "
        "uninterrupted one; 0: every 30 s, without a trace in training",
        0,
        least=0,
    )
    seed: int = doc("every random number of the run comes from it", 0, least=0, most=2**32 - 1)

    @property
    def schedules(self) -> dict[str, str]:
        """The settings that are schedules, by name."""
        return {"update.lr": self.update.lr, "replay.beta": self.replay.beta}

    @property
    def learnt(self) -> dict[str, Any]:
        """What is learnt, beyond the policy's own networks, by the setting that says so; a resumed run keeps it."""
        return {}

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        rollout, replay, execution = self.rollout, self.replay, self.execution
        self._check_common(rollout.num_envs, execution.type, execution.num_workers)
        if replay.warm_up > replay.capacity:
            raise UserError(f"replay.warm_up {replay.warm_up} must lie between 0 and replay.capacity {replay.capacity}")


@dataclass(frozen=True)
class QLearningSettings(ReplayedSettings):
    """A training run of action values: DQN and its variants."""

    method: Literal["q_learning"] = doc("which method's settings these are", "q_learning")
    policy: QNetworkSettings = doc("", factory=QNetworkSettings)
    objective: QObjective = doc("", factory=QObjective)
    exploration: QExploration = doc("", factory=QExploration)
    device: str = doc("cpu or cuda", "cpu")

    @property
    def schedules(self) -> dict[str, str]:
        """The settings that are schedules, by name."""
        return super().schedules | {"exploration.epsilon": self.exploration.epsilon}

    @property
    def learnt(self) -> dict[str, Any]:
        """See ``ReplayedSettings``; how much noise there is at first does not matter any more."""
        return {"policy.dueling": self.policy.dueling, "policy.noisy": self.policy.noisy > 0}

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        super().check()
        objective = self.objective
        if objective.distribution != "none" and objective.atoms < 2:
            raise UserError(f"objective.atoms is {objective.atoms}; a distribution needs at least 2")
        if objective.distribution == "categorical" and not objective.low < objective.high:
            raise UserError(f"objective.low {objective.low} must be below objective.high {objective.high}")
        if self.policy.dueling and (not self.policy.hidden or self.policy.hidden[-1] % 2):
            raise UserError("policy.dueling shares the last of policy.hidden between two streams: it must be even")
        if self.replay.initial == "actors" and not self.replay.prioritised:
            raise UserError("replay.initial actors needs replay.prioritised true")


@dataclass(frozen=True)
class ContinuousSettings(ReplayedSettings):
    """What methods with critics of continuous actions share."""

    policy: ContinuousNetworkSettings = doc("", factory=ContinuousNetworkSettings)

    @property
    def learnt(self) -> dict[str, Any]:
        """See ``ReplayedSettings``."""
        critics: int = self.objective.critics  # type: ignore[attr-defined]
        return {"objective.critics": critics, "policy.critic_hidden": list(self.policy.critic_widths)}

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        super().check()
        if self.replay.initial == "actors":
            raise UserError("replay.initial actors: the actors of this method know no values; take greatest")


@dataclass(frozen=True)
class DeterministicSettings(ContinuousSettings):
    """A training run of a deterministic actor: DDPG, TD3."""

    method: Literal["deterministic"] = doc("which method's settings these are", "deterministic")
    objective: DeterministicObjective = doc("", factory=DeterministicObjective)
    exploration: NoiseExploration = doc("", factory=NoiseExploration)

    @property
    def schedules(self) -> dict[str, str]:
        """The settings that are schedules, by name."""
        return super().schedules | {"exploration.std": self.exploration.std}

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        super().check()
        if self.update.target_every != 1:
            raise UserError(
                "update.target_every: the targets of this method move with its actor, objective.actor_every"
            )


@dataclass(frozen=True)
class SoftSettings(ContinuousSettings):
    """A training run of SAC."""

    method: Literal["soft"] = doc("which method's settings these are", "soft")
    objective: SoftObjective = doc("", factory=SoftObjective)
