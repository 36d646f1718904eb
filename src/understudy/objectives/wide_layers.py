"""Hidden layers of one wide multilayer perceptron with hand-derived gradients, in PyTorch without a graph.

With z_i = h_{i-1} W_i' + b_i, h_i = f(z_i), h_0 = x: d_i = g_i * f'(z_i), dL/dW_i = d_i' h_{i-1}, dL/db_i = sum_n d_i
and g_{i-1} = d_i W_i (Rumelhart 1986). For wide layers the products are the cost, so there is nothing here but them,
each through the library that is fastest at it: oneDNN, which adds the bias and applies f while the result is in the
cache, PyTorch's own BLAS, and NumPy's for a narrow side. ``mlp_stack`` is the peer for small networks.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

_aten = torch.ops.aten
_available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _available else None
WIDE = 128 * 128
"""Weights from which on a layer is left to oneDNN, whose calls cost more."""


_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 32 * 2**20


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB of freed memory instead of taking every activation anew from the system.

    oneDNN's results are new memory; where the system takes it back between two updates, every page costs a fault. The
    numbers are those at which glibc's own growing thresholds end once a block of 32 MB was freed (mallopt(3)).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP, _KEPT)
        libc.mallopt(_TRIM, 2 * _KEPT)


def _relu_slope(g: Tensor, h: Tensor, out: Tensor) -> None:
    _aten.threshold_backward.grad_input(g, h, 0, grad_input=out)


def _tanh_slope(g: Tensor, h: Tensor, out: Tensor) -> None:
    _aten.tanh_backward.grad_input(g, h, grad_input=out)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor, Tensor, Tensor], None]]] = {
    "relu": (Tensor.relu_, _relu_slope),
    "tanh": (Tensor.tanh_, _tanh_slope),
}
"""How z becomes h in place, and how the gradient of h becomes that of z."""


def linear(x: Tensor, weight: Tensor, bias: Tensor, name: str) -> Tensor:
    """f(x W' + b): [N, in], [out, in] and [out] -> [N, out], in new memory."""
    if _fused is not None and weight.numel() >= WIDE:
        found: Tensor = _fused(x, weight, bias, name, [], "")
        return found
    z = torch.addmm(bias, x, weight.t())
    ACTIVATIONS[name][0](z)
    return z


def back(d: Tensor, weight: Tensor) -> Tensor:
    """D W: [N, out] and [out, in] -> [N, in], in new memory."""
    if _fused is not None and weight.numel() >= WIDE:
        found: Tensor = _fused(d, weight.t(), None, "none", [], "")
        return found
    return torch.mm(d, weight)


def weight_gradient(d: Tensor, x: Tensor, out: Tensor) -> None:
    """D' X into ``out``: [N, out] and [N, in] -> [out, in].

    Few columns take PyTorch's BLAS twice as long as NumPy's, which has one thread here.
    """
    if x.shape[1] < 64 or torch.get_num_threads() == 1:
        np.matmul(d.numpy().T, x.numpy(), out=out.numpy())
    else:
        torch.mm(d.t(), x, out=out)


class WideLayers:
    """Hidden layers over views of parameters and gradients.

    Attributes:
        weights: [out, in] of every layer.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: str,
        grads: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        """Take the views.

        Args:
            weights: First layer first.
            biases: [out] each.
            activation: Of every layer.
            grads: Where the gradients of weights and biases go; None for networks that are only run.
        """
        self.weights, self._biases, self._grads = list(weights), list(biases), grads
        self._activation, self._slope = activation, ACTIVATIONS[activation][1]
        self._h: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """[N, F] -> [N, H]."""
        h = [x]
        for weight, bias in zip(self.weights, self._biases, strict=True):
            h.append(linear(h[-1], weight, bias, self._activation))
        self._h = h  # what the last call made is freed only now, so that this one's memory is its predecessor's
        return h[-1]

    def keep(self, rows: slice) -> None:
        """Go on as if the last ``forward`` had seen these rows alone."""
        self._h = [each[rows] for each in self._h]

    def backward(self, g: Tensor) -> None:
        """Write the gradients of weights and biases, from that of the last output [N, H], which is overwritten."""
        assert self._grads is not None
        weights, biases = self._grads
        for i in range(len(self.weights) - 1, -1, -1):
            self._slope(g, self._h[i + 1], g)
            weight_gradient(g, self._h[i], weights[i])
            torch.sum(g, dim=0, out=biases[i])
            if i:
                g = back(g, self.weights[i])

    def input_gradient(self, g: Tensor, rows: Tensor | None, columns: slice) -> Tensor:
        """Return the gradient of some components of the input, [n, C].

        Args:
            g: [H] of the output of the last ``forward``, the same for every row.
            rows: [n] the rows that are wanted; None for all.
            columns: The components.
        """
        h = self._h if rows is None else [self._h[0], *(each.index_select(0, rows) for each in self._h[1:])]
        d = g.expand_as(h[-1])
        for i in range(len(self.weights) - 1, -1, -1):
            out = torch.empty_like(h[i + 1])
            self._slope(d, h[i + 1], out)
            d = back(out, self.weights[i]) if i else out
        return torch.from_numpy(np.matmul(d.numpy(), self.weights[0].numpy()[:, columns]))
