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
from understudy.settings.train import EnvSettings, TrainSettings

__all__ = [
    "BehaviourSettings",
    "DataSettings",
    "DistanceSettings",
    "DistillSettings",
    "EnvSettings",
    "EvaluationSettings",
    "ExecutionSettings",
    "KickstartSettings",
    "LearningSettings",
    "StopSettings",
    "StudentSettings",
    "TeachingSettings",
    "TrainSettings",
]
