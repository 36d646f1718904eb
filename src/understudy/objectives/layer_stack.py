"""K multilayer perceptrons side by side with hand-derived gradients, in PyTorch without a graph.

With z_i = h_{i-1} W_i' + b_i, h_i = f(z_i), h_0 = x: d_i = g_i * f'(z_i), dL/dW_i = d_i' h_{i-1}, dL/db_i = sum_n d_i
and g_{i-1} = d_i W_i (Rumelhart 1986), each a batched product over the K networks. For wide layers the products are the
cost: there is nothing here but them, in buffers that are allocated once. ``mlp_stack`` is the peer for small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_aten = torch.ops.aten


def _relu_slope(g: Tensor, h: Tensor) -> None:
    _aten.threshold_backward.grad_input(g, h, 0, grad_input=g)


def _tanh_slope(g: Tensor, h: Tensor) -> None:
    _aten.tanh_backward.grad_input(g, h, grad_input=g)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor, Tensor], None]]] = {
    "relu": (Tensor.relu_, _relu_slope),
    "tanh": (Tensor.tanh_, _tanh_slope),
}
"""How z becomes h in place, and how the gradient of h becomes that of z in place."""


class LayerStack:
    """Layers over views of parameters and gradients; the last one may be linear.

    Attributes:
        weights: [K, out, in] of every layer.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: str,
        linear_end: bool,
        grads: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        """Take the views; biases are [K, 1, out].

        Args:
            weights: First layer first.
            biases: Likewise.
            activation: Of every layer but a linear last one.
            linear_end: Whether the last layer has none.
            grads: Where the gradients of weights and biases go; None for networks that are only run.
        """
        self.weights, self._biases, self._grads = list(weights), list(biases), grads
        self._transposed = [weight.transpose(1, 2) for weight in self.weights]
        self._activate, self._slope = ACTIVATIONS[activation]
        self._linear_end = linear_end
        first = self.weights[0]
        self._turned = first.new_empty(len(first), first.shape[2], first.shape[1])
        self._buffers: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def _buffer(self, n: int) -> tuple[list[Tensor], list[Tensor]]:
        found = self._buffers.get(n)
        if found is None:
            made = ([w.new_empty(len(w), n, w.shape[1]) for w in self.weights] for _ in range(2))
            h, g = made
            found = self._buffers[n] = (h, g)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[N, F] -> [K, N, out], valid until the next call with as many rows."""
        h, _ = self._buffer(len(x))
        self._x = below = x.expand(len(self.weights[0]), -1, -1)
        last = len(h) - 1
        for i, (out, weight, bias) in enumerate(zip(h, self._transposed, self._biases, strict=True)):
            torch.baddbmm(bias, below, weight, out=out)
            if i < last or not self._linear_end:
                self._activate(out)
            below = out
        return h[-1]

    def backward(self, g: Tensor, weights: bool = True) -> Tensor:
        """Take the gradient of the last ``forward``'s output [K, N, out], which is overwritten.

        Args:
            g: The gradient.
            weights: Whether to write the gradients of weights and biases.

        Returns:
            The gradient of the first layer's z, [K, N, out]: times its weights that of the input.
        """
        h, buffers = self._buffer(g.shape[1])
        last = len(h) - 1
        for i in range(last, -1, -1):
            if i < last or not self._linear_end:
                self._slope(g, h[i])
            if weights:
                assert self._grads is not None
                if i:
                    torch.bmm(g.transpose(1, 2), h[i - 1], out=self._grads[0][i])
                else:  # few features: half the time, turned around and copied
                    torch.bmm(self._x.transpose(1, 2), g, out=self._turned)
                    self._grads[0][0].copy_(self._turned.transpose(1, 2))
                torch.sum(g, dim=1, keepdim=True, out=self._grads[1][i])
            if i:
                torch.bmm(g, self.weights[i], out=buffers[i - 1])
                g = buffers[i - 1]
        return g
