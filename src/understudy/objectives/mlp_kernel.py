"""Distillation into an MLP with hand-derived gradients: the fast peer of the autograd path for small students.

With z_i = h_{i-1} W_i' + b_i, h_i = f(z_i), h_0 the features [n, F] and the output layer linear, and D the distance of
one state, the gradients of L = sum_n w_n D_n / sum_n w_n are, from the last layer down (Rumelhart 1986),

    d_L = w / sum(w) * dD/dz_L,   dL/dW_i = d_i' h_{i-1},   dL/db_i = sum_n d_i,   d_{i-1} = (d_i W_i) * f'(z_{i-1}),

and Adam follows (Kingma 2015, algorithm 1). All parameters lie in one vector, so do gradients and moments: the
optimiser and gradient clipping are single calls. Activations and gradients live in preallocated buffers; the backward
pass overwrites the activations. Nothing waits for a result in ``step``.

For networks this small calls cost more than arithmetic: half of an autograd step builds and walks the graph. Built on
PyTorch, whose matrix products beat NumPy's here from batch 512 on, and on the same kernels that autograd runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from understudy.data import Array
from understudy.errors import UserError
from understudy.objectives.distances import Distance
from understudy.objectives.divergences import saturating_interval
from understudy.objectives.flat_adam import TensorAdam
from understudy.policies.family import Family
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec

_aten = torch.ops.aten


class _Layer(NamedTuple):
    """Buffers of one layer, [n, out] each, as views of memory that all batch sizes share.

    ``h`` is ``z`` unless the activation's slope needs its input; ``d`` overwrites ``h``; ``g`` is shared by all layers.
    """

    z: Tensor
    h: Tensor
    d: Tensor
    d_transposed: Tensor
    g: Tensor


def _silu(z: Tensor, h: Tensor) -> Tensor:
    return nn.functional.silu(h.copy_(z), inplace=True)


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[_Layer], Any]]] = {
    "tanh": (lambda z, h: z.tanh_(), lambda b: _aten.tanh_backward.grad_input(b.g, b.h, grad_input=b.d)),
    "relu": (lambda z, h: z.relu_(), lambda b: _aten.threshold_backward.grad_input(b.g, b.h, 0, grad_input=b.d)),
    "elu": (
        lambda z, h: nn.functional.elu_(z),
        lambda b: _aten.elu_backward.grad_input(b.g, 1, 1, 1, True, b.h, grad_input=b.d),
    ),
    "silu": (_silu, lambda b: _aten.silu_backward.grad_input(b.g, b.z, grad_input=b.d)),
    "identity": (lambda z, h: z, lambda b: b.d.copy_(b.g)),
}
"""How z becomes h, and how the gradient g of h becomes the gradient d of z; with the kernels that autograd runs."""
_NEEDS_INPUT = ("silu",)
REGRESSIONS, CLASSIFICATIONS = ("mse", "huber"), ("forward_kl", "cross_entropy", "nll")


def supports(spec: PolicySpec, teacher: Family, distance: Distance) -> bool:
    """Say whether the kernel can train this student under this distance, without a component mask.

    Students are MLPs on fixed features (no CNN, no LSTM, one task, no value) with a linear head, no deviation, and unit
    actions.
    """
    student = spec.distribution
    network = (
        not distance.refusal(teacher, student)
        and not any(e.learned for e in spec.encoders)
        and (spec.lstm, spec.tasks, spec.quantiles, spec.value_hidden) == (0, 1, 1, None)
        and spec.activation in _ACTIVATIONS
        and not spec.mask
        and (spec.head_bias, spec.head_activation, spec.mean_clip, spec.std) == (True, "identity", 0.0, "none")
        and (spec.unit_actions or not student.continuous)
    )
    if distance.name in REGRESSIONS:
        return network and (student.name == "deterministic" or not distance.compares_actions(student))
    return network and student.name == "categorical" and distance.name in CLASSIFICATIONS


class MLPKernel:
    """An MLP student, its gradients, and Adam.

    Attributes:
        weights: [out, in] views of the parameter vector, first layer first.
        biases: [out] views.
    """

    def __init__(
        self,
        weights: Sequence[Array | Tensor],
        biases: Sequence[Array | Tensor],
        activation: str,
        distance: Distance,
        teacher: Family,
        student: Family,
        batch_size: int,
        max_grad_norm: float | None = None,
    ) -> None:
        """Copy the weights ([out, in], as ``nn.Linear`` has them) and biases ([out]), and allocate the buffers.

        Args:
            weights: First layer first, as the biases.
            biases: None is missing.
            activation: Of the hidden layers: tanh, relu, elu, silu or identity.
            distance: The loss of one state, of those that ``supports`` names.
            teacher: Family of the parameters given to ``prepare``.
            student: Family of the outputs.
            batch_size: Most rows that a step will see.
            max_grad_norm: Gradients are scaled down to this norm, None for no limit.
        """
        distance.check(teacher, student)
        if activation not in _ACTIVATIONS:
            raise UserError(f"the MLP kernel has no activation {activation!r}; there are {', '.join(_ACTIVATIONS)}")
        self.distance, self.teacher, self.student = distance, teacher, student
        self._activate, self._backward = _ACTIVATIONS[activation]
        initial = [torch.as_tensor(a, dtype=torch.float32) for pair in zip(weights, biases, strict=True) for a in pair]
        self._adam = TensorAdam(sum(a.numel() for a in initial), torch.device("cpu"), max_grad_norm)
        torch.cat([a.flatten() for a in initial], out=self._adam.params)
        shapes = [a.shape for a in initial]
        views, grads = _split(self._adam.params, shapes), _split(self._adam.grad, shapes)
        self.weights, self.biases = views[0::2], views[1::2]
        self._grad_weights, self._grad_biases = grads[0::2], grads[1::2]
        self._transposed = [w.t() for w in self.weights]
        self._z = [torch.zeros(batch_size, len(bias)) for bias in self.biases]
        self._h = [torch.zeros_like(z) for z in self._z[:-1]] + self._z[-1:] if activation in _NEEDS_INPUT else self._z
        self._scratch = torch.zeros(max(z.numel() for z in self._z))
        self._buffers: dict[int, list[_Layer]] = {}
        self._loss_scale, self._slope_scale = self._scales(len(self.biases[-1]))
        self._loss_sum, self._loss_count = torch.zeros(()), 0

    def _scales(self, outputs: int) -> tuple[float, float]:
        """Return the constant factors that ``_residual`` leaves out of the distance and of its slope."""
        if self.distance.name in CLASSIFICATIONS:
            return 1.0, self.distance.inverse_temperatures(self.teacher, self.student)[1]
        return 1 / outputs, (2 if self.distance.name == "mse" else 1) / outputs

    @classmethod
    def from_policy(
        cls, policy: Policy, teacher: Family, distance: Distance, batch_size: int, **options: Any
    ) -> MLPKernel:
        """Train ``policy`` in place: its parameters become views of the kernel's, so it is always up to date.

        Raises:
            UserError: The policy or the distance is not one that the kernel covers.
        """
        if not supports(policy.spec, teacher, distance):
            raise UserError(f"the MLP kernel does not cover this student with distance {distance.name}; use autograd")
        layers = [layer for layer in (*policy.body, policy.head) if isinstance(layer, nn.Linear)]
        weights, biases = [layer.weight.detach() for layer in layers], [layer.bias.detach() for layer in layers]
        families = (teacher, policy.family)
        kernel = cls(weights, biases, policy.spec.activation, distance, *families, batch_size, **options)
        for layer, weight, bias in zip(layers, kernel.weights, kernel.biases, strict=True):
            layer.weight.data, layer.bias.data = weight, bias
        return kernel

    def prepare(self, teacher_params: Tensor) -> Tensor:
        """[N, P_teacher] -> [N, R] targets for ``step``, whose meaning depends on the distance.

        Computed once when states are labelled: the ends of the interval of actions without loss (mse and huber with
        ``saturate``), the action, the parameters, or the teacher's probabilities.
        """
        distance, teacher = self.distance, self.teacher
        if distance.name in REGRESSIONS:
            if not distance.compares_actions(self.student):
                return teacher_params.contiguous()
            action = distance.action_of(teacher, teacher_params)
            return torch.cat(saturating_interval(action), dim=-1) if distance.saturate else action.contiguous()
        if distance.name == "nll":
            return nn.functional.one_hot(teacher_params.argmax(-1), teacher_params.shape[-1]).float()
        return torch.softmax(teacher_params * distance.inverse_temperatures(teacher, self.student)[0], dim=-1)

    def step(self, x: Tensor, target: Tensor, lr: float, weight: Tensor | None = None) -> None:
        """Take one Adam step on the mean distance.

        Args:
            x: [n, F] float32 features, n at most ``batch_size``.
            target: [n, R] from ``prepare``.
            lr: Learning rate.
            weight: [n] weights of the states, 0 where invalid; the loss is the weighted mean.
        """
        self.gradient(x, target, weight)
        self._adam.step(lr)

    def gradient(self, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the gradient of the mean distance as one vector (overwritten by the next call); see ``step``."""
        buffers = self._buffers.get(len(x)) or self._buffers_for(len(x))
        last = len(buffers) - 1
        h = x
        for i, buffer in enumerate(buffers):
            torch.addmm(self.biases[i], h, self._transposed[i], out=buffer.z)
            h = self._activate(buffer.z, buffer.h) if i < last else buffer.z
        self._distance_gradient(h, target, weight)
        for i in range(last, -1, -1):
            below = buffers[i - 1].h if i else x
            torch.mm(buffers[i].d_transposed, below, out=self._grad_weights[i])
            torch.sum(buffers[i].d, 0, out=self._grad_biases[i])
            if i:
                torch.mm(buffers[i].d, self.weights[i], out=buffers[i - 1].g)
                self._backward(buffers[i - 1])
        return self._adam.grad

    def _buffers_for(self, n: int) -> list[_Layer]:
        """Cut the first n rows out of the buffers, once for each batch size that comes."""
        if n > len(self._z[0]):
            raise ValueError(f"a batch of {n} rows, the kernel was built for at most {len(self._z[0])}")
        layers = []
        for z, h in zip(self._z, self._h, strict=True):
            width = z.shape[1]
            layers.append(_Layer(z[:n], h[:n], h[:n], h[:n].t(), self._scratch[: n * width].view(n, width)))
        self._buffers[n] = layers
        return layers

    def _distance_gradient(self, h: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """Overwrite outputs [n, P] by the gradient of the mean distance; add that mean to the running loss."""
        losses, slopes = self._residual(h, target)
        if weight is None:
            self._loss_sum.add_(losses.sum(), alpha=self._loss_scale / len(h))
            torch.mul(slopes, self._slope_scale / len(h), out=h)
        else:
            share = (weight / weight.sum().clamp_min(1e-8)).unsqueeze(1)
            self._loss_sum.add_((losses * share).sum(), alpha=self._loss_scale)
            torch.mul(slopes, share, out=h).mul_(self._slope_scale)
        self._loss_count += 1

    def _residual(self, h: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """[n, P] outputs -> per component and up to constant factors, the distance and its slope in the outputs."""
        distance = self.distance
        if distance.name in CLASSIFICATIONS:
            log_q = torch.log_softmax(h * self._slope_scale, dim=-1)
            losses = -target * log_q
            if distance.name == "forward_kl":
                losses += torch.xlogy(target, target)
            return losses, log_q.exp_().sub_(target)
        nearest = target
        if target.shape[1] != h.shape[1]:  # [n, 2A], an interval, see ``prepare``
            nearest = torch.clamp(h, target[:, : h.shape[1]], target[:, h.shape[1] :])
        error = h - nearest
        if distance.name == "mse":
            return error.square(), error
        inside = error.clamp(-distance.delta, distance.delta)
        return inside * (error - 0.5 * inside), inside

    def loss(self) -> float:
        """Return the mean loss of the steps since the last call."""
        mean = self._loss_sum.item() / max(self._loss_count, 1)
        self._loss_sum.zero_()
        self._loss_count = 0
        return mean

    @property
    def parameters(self) -> Tensor:
        """All weights and biases as one vector, live."""
        return self._adam.params

    def named(self, vector: Tensor) -> dict[str, Array]:
        """Cut a vector like ``parameters`` (an average of them, say) into copies named as the policy names them."""
        layers = [f"body.{2 * i}" for i in range(len(self.weights) - 1)] + ["head"]
        names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        shapes = [tensor.shape for pair in zip(self.weights, self.biases, strict=True) for tensor in pair]
        return {name: view.numpy().copy() for name, view in zip(names, _split(vector, shapes), strict=True)}

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return copies of the parameters and moments, and the number of steps, for an exact resume."""
        return self._adam.state()

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            UserError: It belongs to another network.
        """
        self._adam.restore(arrays, data)


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return views of a vector with the given shapes, one after another."""
    ends = list(accumulate(shape.numel() for shape in shapes))
    return [flat[end - shape.numel() : end].view(shape) for end, shape in zip(ends, shapes, strict=True)]
