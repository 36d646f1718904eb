"""Judges the policies of several behaviours where all of them act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from understudy.data import EnvSpec
from understudy.envs.unity.companions import load_companion
from understudy.envs.unity.sensors import MASK
from understudy.errors import UserError
from understudy.evaluation.evaluate import Evaluation, evaluate
from understudy.policies.files import load_policy
from understudy.policies.spaces import members
from understudy.policies.stored import policy_file
from understudy.scenes import rows_in
from understudy.teachers.foreign import refuse_code


def among(spec: EnvSpec, behavior: str, policies: Mapping[str, Any]) -> EnvSpec:
    """Return the scene seen by one behaviour's agents, with the policies of all others acting for theirs.

    Args:
        spec: The scene; what was seen of another behaviour's agents is forgotten, what the caller said is kept.
        behavior: Whose agents are stepped.
        policies: Paths by behaviour; whether its own sees masks decides where nothing else does.
    """
    ours = spec.kwargs.get("behavior") == behavior or not spec.kwargs.get("settled")
    forgotten = ("behavior",) if ours else ("behavior", "agents", "masks", "settled")
    known = {k: v for k, v in spec.kwargs.items() if k not in forgotten}
    if known.get("masks") is None and behavior in policies and _sees_masks(str(policies[behavior])):
        known["masks"] = True
    others = {name: str(path) for name, path in policies.items() if name != behavior}
    companions = {**spec.kwargs.get("companions", {}), **others}
    return replace(spec, id=spec.id.partition("?")[0], kwargs={**known, "behavior": behavior, "companions": companions})


def own_scene(asked: EnvSpec, policy: str) -> EnvSpec:
    """Return the scene as the policy of a run had it, where the path alone is asked for and is the same.

    Raises:
        UserError: The policy's file is damaged, or its scene has an argument that would be imported.
    """
    file = policy_file(policy)
    if asked.kwargs or file is None:
        return asked
    own = load_policy(file).about.env
    if own is None or own.id != asked.id:
        return asked
    refuse_code(own, policy, asked.id)
    return replace(asked, kwargs=own.kwargs)


def _sees_masks(path: str) -> bool:
    try:
        return MASK in members(load_companion(path).observation_space)
    except UserError:  # it does not say, or what is wrong is said where it is to act
        return False


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
