"""Hidden layers of one MLP, or of several of the same widths on the same features, with hand-derived gradients.

With z_i = h_{i-1} W_i' + b_i, h_i = f(z_i), h_0 = x, the gradients are d_i = g_i * f'(z_i), dL/dW_i = d_i' h_{i-1},
dL/db_i = sum_n d_i and g_{i-1} = d_i W_i (Rumelhart 1986). For networks this small the number of calls is the cost, so
K networks side by side share every bias, activation and slope call, their first layers are one matrix product, and
their later ones one call of a stacked product. NumPy, preallocated buffers; d_i overwrites h_i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from understudy.data import Array


def _tanh(z: Array, scratch: Array) -> None:
    np.tanh(z, out=z)


def _tanh_slope(h: Array, g: Array) -> None:
    np.multiply(h, h, out=h)
    np.subtract(1, h, out=h)
    np.multiply(h, g, out=h)


def _relu(z: Array, scratch: Array) -> None:
    np.maximum(z, 0, out=z)


def _relu_slope(h: Array, g: Array) -> None:
    np.sign(h, out=h)
    np.multiply(h, g, out=h)


def _elu(z: Array, scratch: Array) -> None:
    np.minimum(z, 0, out=scratch)
    np.expm1(scratch, out=scratch)
    np.maximum(z, 0, out=z)
    np.add(z, scratch, out=z)


def _elu_slope(h: Array, g: Array) -> None:
    np.minimum(h, 0, out=h)
    np.add(h, 1, out=h)
    np.multiply(h, g, out=h)


ACTIVATIONS: dict[str, tuple[Callable[[Array, Array], None], Callable[[Array, Array], None]]] = {
    "tanh": (_tanh, _tanh_slope),
    "relu": (_relu, _relu_slope),
    "elu": (_elu, _elu_slope),
}
"""How z becomes h in place (with scratch of its shape), and how h becomes d = g * f'(z) in place; NaN stays NaN."""


class Layer(NamedTuple):
    """Buffers of one layer for n rows; networks side by side in the columns, or as a stack of strided views."""

    h: Array
    """[n, K * width]."""
    stack: Array
    """[K, n, width] of ``h``."""
    stack_t: Array
    """[K, width, n] of ``h``."""
    g: Array
    """[n, K * width] gradient of h, in memory that all layers share."""
    g_stack: Array
    """[K, n, width] of ``g``."""


def shapes(features: int, hidden: Sequence[int], networks: int) -> list[tuple[int, ...]]:
    """Return the shapes of all weights and biases: [K * w_0, F], [K * w_0], then [K, w_i, w_{i-1}], [K * w_i]."""
    below: list[int] = [features, *hidden[:-1]]
    first = [(networks * hidden[0], features)]
    weights = first + [(networks, w, b) for w, b in zip(hidden[1:], below[1:], strict=True)]
    return [shape for weight, width in zip(weights, hidden, strict=True) for shape in (weight, (networks * width,))]


def network_views(params: Sequence[Array], networks: int, network: int) -> list[tuple[Array, Array]]:
    """Return the ([out, in] weight, [out] bias) of one of the networks, as contiguous views, first layer first."""
    views = []
    for weight, bias in zip(params[0::2], params[1::2], strict=True):
        width = len(bias) // networks
        part = slice(network * width, (network + 1) * width)
        views.append((weight[part] if weight.ndim == 2 else weight[network], bias[part]))
    return views


class MLPStack:
    """K >= 1 networks' hidden layers over views of a parameter and a gradient vector.

    Attributes:
        weights: Shaped as ``shapes`` says, first layer first.
        biases: Likewise.
    """

    def __init__(
        self, params: Sequence[Array], grads: Sequence[Array], networks: int, activation: str, rows: int
    ) -> None:
        """Take the views, weights and biases by turns, and allocate buffers for up to ``rows`` rows."""
        self.weights, self.biases = params[0::2], params[1::2]
        self._grad_weights, self._grad_biases = grads[0::2], grads[1::2]
        self._transposed = [weight.swapaxes(-1, -2) for weight in self.weights]
        self._activate, self._slope = ACTIVATIONS[activation]
        self._networks = networks
        self._h = [np.zeros((rows, len(bias)), np.float32) for bias in self.biases]
        self._scratch = np.zeros(rows * max(len(bias) for bias in self.biases), np.float32)
        self._ones = np.ones(rows, np.float32)

    def layers(self, n: int) -> list[Layer]:
        """Cut n rows out of the buffers; callers keep the result."""
        layers = []
        for rows in self._h:
            h, g = rows[:n], self._scratch[: n * rows.shape[1]].reshape(n, -1)
            stack, g_stack = (a.reshape(n, self._networks, -1).swapaxes(0, 1) for a in (h, g))
            layers.append(Layer(h, stack, stack.swapaxes(1, 2), g, g_stack))
        return layers

    def forward(self, x: Array, layers: Sequence[Layer]) -> None:
        """[n, F] features -> ``layers[-1].h``."""
        below = None
        for layer, weight, bias in zip(layers, self._transposed, self.biases, strict=True):
            if below is None:
                np.matmul(x, weight, out=layer.h)
            else:
                np.matmul(below.stack, weight, out=layer.stack)
            np.add(layer.h, bias, out=layer.h)
            self._activate(layer.h, layer.g)
            below = layer

    def backward(self, x: Array, layers: Sequence[Layer]) -> None:
        """Write the gradients, from the gradient of the last layer in ``layers[-1].g``; overwrites activations."""
        ones = self._ones[: len(x)]
        for i in range(len(layers) - 1, -1, -1):
            layer = layers[i]
            self._slope(layer.h, layer.g)
            np.matmul(ones, layer.h, out=self._grad_biases[i])
            if i:
                np.matmul(layer.stack_t, layers[i - 1].stack, out=self._grad_weights[i])
                np.matmul(layer.stack, self.weights[i], out=layers[i - 1].g_stack)
            else:
                np.matmul(layer.h.T, x, out=self._grad_weights[0])
