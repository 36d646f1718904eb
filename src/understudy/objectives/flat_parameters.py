"""Parameters of a network as views of one vector, with their gradients, so that a step is one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from understudy.data import Array
from understudy.objectives.flat_adam import FlatAdam, TensorAdam


def named_views(vector: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Cut a vector into tensors of these shapes, in their order."""
    return dict(zip(shapes, _cut(torch.from_numpy(vector), shapes.values()), strict=True))


def _cut(vector: Tensor, shapes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    begin = 0
    for shape in shapes:
        end = begin + math.prod(shape)
        yield vector[begin:end].view(shape)
        begin = end


def _adopt(parameters: list[Tensor], vector: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each parameter with its view of the vector."""
    yield from zip(parameters, _cut(vector, (tuple(p.shape) for p in parameters)), strict=True)


class FlatParameters:
    """Leaf tensors that become views of a vector, and Adam on it.

    Attributes:
        vector: [size] the parameters, live.
        grad: [size] their gradients, which autograd adds to.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        eps: float,
        max_grad_norm: float,
        memory: Mapping[str, Array] | None = None,
    ) -> None:
        """Take the parameters over, on the device where they are.

        Args:
            parameters: Leaves, all on one device.
            eps: Of Adam.
            max_grad_norm: 0 for no limit.
            memory: As in ``FlatAdam``; on the CPU alone.
        """
        taken = list(parameters)
        size, limit, device = sum(p.numel() for p in taken), max_grad_norm or None, taken[0].device
        self._adam: FlatAdam | TensorAdam
        if device.type == "cpu":
            self._adam = here = FlatAdam(size, limit, eps, memory=memory)
            self.vector, self.grad = torch.from_numpy(here.params), torch.from_numpy(here.grad)
        else:
            self._adam = there = TensorAdam(size, device, limit, eps)
            self.vector, self.grad = there.params, there.grad
        with torch.no_grad():
            for parameter, view in _adopt(taken, self.vector):
                view.copy_(parameter)
                parameter.data = view
        for parameter, view in _adopt(taken, self.grad):
            parameter.grad = view

    def descend(self, loss: Tensor, lr: float) -> None:
        """Take one step down a loss that depends on these parameters alone, among those that want a gradient."""
        self.grad.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        self.step(lr)

    def step(self, lr: float) -> None:
        """Take one step along ``grad``."""
        self._adam.step(lr)

    @property
    def norm(self) -> float | Tensor:
        """Of the last gradient, before clipping; a number on the CPU, [] elsewhere."""
        return self._adam.norm

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return parameters, moments and the number of steps."""
        return self._adam.state()

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._adam.restore(arrays, data)


class Target:
    """A copy of parameters that follows them slowly (Mnih 2015; Lillicrap 2016, section 3).

    Attributes:
        vector: [size].
    """

    def __init__(
        self, source: FlatParameters, parameters: Iterable[Tensor], memory: Mapping[str, Array] | None = None
    ) -> None:
        """Make the parameters, a copy of the source's, views of the vector; they want no gradient any more.

        The vector is the array ``params`` of ``memory`` if there is one.
        """
        self._source = source.vector
        self.vector = torch.empty_like(source.vector) if memory is None else torch.from_numpy(memory["params"])
        self.vector.copy_(source.vector)
        for parameter, view in _adopt(list(parameters), self.vector):
            parameter.data = view
            parameter.requires_grad_(False)

    def follow(self, tau: float) -> None:
        """Move by a share of the way; 1 copies."""
        self.vector.lerp_(self._source, tau)
