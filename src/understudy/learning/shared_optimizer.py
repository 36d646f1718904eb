"""Parameters and optimiser statistics in shared memory, updated by many processes without locks (Recht 2011, Hogwild).

A3C's workers each compute gradients of their own weights and apply them to the shared ones; what two of them write at
the same moment may be lost, which is rare where updates are small and far between (Mnih 2016, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from understudy.data import Array

BETA1, BETA2 = 0.9, 0.999


def shared_shapes(policy: nn.Module, workers: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the arrays that the workers share: parameters, two statistics of each, and counters of each worker."""
    size = sum(p.numel() for p in policy.parameters())
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        n: ((size,), "float32") for n in ("parameters", "first", "second")
    }
    # One row for each worker, on a cache line of its own: nobody else writes there, so nothing is lost.
    return shapes | {"env_steps": ((workers, 8), "int64"), "updates": ((workers, 8), "int64")}


def load(parameters: Iterable[Tensor], vector: Tensor) -> None:
    """Copy a vector into parameters."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(vector.clone(), parameters)


class SharedOptimizer(torch.optim.Optimizer):
    """RMSprop or Adam with shared statistics (Mnih 2016, section 4, eq. 8 and 9; Kingma 2015, algorithm 1).

    The gradients of local parameters move the shared vector; the local ones stay as they are until they are loaded
    again. Adam's bias correction counts the updates of all workers.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        shared: Mapping[str, Array],
        number: int,
        kind: str,
        eps: float,
        decay: float,
    ) -> None:
        self._local = list(parameters)
        super().__init__(self._local, {"lr": 0.0})
        self._vector, self._first, self._second = (
            torch.from_numpy(shared[name]) for name in ("parameters", "first", "second")
        )
        self._updates, self._number = shared["updates"], number
        self._kind, self._eps, self._decay = kind, eps, decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the local gradients to the shared parameters."""
        grad = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in self._local])
        if not bool(grad.isfinite().all()):
            return  # never into the shared weights, which others learn from and which are saved; the learner names it
        lr = self.param_groups[0]["lr"]
        self._updates[self._number, 0] += 1
        if self._kind == "rmsprop":
            self._second.mul_(self._decay).addcmul_(grad, grad, value=1 - self._decay)
            self._vector.addcdiv_(grad, self._second.sqrt().add_(self._eps), value=-lr)
            return
        count = int(self._updates[:, 0].sum())
        self._first.lerp_(grad, 1 - BETA1)
        self._second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        scale = (1 - BETA2**count) ** 0.5
        self._vector.addcdiv_(
            self._first, self._second.sqrt().div_(scale).add_(self._eps), value=-lr / (1 - BETA1**count)
        )
