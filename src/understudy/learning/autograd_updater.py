"""Gradient steps of any actor-critic through PyTorch; see ``learning.updater``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, Rollout, Target, flatten_time, map_obs
from understudy.learning.actor_critic_terms import actor_critic_terms
from understudy.learning.updater import Columns
from understudy.objectives.adam_states import by_parameter
from understudy.objectives.batch import Batch
from understudy.objectives.objective import Objective, Term, unit_output
from understudy.objectives.optimizers import Adam, Optimizer, RMSprop
from understudy.policies import distributions
from understudy.policies.pictures import laid_out, rows
from understudy.policies.policy import Policy, on_device
from understudy.policies.tape import Tape
from understudy.settings.train import ObjectiveSettings, UpdateSettings


class AutogradUpdater:
    """Any policy through PyTorch, on the CPU or a GPU."""

    def __init__(
        self,
        policy: Policy,
        objective: ObjectiveSettings,
        update: UpdateSettings,
        device: str,
        optimizer: Optimizer | None = None,
        terms: Sequence[Term] | None = None,
        warm_up: int = 0,
    ) -> None:
        """Move the policy to the device.

        Args:
            policy: Learns in place.
            objective: Which terms there are.
            update: How steps are taken.
            device: Where.
            optimizer: In the place of the one that the settings name.
            terms: In the place of those that the settings name.
            warm_up: Env steps before which only the value function's own layers learn.
        """
        self._policy, self._update, self._device = policy.to(device), update, torch.device(device)
        self._recurrent = policy.lstm is not None
        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        self._optimizer: Optimizer
        if optimizer is not None:
            self._optimizer = optimizer
        elif update.optimizer == "adam":
            self._optimizer = Adam(self._parameters, update.eps)
        else:
            self._optimizer = RMSprop(self._parameters, update.decay, update.eps)
        self.objective = Objective(actor_critic_terms(objective) if terms is None else terms)
        self._warm_up = warm_up
        self._actor = [p for name, p in policy.named_parameters() if not name.startswith("value_")]
        self._targets: list[dict[str, Tensor] | None] = []
        self._own: Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counted = 0

    def _precision(self) -> Any:
        bf16 = self._update.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16) if bf16 else nullcontext()

    def _move(self, array: Array) -> Tensor:
        return on_device(array, self._device)

    def load(self, rollout: Rollout, tape: Tape | None = None) -> None:
        """Bring the rollout to the device once for all epochs."""
        self._tape = tape
        assert rollout.trace is not None
        trace, flat = rollout.trace, not self._recurrent
        self._shape, self._rollout = rollout.shape, rollout
        obs = flatten_time(rollout.obs) if flat else rollout.obs
        self._obs = laid_out(self._policy.spec, map_obs(self._move, obs))
        choice = np.reshape(trace.choice, (-1, *trace.choice.shape[2:])) if flat else trace.choice
        self._choice = self._move(choice)
        self._starts = None if flat else torch.from_numpy(rollout.episode_start)  # on the CPU, see ``remember``
        self._state = None if flat else unpack_state(self._policy, self._move(trace.state))

    def teach(self, labels: Sequence[Mapping[str, Array] | None], own: Array | None = None) -> None:
        """See ``Updater``."""
        size = (-1,) if not self._recurrent else self._shape
        self._own = None if own is None else self._move(np.reshape(own, size).astype(np.float32))
        self._targets = [
            None
            if columns is None
            else {n: self._move(np.reshape(c, (*size, *c.shape[2:]))) for n, c in columns.items()}
            for columns in labels
        ]

    @torch.no_grad()
    def evaluate(self) -> tuple[Array, Array, Array]:
        """See ``Updater``."""
        trace = self._rollout.trace
        assert trace is not None
        last = map_obs(self._move, trace.last_obs)
        with self._precision():
            if self._recurrent:
                output = unit_output(self._policy, Batch(self._obs, None, self._state, self._starts))
                after = map_obs(lambda a: a[None], last)
                value = self._policy(after, output.state, torch.from_numpy(trace.last_start[None])).value
                last_value = value[0]
                params, values = output.params, output.value
            else:
                output = unit_output(self._policy, Batch(self._obs))
                params, values = output.params, output.value
                last_value = self._policy(last).value
        log_prob = distributions.log_prob(self._policy.family, params.float(), self._choice)
        arrays = [log_prob, values, last_value]
        log_prob_, value_, last_ = (a.float().cpu().numpy() for a in arrays if a is not None)
        return log_prob_.reshape(self._shape), value_.reshape(self._shape), last_

    @torch.no_grad()
    def params(self) -> Array:
        """See ``Updater``."""
        with self._precision():
            output = unit_output(self._policy, Batch(self._obs, None, self._state, self._starts))
        return output.params.cpu().numpy().reshape(*self._shape, -1)

    def arrange(self, columns: Columns, order: Array | None) -> None:
        """See ``Updater``."""
        flat = not self._recurrent
        self._columns = [self._move(np.ravel(column) if flat else column) for column in columns]
        self._orders = {} if order is None else {"cpu": torch.from_numpy(order), self._device.type: self._move(order)}

    def _take(self, tensor: Tensor, begin: int, end: int) -> Tensor:
        dim = 1 if self._recurrent else 0
        if not self._orders:
            return tensor.narrow(dim, begin, end - begin)
        return rows(tensor, dim, self._orders[tensor.device.type][begin:end])

    def step(self, begin: int, end: int, lr: float, env_steps: int) -> None:
        """See ``Updater``."""

        def take(tensor: Tensor) -> Tensor:
            return self._take(tensor, begin, end)

        state = None if self._state is None else (take(self._state[0]), take(self._state[1]))
        starts = None if self._starts is None else take(self._starts)
        log_prob, advantage, target, old = (take(column) for column in self._columns)
        batch = Batch(
            map_obs(take, self._obs), None, state, starts,
            action=take(self._choice), log_prob=log_prob, advantage=advantage, target_value=target, old_value=old,
            own=None if self._own is None else take(self._own),
            targets=tuple(
                None if columns is None else Target(**{name: take(column) for name, column in columns.items()})
                for columns in self._targets
            ),
            tape=self._tape,
        )  # fmt: skip
        self._tape = None  # the weights of the next step are others
        with self._precision():
            loss, parts = self.objective(self._policy, batch, env_steps)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if env_steps < self._warm_up:
            for parameter in self._actor:
                parameter.grad = None  # optimisers skip it, moments and all
        limit = self._update.max_grad_norm or float("inf")
        parts["grad_norm"] = torch.nn.utils.clip_grad_norm_(self._parameters, limit, foreach=True)
        self._optimizer.step(lr)
        self._last_kl = parts.get("approx_kl")
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach().clone()
        self._counted += 1

    def approx_kl(self) -> float:
        """See ``Updater``."""
        return 0.0 if self._last_kl is None else float(self._last_kl)

    def metrics(self) -> dict[str, float]:
        """See ``Updater``."""
        means = {name: float(total) / max(self._counted, 1) for name, total in self._sums.items()}
        self._sums, self._counted = {}, 0
        return means

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """See ``Updater``."""
        return self._optimizer.state(), {}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """See ``Updater``; what the kernel saved is taken over."""
        self._optimizer.restore(by_parameter(self._policy, arrays, data))


def unpack_state(policy: Policy, packed: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 2 * layers * width] -> h and c, [layers, B, width] each; see ``rollouts.behaviour.pack_state``."""
    layers, width = policy.spec.lstm_layers, policy.spec.lstm
    h, c = packed.view(len(packed), 2, layers, width).permute(1, 2, 0, 3).contiguous()
    return h, c
