"""Does the student do what its teacher does? Asked in the states that the student itself gets into.

In the teacher's states a student may look perfect and still fail: what counts is what it does where its own small
errors have led it (Ross 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, Observation, map_obs
from understudy.env_names import EnvLike
from understudy.errors import UserError
from understudy.evaluation.contestants import resolve
from understudy.evaluation.evaluate import play_out
from understudy.objectives.distances import Distance
from understudy.policies import distributions
from understudy.policies.family import ActionMap, Family
from understudy.policies.policy import PolicyLike
from understudy.rollouts.episodes import Visit

TOLERANCE = 0.05
"""Continuous actions agree where they differ by at most this share of the range."""


@dataclass(frozen=True)
class Agreement:
    """How alike two policies act.

    Attributes:
        share: Discrete: share of states with the same deterministic action (in all parts). Continuous: share of action
            components within 5 % of the range, as executed.
        difference: Continuous: mean absolute difference of unit actions (-1 and 1 are the bounds); None if discrete.
        kl: Mean KL(teacher || student) in nats, where both are distributions of the same family; otherwise None. A file
            for Unity holds none.
        states: How many states it was measured in.
    """

    share: float
    difference: float | None
    kl: float | None
    states: int


@dataclass(frozen=True)
class Visited:
    """States of whole waves of episodes.

    Attributes:
        obs: [T, B, ...]; waves stand one after another along T.
        episode_start: [T, B] bool.
        valid: [T, B] bool: the row's episode was going on.
    """

    obs: Observation
    episode_start: Array
    valid: Array


class StateRecorder:
    """Keeps states of ``run_episodes``, as its ``on_step``.

    When there are too many, every second is dropped and from then on every second kept, so that they stay spread over
    all episodes evenly. With ``whole_sequences``, for policies with a memory, nothing may be left out inside of an
    episode, so it keeps the first ones instead.
    """

    def __init__(self, max_states: int = 8192, whole_sequences: bool = False) -> None:
        self._limit, self._whole = max_states, whole_sequences
        self._every, self._seen, self._count = 1, 0, 0
        self._kept: list[tuple[Observation, Array, Array]] = []

    def __call__(self, visit: Visit) -> None:
        """Keep the state, or not."""
        due = self._seen % self._every == 0
        self._seen += 1
        if not due or (self._whole and self._count >= self._limit):
            return
        start = np.full(len(visit.active), visit.step == 0) if visit.starts is None else visit.starts
        self._kept.append((map_obs(np.copy, visit.obs), start, visit.active.copy()))
        self._count += int(visit.active.sum())
        if self._count > self._limit and not self._whole and len(self._kept) > 1:
            self._kept, self._every = self._kept[::2], 2 * self._every
            self._count = int(sum(valid.sum() for _, _, valid in self._kept))

    def visited(self) -> Visited:
        """Return what was kept.

        Raises:
            UserError: Nothing was.
        """
        if not self._kept:
            raise UserError("agreement needs states, but no episode was played")
        observations, starts, valid = zip(*self._kept, strict=True)
        first = observations[0]
        if isinstance(first, dict):
            obs: Any = {key: np.stack([o[key] for o in observations]) for key in first}
        else:
            obs = np.stack(observations)
        return Visited(obs, np.stack(starts), np.stack(valid))


def has_memory(policy: Any) -> bool:
    """Whether a policy keeps a recurrent state."""
    return getattr(policy, "initial_state", None) is not None and policy.initial_state(1) is not None


def label_visited(policy: PolicyLike, visited: Visited) -> Tensor:
    """Return the policy's parameters [N, P] in the N valid states, in one call.

    A policy with a memory lives through the sequences with a state of its own.
    """
    steps, envs = visited.valid.shape
    if has_memory(policy):
        target, _ = policy.label(visited.obs, policy.initial_state(envs), visited.episode_start)
        params = target.params.reshape(steps, envs, -1)[torch.as_tensor(visited.valid)]
    else:
        target, _ = policy.label(map_obs(lambda a: a[visited.valid], visited.obs))
        params = target.params
    return params.detach().cpu().float()


def agreement(teacher: PolicyLike, student: PolicyLike, visited: Visited) -> Agreement:
    """Compare two policies in given states, usually the student's.

    Raises:
        UserError: Their actions are of different kinds or sizes.
    """
    ours, theirs = label_visited(student, visited), label_visited(teacher, visited)
    found = compare_params(teacher.family, theirs, student.family, ours, student.action_space)
    return replace(found, kl=None) if any(getattr(one, "acts_only", False) for one in (teacher, student)) else found


def compare_params(
    teacher: Family, teacher_params: Tensor, student: Family, student_params: Tensor, space: gym.Space[Any]
) -> Agreement:
    """[N, P] parameters of both in the same N states -> how alike the policies are; a pure function.

    Raises:
        UserError: Their actions are of different kinds or sizes.
    """
    if teacher.continuous != student.continuous or teacher.sizes != student.sizes:
        raise UserError(
            f"a {teacher.name} policy with actions {list(teacher.sizes)} and a {student.name} one with "
            f"{list(student.sizes)} cannot agree"
        )
    first, second = distributions.mode(teacher, teacher_params), distributions.mode(student, student_params)
    difference = None
    if student.continuous:
        # As executed: beyond a bound all actions are the same.
        low = torch.as_tensor(ActionMap(space).unit_low)
        gap = (torch.clamp(first, low, -low) - torch.clamp(second, low, -low)).abs()
        share, difference = float((gap <= 2 * TOLERANCE).float().mean()), float(gap.mean())
    else:
        same = (first == second).reshape(len(first), -1).all(dim=1)
        share = float(same.float().mean())
    return Agreement(share, difference, _kl(teacher, teacher_params, student, student_params), len(first))


def _kl(teacher: Family, teacher_params: Tensor, student: Family, student_params: Tensor) -> float | None:
    if teacher.name != student.name or not teacher.stochastic:
        return None
    return float(Distance("forward_kl")(teacher, teacher_params, student, student_params).mean())


def measure_agreement(
    teacher: Any,
    student: Any,
    env: EnvLike | None = None,
    episodes: int = 10,
    seed: int = 0,
    num_envs: int = 8,
    max_states: int = 8192,
) -> Agreement:
    """Run the student, and compare it with its teacher in the states it got into.

    Args:
        teacher: A path or a policy.
        student: A path or a policy.
        env: Where the student plays; the environment it was made for by default.
        episodes: Of the student.
        seed: Of the first episode.
        num_envs: Environments stepped together.
        max_states: How many states are compared at most, about.

    Raises:
        UserError: A policy cannot be found or cannot be asked for its distribution, or they do not fit.
    """
    contestant = resolve(student, env)
    reference = resolve(teacher, contestant.env)
    for one in (contestant, reference):
        if not isinstance(one.policy, PolicyLike):
            raise UserError(f"{one.name} only acts; agreement needs its action distribution (understudy.load gives it)")
    assert isinstance(contestant.policy, PolicyLike) and isinstance(reference.policy, PolicyLike)
    recorder = StateRecorder(max_states, has_memory(contestant.policy) or has_memory(reference.policy))
    play_out(contestant, episodes, seed, num_envs, on_step=recorder)
    return agreement(reference.policy, contestant.policy, recorder.visited())
