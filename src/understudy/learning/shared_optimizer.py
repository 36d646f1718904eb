"""Parameters and optimiser statistics in shared memory, updated by many processes without locks (Recht 2011, Hogwild).

A3C's workers each compute gradients of their own weights and apply them to the shared ones; what two of them write at
the same moment may be lost, which is rare where updates are small and far between (Mnih 2016, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from understudy.data import Array
from understudy.objectives.optimizers import adam_step


def shared_shapes(policy: nn.Module, workers: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the arrays that the workers share.

    Parameters, two statistics of each, counters of each worker, and the score of the last evaluation.
    """
    size = sum(p.numel() for p in policy.parameters())
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        n: ((size,), "float32") for n in ("parameters", "first", "second")
    }
    # One row for each worker, on a cache line of its own: nobody else writes there, so nothing is lost.
    counters = {name: ((workers, 8), "int64") for name in ("env_steps", "updates")}
    return shapes | counters | {"score": ((1,), "float64")}


def load(parameters: Iterable[Tensor], vector: Tensor) -> None:
    """Copy a vector into parameters."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(vector.clone(), parameters)


class SharedOptimizer:
    """RMSprop or Adam with shared statistics (Mnih 2016, section 4, eq. 8 and 9; Kingma 2015, algorithm 1).

    The gradients of local parameters move the shared vector; the local ones stay as they are until they are loaded
    again. Adam's bias correction counts the updates of all workers. Local parameters and gradients become views of one
    vector each, so loading and stepping are single passes over memory.
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
        self._vector, self._first, self._second = (
            torch.from_numpy(shared[name]) for name in ("parameters", "first", "second")
        )
        self._updates, self._number = shared["updates"], number
        self._kind, self._eps, self._decay = kind, eps, decay
        self._values, self._grad, self._scratch = (torch.zeros_like(self._vector) for _ in range(3))
        cuts = [p.numel() for p in self._local]
        pieces = (torch.split(vector, cuts) for vector in (self._values, self._grad))
        for p, values, grad in zip(self._local, *pieces, strict=True):
            p.data, p.grad = values.view(p.shape), grad.view(p.shape)
        self.load()

    @torch.no_grad()
    def load(self) -> None:
        """Copy the shared parameters into the local ones."""
        self._values.copy_(self._vector)

    @torch.no_grad()
    def zero_grad(self) -> None:
        """Set the gradients to 0; they stay views of one vector."""
        self._grad.zero_()

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply the local gradients to the shared parameters."""
        if not bool(torch.linalg.vector_norm(self._grad).isfinite()):
            return  # never into the shared weights, which others learn from and which are saved; the learner names it
        self._updates[self._number, 0] += 1
        if self._kind == "rmsprop":
            self._second.mul_(self._decay).addcmul_(self._grad, self._grad, value=1 - self._decay)
            deviation = torch.sqrt(self._second, out=self._scratch).add_(self._eps)
            self._vector.addcdiv_(self._grad, deviation, value=-lr)
            return
        count = torch.tensor(float(self._updates[:, 0].sum()))
        vectors = [self._vector], [self._grad], [self._first], [self._second]
        adam_step(*vectors, [count], lr, self._eps)

    def state(self) -> dict[str, Array]:
        """Return nothing: the statistics are in the shared memory, whose owner saves them."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Do nothing; see ``state``."""
