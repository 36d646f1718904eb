"""A3C seen from the learner's process: workers learn by themselves, here it is only watched, evaluated and saved."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from understudy.data import Array, Rollout
from understudy.errors import UserError
from understudy.execution.base import Arrays, Faults, Setup
from understudy.execution.columns import columns_of
from understudy.execution.pool import Pool
from understudy.execution.restarts import WorkerError
from understudy.learning.behaviours import STUDENT
from understudy.learning.from_rollouts import TrainProgress
from understudy.learning.shared_optimizer import load, shared_shapes
from understudy.learning.teaching import Teaching
from understudy.loop import Metrics, Order
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.collect import Collected
from understudy.settings import TrainSettings

ROLLOUTS = 20
"""Rollouts of a worker between two messages: each costs it a wait of some 0.1 ms."""
_PASSING = ("score", "ended")
"""What the workers share that is not saved; the score is NaN before the first evaluation."""


Lessons = Callable[[Policy], Teaching]


@dataclass(frozen=True)
class Instructions:
    """What ``learning.gradient_worker`` is told."""

    settings: TrainSettings
    lessons: Lessons | None


class SharedGradientExecution:
    """Worker processes that apply gradients to shared weights; see ``execution.base.Execution``."""

    def __init__(self, setup: Setup, policy: Policy, settings: TrainSettings, lessons: Lessons | None = None) -> None:
        """Start the workers.

        Args:
            setup: The run.
            policy: The student.
            settings: Of the run.
            lessons: Fits teachers to each worker's copy of the student.

        Raises:
            UserError: ``lessons`` cannot travel to the workers.
        """
        try:
            pickle.dumps(lessons)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"A3C's workers cannot be told what to teach ({error}): write it as a class or a function at the top "
                "of a module, or take the preset a2c"
            ) from None
        execution = settings.execution
        self.pool = Pool(
            setup,
            columns_of(setup, execution.num_workers),
            timeout=execution.worker_timeout,
            restarts=execution.restarts,
            own_slots=True,
            module="understudy.learning.gradient_worker",
            shared=shared_shapes(policy, execution.num_workers, settings.objective.normalize_reward),
            extra=Instructions(settings, lessons),
        )
        self._told: list[tuple[int, Collected]] = []
        """What workers told that was not asked for yet: two may answer at the same moment."""

    def begin_collect(self, mixture: Mixture, student: Arrays | None, steps: int, restart: int | None = None) -> None:
        """Set every worker going that is not."""
        self.pool.shared["ended"][0] = 0
        for i in range(len(self.pool)):
            if not self.pool.pending(i):
                self.pool.order(i, ("learn", steps, ROLLOUTS, restart))

    def end_collect(self) -> tuple[Rollout, Collected]:
        """Wait for a worker to tell what it did; returns its last rollout."""
        if not self._told:
            self._told = self.pool.answers(range(len(self.pool)))
        worker, info = self._told.pop(0)
        return self.pool.rollouts[worker], self._share(info)

    def settle(self) -> list[Collected]:
        """Let every worker finish the rollout that it is in, and wait; returns what was not told yet."""
        self.pool.shared["ended"][0] = 1
        with suppress(WorkerError):  # whoever fails now is not needed any more
            while busy := [i for i in range(len(self.pool)) if self.pool.pending(i)]:
                self._told += self.pool.answers(busy)
        told, self._told = self._told, []
        return [self._share(info) for _, info in told]

    def _share(self, info: Collected) -> Collected:
        """Return what one worker told with its part of the time: meanwhile the others made as many steps."""
        names = ("env_seconds", "act_seconds", "learn_seconds")
        return replace(info, **{name: getattr(info, name) / len(self.pool) for name in names})

    @property
    def faults(self) -> Faults:
        """What went wrong so far."""
        return Faults(self.pool.restarts.used, self.pool.restarts.lost_episodes)

    def close(self) -> None:
        """End the workers."""
        self.pool.close()


class SharedWeights:
    """The weights that the workers move, with the interface of a learner."""

    def __init__(self, policy: Policy, shared: dict[str, Array], optimizer: str) -> None:
        self.policy, self._shared, self._optimizer = policy, shared, optimizer
        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        shared["parameters"][:] = torch.nn.utils.parameters_to_vector(self._parameters).detach().numpy()

    def weights(self) -> dict[str, Array]:
        """Return the weights of this moment; workers may be writing."""
        load(self._parameters, torch.from_numpy(self._shared["parameters"]))
        return named_arrays(self.policy)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what the workers share."""
        arrays = {name: array for name, array in self._shared.items() if name not in _PASSING} | self.weights()
        return {name: array.copy() for name, array in arrays.items()}, {"shared_optimizer": self._optimizer}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``; counters of workers that are no more go to the first.

        Raises:
            UserError: It is not of A3C, or of another optimiser.
        """
        if "parameters" not in arrays:
            raise UserError("the run did not learn by shared gradients: resume without execution.shared_gradients")
        learnt = data.get("shared_optimizer", self._optimizer)  # older checkpoints do not say
        if learnt != self._optimizer:
            raise UserError(f"the run learnt with {learnt}: resume it without changing update.optimizer")
        for name, array in self._shared.items():
            if name in ("env_steps", "updates", "still"):
                array[:] = 0
                array[0] = arrays[name].sum(axis=0) if name in arrays else 0  # "still" is younger than some checkpoints
            elif name == "reward_scale":
                # Workers that are more than there were begin with what others know.
                array[:] = np.resize(arrays[name], array.shape) if name in arrays else 0
            elif name not in _PASSING:
                array[:] = arrays[name]

    def count(self, progress: TrainProgress, arrays: Mapping[str, Array] | None = None) -> None:
        """Take over what the workers have learnt from by now, or by the time of ``state``, told or not."""
        counters = self._shared if arrays is None else arrays
        progress.env_steps, progress.updates = (int(counters[name][:, 0].sum()) for name in ("env_steps", "updates"))

    def note_score(self, score: float) -> None:
        """Tell the workers how the student did in its last evaluation."""
        self._shared["score"][0] = score


class FromGradients:
    """One round of A3C; see ``loop.Learning``."""

    def __init__(self, weights: SharedWeights, steps: int, progress: TrainProgress) -> None:
        self._weights, self._steps, self._progress = weights, steps, progress

    def order(self) -> Order:
        """Let every worker go on."""
        self._weights.note_score(self._progress.score)
        restart, self._progress.restart = self._progress.restart, None
        return Order(STUDENT, None, self._steps, restart)

    def meanwhile(self) -> Metrics:
        """Nothing: the workers learn."""
        return {}

    def learn(self, rollout: Rollout, info: Collected) -> Metrics:
        """Tell what a worker did."""
        self._weights.count(self._progress)
        metrics: Metrics = dict(info.metrics)
        del metrics["updates"]  # of one worker
        return metrics | self._progress.note(info)
