"""The environment that policies are judged in, wherever they are: without what only learning is helped by."""

from __future__ import annotations

from dataclasses import replace

from understudy.data import EnvSpec
from understudy.envs.atari import without_aids
from understudy.envs.multitask import task_specs


def judged(spec: EnvSpec) -> EnvSpec:
    """Return the description for evaluation: whole games and raw rewards, also in each of several tasks.

    Raises:
        UserError: The tasks of a multitask environment are no descriptions.
    """
    if spec.id == "multitask":
        tasks = [judged(task).to_json() for task in task_specs(spec)]
        return replace(spec, kwargs={**spec.kwargs, "tasks": tasks})
    return replace(spec, wrappers=tuple(without_aids(options) for options in spec.wrappers))
