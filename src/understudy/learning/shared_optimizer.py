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


def shared_shapes(policy: nn.Module, workers: int, scaled: bool = False) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the arrays that the workers share.

    Parameters, two statistics of each, counters of each worker, how many of its updates left each parameter still, the
    score of the last evaluation, and whether the run has ended. Where rewards are ``scaled``, the moments of each
    worker's returns.
    """
    size = sum(p.numel() for p in policy.parameters())
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        n: ((size,), "float32") for n in ("parameters", "first", "second")
    }
    # One row for each worker, on a cache line of its own: nobody else writes there, so nothing is lost.
    counters = {name: ((workers, 8), "int64") for name in ("env_steps", "updates")}
    scale = {"reward_scale": ((workers, 8), "float64")} if scaled else {}
    still = (workers, len(list(policy.parameters())))
    flags = {"score": ((1,), "float64"), "ended": ((1,), "int64")}
    return shapes | counters | scale | {"still": (still, "int64")} | flags


def load(parameters: Iterable[Tensor], vector: Tensor) -> None:
    """Copy a vector into parameters."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(vector.clone(), parameters)


class SharedOptimizer:
    """RMSprop or Adam with shared statistics (Mnih 2016, section 4, eq. 8 and 9; Kingma 2015, algorithm 1).

    The gradients of local parameters move the shared vector; the local ones stay as they are until they are loaded
    again. Adam's bias correction counts the updates of all workers. Local parameters and gradients become views of one
    vector each, so loading and stepping are single passes over memory. A parameter whose gradient was taken away (None)
    is left alone by ``step``, statistics and all, as ``objectives.optimizers`` do; ``zero_grad`` gives it one again.
    Differs in: RMSprop's epsilon is added to the root, as in ``objectives.optimizers``; eq. 9 has it under the root.
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
        self._updates, self._still, self._number = shared["updates"], shared["still"], number
        self._kind, self._eps, self._decay = kind, eps, decay
        self._values, self._grad, self._scratch = (torch.zeros_like(self._vector) for _ in range(3))
        cuts = [p.numel() for p in self._local]
        self._whole: tuple[Tensor, ...] = self._vector, self._grad, self._first, self._second, self._scratch
        split = (torch.split(vector, cuts) for vector in self._whole)
        self._pieces: list[tuple[Tensor, ...]] = list(zip(*split, strict=True))
        for p, values, piece in zip(self._local, torch.split(self._values, cuts), self._pieces, strict=True):
            p.data, p.grad = values.view(p.shape), piece[1].view(p.shape)
        self.load()

    @torch.no_grad()
    def load(self) -> None:
        """Copy the shared parameters into the local ones."""
        self._values.copy_(self._vector)

    @torch.no_grad()
    def zero_grad(self) -> None:
        """Set the gradients to 0; they stay views of one vector."""
        self._grad.zero_()
        for p, piece in zip(self._local, self._pieces, strict=True):
            if p.grad is None:
                p.grad = piece[1].view(p.shape)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply the local gradients to the shared parameters."""
        moving = [i for i, p in enumerate(self._local) if p.grad is not None]
        every = len(moving) == len(self._local)
        chosen = [self._whole] if every else [self._pieces[i] for i in moving]
        if not all(bool(torch.linalg.vector_norm(grad).isfinite()) for _, grad, *_ in chosen):
            return  # never into the shared weights, which others learn from and which are saved; the learner names it
        self._updates[self._number, 0] += 1
        if not every:
            self._still[self._number] += [p.grad is None for p in self._local]
        if self._kind == "rmsprop":
            self._rmsprop(chosen, lr)
        else:
            self._adam(moving, lr)

    def _rmsprop(self, chosen: list[tuple[Tensor, ...]], lr: float) -> None:
        for vector, grad, _, second, scratch in chosen:
            second.mul_(self._decay).addcmul_(grad, grad, value=1 - self._decay)
            deviation = torch.sqrt(second, out=scratch).add_(self._eps)
            vector.addcdiv_(grad, deviation, value=-lr)

    def _adam(self, moving: list[int], lr: float) -> None:
        """Take one step of the parameters numbered ``moving``, each with the count of the updates that moved it."""
        updates = self._updates[:, 0].sum()
        if not self._still.any():
            chosen, counts = [self._whole], [torch.tensor(float(updates))]
        else:
            chosen = [self._pieces[i] for i in moving]
            # At least this one: another worker may write between two readings.
            counts = list(torch.from_numpy(updates - self._still.sum(axis=0)).clamp_(1).float()[moving])
        vectors, grads, first, second, _ = (list(column) for column in zip(*chosen, strict=True))
        adam_step(vectors, grads, first, second, counts, lr, self._eps)

    def state(self) -> dict[str, Array]:
        """Return nothing: the statistics are in the shared memory, whose owner saves them."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Do nothing; see ``state``."""
