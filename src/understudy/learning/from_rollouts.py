"""Reinforcement learning: every rollout is learnt from once it is there, then forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from understudy.data import Rollout
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.behaviours import STUDENT
from understudy.loop import Metrics, Order, Progress
from understudy.rollouts.collect import Collected


@dataclass
class TrainProgress(Progress):
    """How far training is."""

    episodes: int = 0
    restarts: int = 0
    """Simulators that their environments replaced."""
    lost_episodes: int = 0
    """Unfinished episodes that went with them."""
    checkpoints: int = 0
    restart: int | None = None
    """Number of the checkpoint whose seeds the next rollout begins with."""
    next_checkpoint: int = 0
    """Env steps of the next checkpoint."""
    next_evaluation: int = 0
    """Env steps of the next evaluation."""
    score: float = float("nan")
    """Mean return of the last evaluation."""
    best: float = -np.inf
    """Of all of them."""
    env_seconds: dict[str, float] = field(default_factory=lambda: {"env": 0.0, "inference": 0.0})
    """Wall seconds of the slowest worker in its environments and in choosing actions; ``gradient``: of workers that
    learn themselves."""
    spent: dict[str, float] = field(default_factory=lambda: {"total": 0.0, "evaluate": 0.0})
    """Wall seconds of the processes that the run was in before this one, of which nothing else here tells."""

    def note(self, info: Collected) -> Metrics:
        """Count what was gathered; returns metrics of the episodes that ended."""
        self.episodes += len(info.returns)
        self.env_seconds["env"] += info.env_seconds
        self.env_seconds["inference"] += info.act_seconds
        if info.learn_seconds:
            self.env_seconds["gradient"] = self.env_seconds.get("gradient", 0.0) + info.learn_seconds
        self.restarts += info.restarts
        self.lost_episodes += info.lost_episodes
        scene = {f"scene/{name}": value for name, value in info.scene.items()}
        if not info.returns:
            return scene
        return scene | {"training_return": float(np.mean(info.returns)), "episode_length": float(np.mean(info.lengths))}


@dataclass
class FromRollouts:
    """One round of reinforcement learning; see ``loop.Learning``."""

    learner: ActorCritic
    steps: int
    progress: TrainProgress

    def order(self) -> Order:
        """Let the student act by its own distribution, and a teacher where teaching wants it."""
        restart, self.progress.restart = self.progress.restart, None
        teaching = self.learner.teaching
        mixture = STUDENT if teaching is None else teaching.mixture(self.progress.env_steps)
        return Order(mixture, self.learner.weights(), self.steps, restart)

    def meanwhile(self) -> Metrics:
        """Nothing: the rollout is what there is to learn from."""
        return {}

    def learn(self, rollout: Rollout, info: Collected) -> Metrics:
        """Update the student by the rollout."""
        progress = self.progress
        teaching, before = self.learner.teaching, progress.env_steps - info.env_steps
        if teaching is not None:
            teaching.note_score(progress.score)
        metrics: Metrics = dict(self.learner.update(rollout, before, info.lag == 0))
        if teaching is not None and teaching.acting is not None:
            metrics |= {"teacher_acted": float(rollout.teacher_acted.mean()), "jump": teaching.mixture(before).jump}
        progress.updates += int(metrics.pop("updates"))
        return metrics | {"lag": info.lag} | progress.note(info)
