"""Gradient steps of MLP actor-critics by the hand-derived kernel; see ``learning.updater``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from understudy.data import Array, Rollout, Target, flatten_time
from understudy.learning.actor_critic_terms import entropy_schedule
from understudy.learning.updater import Columns
from understudy.objectives.actor_critic_kernel import ActorCriticKernel, More
from understudy.objectives.adam_states import as_vectors
from understudy.objectives.batch import Batch
from understudy.objectives.output_terms import OutputTerms, TeacherTerm
from understudy.policies.policy import Policy, as_tensors
from understudy.policies.tape import Tape
from understudy.settings.train import ObjectiveSettings, UpdateSettings


class KernelUpdater:
    """MLP actor-critics by the hand-derived kernel."""

    def __init__(
        self,
        policy: Policy,
        objective: ObjectiveSettings,
        update: UpdateSettings,
        most: int,
        taught: Sequence[TeacherTerm] = (),
    ) -> None:
        """Build the kernel.

        Args:
            policy: Learns in place.
            objective: Which terms there are.
            update: How steps are taken.
            most: Samples of a step, at most.
            taught: What teachers add, of those that ``output_terms`` supports.
        """
        self._policy = policy
        self._taught = OutputTerms(policy, taught) if taught else None
        self._targets: list[dict[str, Array] | None] = []
        self._kernel = ActorCriticKernel.from_policy(
            policy,
            most,
            clip=objective.clip or None,
            value_clip=objective.value_clip or None,
            value_weight=objective.value_weight,
            max_grad_norm=update.max_grad_norm or None,
            normalize_advantage=objective.normalize_advantage,
            eps=update.eps,
        )
        self._entropy_weight = entropy_schedule(objective)

    def load(self, rollout: Rollout, tape: Tape | None = None) -> None:
        """Encode the observations once for all epochs; no tape holds these networks."""
        assert rollout.trace is not None
        self._shape, self._trace = rollout.shape, rollout.trace
        with torch.no_grad():
            self._x = self._policy.encode(as_tensors(flatten_time(rollout.obs))).numpy()
        self._choice = np.reshape(rollout.trace.choice, (len(self._x), *rollout.trace.choice.shape[2:]))

    def teach(self, labels: Sequence[Mapping[str, Array] | None], own: Array | None = None) -> None:
        """See ``Updater``."""
        assert own is None, "the kernel counts every state"
        flat = len(self._x)
        self._targets = [
            None if said is None else {name: np.reshape(c, (flat, *c.shape[2:])) for name, c in said.items()}
            for said in labels
        ]

    def params(self) -> Array:
        """See ``Updater``."""
        return self._kernel.params(self._x).reshape(*self._shape, -1)

    def evaluate(self) -> tuple[Array, Array, Array]:
        """See ``Updater``."""
        log_prob, value = self._kernel.evaluate(self._x, self._choice)
        with torch.no_grad():
            last = self._policy.encode(as_tensors(self._trace.last_obs)).numpy()
        return log_prob.reshape(self._shape), value.reshape(self._shape), self._kernel.values(last)

    def arrange(self, columns: Columns, order: Array | None) -> None:
        """See ``Updater``."""
        arrays = [self._x, self._choice, *(np.ravel(column) for column in columns)]
        self._arranged = arrays if order is None else [array[order] for array in arrays]
        self._arranged_targets = [
            said if said is None or order is None else {name: column[order] for name, column in said.items()}
            for said in self._targets
        ]

    def step(self, begin: int, end: int, lr: float, env_steps: int) -> None:
        """See ``Updater``."""
        part = [array[begin:end] for array in self._arranged]
        more = None if self._taught is None else self._more(self._taught, begin, end, env_steps)
        self._kernel.step(*part, lr=lr, entropy_weight=self._entropy_weight.value(env_steps), more=more)

    def _more(self, taught: OutputTerms, begin: int, end: int, env_steps: int) -> More:
        """Return the slopes of the teachers' terms in the samples ``begin`` to ``end``."""
        _, choice, log_prob = (torch.from_numpy(array[begin:end]) for array in self._arranged[:3])
        targets = tuple(
            None if said is None else Target(**{name: torch.from_numpy(c[begin:end]) for name, c in said.items()})
            for said in self._arranged_targets
        )
        batch = Batch(None, action=choice, log_prob=log_prob, targets=targets)
        return partial(taught.slopes, batch=batch, env_steps=env_steps)

    def approx_kl(self) -> float:
        """See ``Updater``."""
        return self._kernel.approx_kl

    def metrics(self) -> dict[str, float]:
        """See ``Updater``."""
        found = self._kernel.metrics()
        if self._taught is None or not found:
            return found
        taught = self._taught.metrics()
        return found | taught | {"loss": found["loss"] + taught["loss"]}

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """See ``Updater``."""
        return self._kernel.state()

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """See ``Updater``; what autograd saved is taken over."""
        kernel = self._kernel
        kernel.restore(*as_vectors(self._policy, kernel.named, kernel.parameters, arrays, data))
