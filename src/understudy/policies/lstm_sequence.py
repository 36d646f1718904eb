"""A wide LSTM over a short sequence of few environments on a CPU, forwards and backwards, in NumPy.

With z_t = W x_t + U h_{t-1} + b in PyTorch's order of gates, i, f, o = sigmoid(z), g = tanh(z) (Hochreiter 1997):
c_t = f c_{t-1} + i g, h_t = o tanh(c_t). Backwards, with d the gradient of what stands behind it:

    dc_t += dh_t o (1 - tanh^2 c_t),    dz_i = dc_t g i (1 - i),    dz_f = dc_t c_{t-1} f (1 - f),
    dz_g = dc_t i (1 - g^2),            dz_o = dh_t tanh(c_t) o (1 - o),
    dh_{t-1} = U' dz_t,                 dc_{t-1} = dc_t f,
    dW = sum dz_t x_t',                 dU = sum dz_t h_{t-1}',     db = sum dz_t,     dx_t = W' dz_t

PyTorch's layer (oneDNN) takes some 3 ms at every call to arrange wide weights for its backward pass, more than the 20
steps of one environment take here in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array

FEW, WIDE = 48, 2**18
"""Vectors up to which this is faster, if the layer has so many weights."""


def suits(memory: nn.Module, x: Tensor) -> bool:
    """Say whether ``LstmSequence`` computes this layer on [T, B, F], and sooner."""
    if not isinstance(memory, nn.LSTM) or memory.num_layers > 1 or not torch.is_grad_enabled():
        return False
    weights = 4 * memory.hidden_size * (memory.input_size + memory.hidden_size)
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and x.shape[0] * x.shape[1] <= FEW and weights >= WIDE


class LstmSequence(torch.autograd.Function):
    """[T, B, F], [B, H] and [B, H] -> h of every step [T, B, H], the last h and c [B, H].

    With ``known``, what acting computed of these steps (gates, cells, squashed, hidden of a ``Tape``), the forward pass
    is only looked up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w: Tensor,
        u: Tensor,
        b: Tensor,
        d: Tensor,
        known: Sequence[Array] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the module; ``b`` and ``d`` are PyTorch's two biases, whose sum counts."""
        (batch, width), steps = h.shape, len(x)
        if known is not None:
            gates, after, squashed, out = known
            cells, hidden = (
                np.concatenate((first.detach().numpy()[None], rest)) for first, rest in ((c, after), (h, out))
            )
            ctx.kept = x.detach().numpy(), gates, hidden, cells, squashed
            ctx.save_for_backward(w, u)
            return torch.from_numpy(hidden[1:]), torch.from_numpy(hidden[-1].copy()), torch.from_numpy(cells[-1].copy())
        inputs, weight = x.detach().numpy(), u.detach().numpy().T
        gates = inputs.reshape(steps * batch, -1) @ w.detach().numpy().T
        gates += (b + d).detach().numpy()
        gates = gates.reshape(steps, batch, 4 * width)
        hidden, cells = (np.empty((steps + 1, batch, width), np.float32) for _ in range(2))
        hidden[0], cells[0] = h.detach().numpy(), c.detach().numpy()
        squashed = np.empty((steps, batch, width), np.float32)
        # sigmoid(z) = 1/2 + tanh(z / 2) / 2: one tanh for all four gates.
        half = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), width)
        shift = np.repeat(np.array([0.5, 0.5, 0.0, 0.5], np.float32), width)
        for t in range(steps):
            z = gates[t]
            # Environments one by one, here and backwards: OpenBLAS takes up to three times as long for a few together.
            z += (hidden[t][:, None] @ weight)[:, 0]
            z *= half
            np.tanh(z, out=z)
            z *= half
            z += shift
            cell = np.multiply(cells[t], z[:, width : 2 * width], out=cells[t + 1])
            cell += z[:, :width] * z[:, 2 * width : 3 * width]
            np.tanh(cell, out=squashed[t])
            np.multiply(z[:, 3 * width :], squashed[t], out=hidden[t + 1])
        ctx.kept = inputs, gates, hidden, cells, squashed
        ctx.save_for_backward(w, u)
        return torch.from_numpy(hidden[1:]), torch.from_numpy(hidden[-1].copy()), torch.from_numpy(cells[-1].copy())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """See the module."""
        g_out, g_last, g_cell = (g.numpy() for g in grads)
        inputs, gates, hidden, cells, squashed = ctx.kept
        w, u = (weight.detach().numpy() for weight in ctx.saved_tensors)
        steps, batch, width = squashed.shape
        i, f, g, o = (gates[:, :, k * width : (k + 1) * width] for k in range(4))
        of_cell = o * (1 - squashed * squashed)
        slopes = np.empty_like(gates).reshape(steps, batch, 4, width)
        slopes[:, :, 0] = g * i * (1 - i)
        slopes[:, :, 1] = cells[:-1] * f * (1 - f)
        slopes[:, :, 2] = i * (1 - g * g)
        slopes[:, :, 3] = squashed * o * (1 - o)
        dh, dc = g_last.copy(), g_cell.copy()
        for t in range(steps - 1, -1, -1):
            dh += g_out[t]
            dc += dh * of_cell[t]
            dz = slopes[t]
            dz[:, :3] *= dc[:, None]
            dz[:, 3] *= dh
            dh = (dz.reshape(batch, 1, -1) @ u)[:, 0]
            dc *= f[t]
        flat = slopes.reshape(steps * batch, -1)
        of_bias = torch.from_numpy(flat.sum(axis=0))
        found = (flat @ w).reshape(inputs.shape), dh, dc, flat.T @ inputs.reshape(steps * batch, -1)
        of_state = flat.T @ hidden[:-1].reshape(steps * batch, -1)
        return *(torch.from_numpy(each) for each in found), torch.from_numpy(of_state), of_bias, of_bias, None
