"""The classic recipe of policy distillation, as its public repository runs it by default: our benchmark's baseline.

Rebuilt here from its published settings (see docs/benchmarks.md), on our loader, environments and parity test, so that
both sides of the comparison are judged alike:

1. the teacher alone acts in one environment until at least 10,000 steps of whole episodes are there;
2. a Gaussian student (ReLU, Xavier weights, one learned deviation per action) takes Adam steps (1e-3) on
   KL(N(teacher's action, 1e-6) || N(student's mean, student's deviation)), each on 1,000 samples drawn from a list of
   pairs and stacked;
3. every 2,500 updates the samples are thrown away and gathered afresh; every 500 updates the student is tested.

``tensors=True`` replaces the list of pairs by two tensors, which separates what the recipe costs from what that one
implementation choice costs.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import EnvSpec
from understudy.envs.make import make
from understudy.evaluation.judge import Judge
from understudy.policies.policy import Policy, PolicyLike
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec
from understudy.policies.weights import named_arrays

SAMPLE_STEPS, BATCH, RECOLLECT, TEST_EVERY, UPDATES, LR = 10_000, 1_000, 2_500, 500, 10_000, 1e-3
TEACHER_STD = 1e-6


@dataclass
class Outcome:
    """What one run came to; seconds are split so that evaluation can be counted or not."""

    parity: bool = False
    ratio: float = 0.0
    env_steps: int = 0
    updates: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"collect": 0.0, "learn": 0.0, "evaluate": 0.0})
    history: list[tuple[int, float]] = field(default_factory=list)
    """(updates, ratio) of every test."""

    @property
    def working(self) -> float:
        """Seconds without evaluation."""
        return self.seconds["collect"] + self.seconds["learn"]


def student_spec(env: Any, hidden: tuple[int, ...]) -> PolicySpec:
    """Describe the recipe's student: raw observations in, unbounded means out."""
    spaces = space_to_json(env.observation_space), space_to_json(env.action_space)
    return PolicySpec(*spaces, "gaussian", hidden=hidden, activation="relu", std="constant")


def sample(env: Any, teacher: PolicyLike, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Gather pairs (observation, teacher's action) over whole episodes, asking the teacher again for the labels."""
    observations: list[np.ndarray] = []
    obs = env.reset([seed]).copy()
    while True:
        action, _ = teacher.predict(obs, deterministic=True)
        observations.append(obs[0].copy())
        step = env.step(action)
        obs = step.obs.copy()
        if (step.terminated | step.truncated)[0] and len(observations) >= SAMPLE_STEPS:
            break
    states = np.stack(observations)
    actions, _ = teacher.predict(states, deterministic=True)
    return [(torch.as_tensor(s, dtype=torch.float32), torch.as_tensor(a)) for s, a in zip(states, actions, strict=True)]


def kl(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """KL(N(action, 1e-6) || N(mean, std)), summed over actions, averaged over the batch."""
    std = log_std.exp().clamp_min(TEACHER_STD)
    per = torch.log(std / TEACHER_STD) + (TEACHER_STD**2 + (action - mean).square()) / (2 * std.square()) - 0.5
    return per.sum(-1).mean()


def run(
    teacher: PolicyLike, spec: EnvSpec, judge: Judge, seed: int, hidden: tuple[int, ...] = (64, 64),
    tensors: bool = False, seconds: float = 600.0,
) -> Outcome:  # fmt: skip
    """Run the recipe until the judge finds parity, 10,000 updates are done, or time is up."""
    env = make(spec, 1)
    random.seed(seed)
    torch.manual_seed(seed)
    student = Policy(student_spec(env, hidden))
    for layer in student.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(student.parameters(), lr=LR)
    outcome, pairs, stacked = Outcome(), [], None
    clock = time.perf_counter
    while outcome.updates < UPDATES and not outcome.parity and outcome.working < seconds:
        begin = clock()
        if outcome.updates % RECOLLECT == 0:
            pairs = sample(env, teacher, seed * 100 + outcome.updates // RECOLLECT)
            stacked = tuple(torch.stack(column) for column in zip(*pairs, strict=True)) if tensors else None
            outcome.env_steps += len(pairs)
            outcome.seconds["collect"] += clock() - begin
            begin = clock()
        for _ in range(TEST_EVERY):
            if stacked is not None:
                index = torch.randint(0, len(pairs), (BATCH,))
                states, actions = (column[index] for column in stacked)
            else:
                states, actions = (torch.stack(column) for column in zip(*random.sample(pairs, BATCH), strict=True))
            mean, log_std = student(states).params.chunk(2, dim=-1)
            loss = kl(mean, log_std, actions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        outcome.updates += TEST_EVERY
        outcome.seconds["learn"] += clock() - begin
        before = judge.seconds
        parity, returns = judge.look({name: a.copy() for name, a in named_arrays(student).items()})
        outcome.seconds["evaluate"] += judge.seconds - before
        outcome.ratio = judge.ratio(returns)
        outcome.parity = parity is not None and parity.passed
        outcome.history.append((outcome.updates, outcome.ratio))
    env.close()
    return outcome
