"""Judges the policies of several behaviours where all of them act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from understudy.data import EnvSpec
from understudy.evaluation.evaluate import Evaluation, evaluate
from understudy.scenes import rows_in


def among(spec: EnvSpec, behavior: str, policies: Mapping[str, Any]) -> EnvSpec:
    """Return the scene seen by one behaviour's agents, with the policies of all others acting for theirs.

    Args:
        spec: The scene; what it says of one behaviour's agents is forgotten.
        behavior: Whose agents are stepped.
        policies: Paths by behaviour.
    """
    known = {k: v for k, v in spec.kwargs.items() if k not in ("behavior", "agents", "masks", "settled")}
    others = {name: str(path) for name, path in policies.items() if name != behavior}
    companions = {**spec.kwargs.get("companions", {}), **others}
    return replace(spec, id=spec.id.partition("?")[0], kwargs={**known, "behavior": behavior, "companions": companions})


def judge(
    spec: EnvSpec, behavior: str, policies: Mapping[str, str], episodes: int, seed: int, players: int | None = None
) -> Evaluation:
    """Evaluate one behaviour's policy among the policies of the others, which act by their modes.

    Args:
        spec: See ``among``.
        behavior: Whose policy is evaluated.
        policies: See ``among``.
        episodes: Of its agents.
        seed: Of the first.
        players: As many as 8 agents need by default.

    Raises:
        UserError: As ``evaluate``.
    """
    scene = among(spec, behavior, policies)
    return evaluate(policies[behavior], scene, episodes, seed, 8 if players is None else rows_in(scene, players))
