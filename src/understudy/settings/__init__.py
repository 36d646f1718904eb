"""The settings of runs, as frozen dataclasses; every field is a flag of the command line and a key of presets."""

from understudy.settings.distill import (
    BehaviourSettings,
    DataSettings,
    DistanceSettings,
    DistillSettings,
    EvaluationSettings,
    LearningSettings,
    StopSettings,
    StudentSettings,
)
from understudy.settings.execution import ExecutionSettings
from understudy.settings.kickstart import KickstartSettings, TeachingSettings
from understudy.settings.replayed import (
    DeterministicSettings,
    QLearningSettings,
    ReplayedSettings,
    SoftSettings,
)
from understudy.settings.taught import TAUGHT
from understudy.settings.train import EnvSettings, TrainSettings

METHODS: dict[str, type[TrainSettings] | type[ReplayedSettings]] = {
    "actor_critic": TrainSettings,
    "q_learning": QLearningSettings,
    "deterministic": DeterministicSettings,
    "soft": SoftSettings,
}
"""The settings of ``understudy train``, by their ``method``."""

__all__ = [
    "METHODS",
    "TAUGHT",
    "BehaviourSettings",
    "DataSettings",
    "DeterministicSettings",
    "DistanceSettings",
    "DistillSettings",
    "EnvSettings",
    "EvaluationSettings",
    "ExecutionSettings",
    "KickstartSettings",
    "LearningSettings",
    "QLearningSettings",
    "ReplayedSettings",
    "SoftSettings",
    "StopSettings",
    "StudentSettings",
    "TeachingSettings",
    "TrainSettings",
]
