"""Adam and RMSprop over parameters on any device: the steps of ``torch.optim``, bit for bit, without its start-up.

The first optimiser of ``torch.optim`` that a process makes imports PyTorch's compiler, which takes 2 to 3 s and 70 MB
(PyTorch 2.13). Here nothing is compiled, and every process that learns would pay it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from understudy.data import Array
from understudy.errors import UserError


def adam_step(
    parameters: list[Tensor],
    grads: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    lr: float,
    eps: float,
) -> None:
    """Take one step of Kingma 2015, algorithm 1, in place, by the kernel of ``torch.optim.Adam(fused=True)``.

    Args:
        parameters: Of any shapes, on one device.
        grads: Of the same shapes.
        first: Running means of the gradients, moved on.
        second: Of their squares, moved on.
        steps: [] each, the number of this step, from 1.
        lr: Learning rate.
        eps: Added to the root of ``second``.
    """
    torch._fused_adam_(
        parameters, grads, first, second, [], steps, lr=lr, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=eps,
        amsgrad=False, maximize=False,
    )  # fmt: skip


class Optimizer(Protocol):
    """What moves parameters along their gradients."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self, lr: float) -> None:
        """Take one step along the gradients."""

    def state(self) -> dict[str, Array]:
        """Return copies of the statistics, from which ``restore`` goes on exactly."""

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from ``state``."""


class _Statistics:
    """Parameters, and arrays of their shapes under the names that ``torch.optim`` gives them."""

    def __init__(self, parameters: Iterable[Tensor], names: tuple[str, ...]) -> None:
        self._parameters = list(parameters)
        self._slots = {name: [torch.zeros_like(p) for p in self._parameters] for name in names}
        self._slots["step"] = [torch.zeros((), device=p.device) for p in self._parameters]

    def zero_grad(self) -> None:
        """Forget the gradients; a parameter that gets none is left alone by ``step``, statistics and all."""
        for parameter in self._parameters:
            parameter.grad = None

    def _moving(self) -> tuple[list[Tensor], list[Tensor], dict[str, list[Tensor]]]:
        """Return the parameters that have a gradient, these, and their statistics, one step further."""
        moving = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        slots = {name: [slot[i] for i in moving] for name, slot in self._slots.items()}
        parameters = [self._parameters[i] for i in moving]
        if moving:
            torch._foreach_add_(slots["step"], 1)
        return parameters, [p.grad for p in parameters if p.grad is not None], slots

    def state(self) -> dict[str, Array]:
        """Return copies; the keys are ``{number of the parameter}:{name}``."""
        return {
            f"{i}:{name}": value.cpu().numpy().copy()
            for name, slot in self._slots.items()
            for i, value in enumerate(slot)
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from ``state``; what is not there stays 0.

        Raises:
            UserError: It is of another optimiser, or of other parameters.
        """
        for key, array in arrays.items():
            number, name = key.split(":")
            slot = self._slots.get(name)
            if slot is None:
                kind = "rmsprop" if name == "square_avg" else "adam"
                raise UserError(f"the run learnt with {kind}: resume it without changing update.optimizer")
            if int(number) >= len(slot) or slot[int(number)].shape != array.shape:
                raise UserError("the optimiser state does not fit this student; resume with the same network")
            slot[int(number)].copy_(torch.as_tensor(array))


class Adam(_Statistics):
    """Adam with a step number of its own for every parameter; see ``adam_step``."""

    def __init__(self, parameters: Iterable[Tensor], eps: float = 1e-8) -> None:
        """Begin with moments of 0."""
        super().__init__(parameters, ("exp_avg", "exp_avg_sq"))
        self._eps = eps

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take one step along the gradients."""
        parameters, grads, slots = self._moving()
        if parameters:
            adam_step(parameters, grads, slots["exp_avg"], slots["exp_avg_sq"], slots["step"], lr, self._eps)


class RMSprop(_Statistics):
    """Tieleman 2012, lecture 6.5: the gradient over the root of its running mean square, plus ``eps``."""

    def __init__(self, parameters: Iterable[Tensor], decay: float, eps: float) -> None:
        """Begin with mean squares of 0, that lose 1 - ``decay`` of their size in every step."""
        super().__init__(parameters, ("square_avg",))
        self._decay, self._eps = decay, eps

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take one step along the gradients."""
        parameters, grads, slots = self._moving()
        if parameters:
            square = slots["square_avg"]
            torch._foreach_mul_(square, self._decay)
            torch._foreach_addcmul_(square, grads, grads, 1 - self._decay)
            root = torch._foreach_sqrt(square)
            torch._foreach_add_(root, self._eps)
            torch._foreach_addcdiv_(parameters, grads, root, -lr)
