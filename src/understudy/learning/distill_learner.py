"""The learner: samples of the dataset in, better weights out.

Two peers behind one interface: ``KernelLearner`` runs the hand-derived gradient of ``objectives.mlp_kernel``,
``AutogradLearner`` runs everything else through PyTorch. They give the same weights within float tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array, Target, map_obs, with_prefix
from understudy.errors import UserError
from understudy.objectives.adam_states import as_vectors, from_vectors, in_order
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.mlp_kernel import MLPKernel, supports
from understudy.objectives.objective import Objective, PolicyTransfer, Term, ValueTransfer
from understudy.objectives.optimizers import Adam
from understudy.objectives.schedules import Constant, Schedule, parse
from understudy.policies.family import Family
from understudy.policies.policy import Policy
from understudy.policies.weights import load_arrays, named_arrays
from understudy.rollouts.dataset import Dataset
from understudy.settings import DistillSettings, LearningSettings


class Learner(Protocol):
    """Fits the student to the dataset."""

    def update(self, dataset: Dataset, updates: int, env_steps: int) -> dict[str, float]:
        """Take ``updates`` gradient steps; returns metrics, the loss among them.

        Raises:
            UserError: The loss is not finite.
        """

    def weights(self) -> dict[str, Array]:
        """Return the student's arrays, averaged where averaging is on: what acts, is evaluated and saved."""

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays and JSON-able data from which ``restore`` goes on exactly."""

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""


class _Average:
    """Running average of one parameter vector, without the bias towards its start (as Adam's moments have)."""

    def __init__(self, decay: float, vector: Tensor) -> None:
        self.decay, self.count = decay, 0
        self.vector = torch.zeros_like(vector) if decay else vector

    def add(self, vector: Tensor) -> None:
        """Take the parameters after one more update."""
        if self.decay:
            self.count += 1
            self.vector.lerp_(vector, (1 - self.decay) / (1 - self.decay**self.count))


def _finite(loss: float, env_steps: int) -> float:
    if not np.isfinite(loss):
        raise UserError(
            f"the distillation loss is {loss} after {env_steps} env steps: lower learning.lr or set "
            "learning.max_grad_norm; the last checkpoint is intact"
        )
    return loss


class KernelLearner:
    """Fits an MLP student by the hand-derived kernel; features and targets are kept ready for it."""

    def __init__(
        self, student: Policy, teacher: Family, distance: Distance, settings: LearningSettings, lr: Schedule, seed: int
    ) -> None:
        self._student, self._settings, self._lr = student, settings, lr
        self._kernel = MLPKernel.from_policy(
            student, teacher, distance, settings.batch_size, max_grad_norm=settings.max_grad_norm or None
        )
        self._average = _Average(settings.average, self._kernel.parameters)
        self._rng = np.random.default_rng((seed, 2))
        self._x, self._y, self._known = torch.zeros(0), torch.zeros(0), 0

    def _prepare(self, dataset: Dataset) -> None:
        """Bring features and targets up to date with the samples added since the last call."""
        if self._known == dataset.added:
            return
        fresh = dataset.added - self._known
        end = (dataset.added - 1) % dataset.capacity + 1
        where = slice(0, dataset.size) if fresh > end or not len(self._x) else slice(end - fresh, end)
        with torch.no_grad():
            obs = map_obs(torch.as_tensor, dataset.observations(where))
            x = self._student.encode(obs)
            y = self._kernel.prepare(torch.as_tensor(dataset.columns["params"][where]))
        if not len(self._x):
            self._x, self._y = (torch.zeros(dataset.capacity, a.shape[1]) for a in (x, y))
        self._x[where], self._y[where] = x, y
        self._known = dataset.added

    def update(self, dataset: Dataset, updates: int, env_steps: int) -> dict[str, float]:
        """Take ``updates`` gradient steps; see ``Learner``."""
        self._prepare(dataset)
        kernel, lr, size = self._kernel, self._lr.value(env_steps), dataset.size
        batch = min(self._settings.batch_size, size)
        for _ in range(updates):
            index = torch.from_numpy(self._rng.integers(0, size, batch))
            kernel.step(self._x.index_select(0, index), self._y.index_select(0, index), lr)
            self._average.add(kernel.parameters)
        return {"loss": _finite(kernel.loss(), env_steps), "lr": lr}

    def weights(self) -> dict[str, Array]:
        """Return the student's arrays; see ``Learner``."""
        arrays = {name: array.copy() for name, array in named_arrays(self._student).items()}
        if self._average.decay and self._average.count:
            arrays |= self._kernel.named(self._average.vector)
        return arrays

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return everything; see ``Learner``."""
        arrays, data = self._kernel.state()
        arrays = {**named_arrays(self._student), **{f"kernel:{name}": a for name, a in arrays.items()}}
        arrays["average"] = self._average.vector.numpy()
        return arrays, {"kernel": data, "average": self._average.count, "rng": self._rng.bit_generator.state}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``; the normaliser's statistics come with the student's arrays."""
        load_arrays(self._student, arrays)
        own, counts = with_prefix(arrays, "kernel:"), data.get("kernel", {})
        if not own:  # autograd learnt until now
            named, params = partial(in_order, self._student), self._kernel.parameters.numpy()
            own, counts = as_vectors(self._student, named, params, with_prefix(arrays, "adam:"), data)
        self._kernel.restore(own, counts)
        self._average.count = data["average"]
        if self._average.decay:
            self._average.vector.copy_(torch.as_tensor(arrays["average"]))
        self._rng.bit_generator.state = data["rng"]


class AutogradLearner:
    """Fits any student through PyTorch's autograd: CNNs, LSTMs, value functions, every distance."""

    def __init__(
        self, student: Policy, objective: Objective, settings: LearningSettings, lr: Schedule, seed: int, device: str
    ) -> None:
        self._student, self._objective, self._settings, self._lr = student.to(device), objective, settings, lr
        self._device = torch.device(device)
        self._parameters = [p for p in student.parameters() if p.requires_grad]
        self._optimizer = Adam(self._parameters)
        self._average = _Average(settings.average, self._vector())
        self._rng = np.random.default_rng((seed, 2))

    def _vector(self) -> Tensor:
        return torch.nn.utils.parameters_to_vector(self._parameters).detach()

    def _batch(self, dataset: Dataset) -> Batch:
        """Sample states, or whole sequences [T, B] for students with memory; their first steps only warm it up."""
        index = dataset.indices(self._rng, min(self._settings.batch_size, dataset.size))
        recurrent = dataset.window > 1
        index = index.T if recurrent else index[:, 0]

        def take(column: Array) -> Tensor:
            return torch.as_tensor(column[index]).to(self._device)

        columns = dataset.columns
        obs = map_obs(lambda a: torch.as_tensor(a).to(self._device), dataset.observations(index))
        target = Target(take(columns["params"]), take(columns["value"]) if "value" in columns else None)
        mask = take(columns["mask"]) if "mask" in columns else None
        if not recurrent:
            return Batch(obs, target, mask=mask)
        starts = torch.as_tensor(columns["episode_start"][index])  # on the CPU, see ``remember``
        # What happened before the sequence is unknown: steps before the memory is warm count only if it began afresh.
        warm = torch.arange(len(index))[:, None] >= self._settings.burn_in
        valid = (warm | (starts.cumsum(dim=0) > 0)).float().to(self._device)
        state = self._student.initial_state(index.shape[1])
        return Batch(obs, target, state, starts, valid, mask)

    def update(self, dataset: Dataset, updates: int, env_steps: int) -> dict[str, float]:
        """Take ``updates`` gradient steps; see ``Learner``."""
        lr, total = self._lr.value(env_steps), torch.zeros((), device=self._device)
        parts: dict[str, Tensor] = {}
        self._student.train()
        for _ in range(updates):
            loss, parts = self._objective(self._student, self._batch(dataset), env_steps)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self._settings.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm, foreach=True)
            self._optimizer.step(lr)
            total += loss.detach()
            if self._average.decay:
                self._average.add(self._vector())
        self._student.eval()
        mean = _finite(float(total) / max(updates, 1), env_steps)
        return {name: float(part) for name, part in parts.items()} | {"loss": mean, "lr": lr}

    def weights(self) -> dict[str, Array]:
        """Return the student's arrays; see ``Learner``."""
        arrays = {name: array.copy() for name, array in named_arrays(self._student).items()}
        if self._average.decay and self._average.count:
            arrays |= in_order(self._student, self._average.vector.cpu().numpy())
        return arrays

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return everything; see ``Learner``."""
        arrays = named_arrays(self._student)
        arrays |= {f"adam:{name}": array for name, array in self._optimizer.state().items()}
        arrays["average"] = self._average.vector.cpu().numpy()
        return arrays, {"average": self._average.count, "rng": self._rng.bit_generator.state}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        load_arrays(self._student, arrays)
        own = with_prefix(arrays, "adam:")
        if "kernel" in data:  # it learnt until now
            named = partial(in_order, self._student)
            own = from_vectors(self._student, named, with_prefix(arrays, "kernel:"), data["kernel"])
        self._optimizer.restore(own)
        self._average.count = data["average"]
        if self._average.decay:
            self._average.vector.copy_(torch.as_tensor(arrays["average"]))
        self._rng.bit_generator.state = data["rng"]


def make_learner(
    student: Policy, teacher: Family, distance: Distance, settings: DistillSettings, masked: bool = False
) -> Learner:
    """Return the hand-derived learner where it covers the student and the distance, else the general one.

    Raises:
        UserError: The learning rate is no schedule.
    """
    lr = parse(settings.learning.lr, "learning.lr", settings.stop.env_steps)
    fast = settings.learning.kernel and settings.device == "cpu" and not masked
    if fast and supports(student.spec, teacher, distance):
        return KernelLearner(student, teacher, distance, settings.learning, lr, settings.seed)
    terms: list[Term] = [PolicyTransfer(distance, teacher)]
    if settings.student.value:
        terms.append(ValueTransfer(Constant(settings.student.value_weight), normalize=True))
    return AutogradLearner(student, Objective(terms), settings.learning, lr, settings.seed, settings.device)
