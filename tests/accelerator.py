"""A GPU that is none: tensors that say they lie on another device, and are computed on the CPU.

As on a GPU, tensors of both places do not mix, and some operations make the CPU wait for the device: all that look at a
result. Both is what code for GPUs gets wrong, and what shows here on any machine. What is not shown: speed, the GPU's
own kernels and their rounding, lower precision, memory.

Built on what PyTorch has for devices that are written in Python (experimental; ``AVAILABLE`` says whether it is there).
To be imported before PyTorch computes its first gradient, which is when it counts devices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

NAME = "pretended"
_register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
AVAILABLE = _register is not None
if _register is not None:
    _register(NAME)
_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_WAITS = (_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten.equal, _aten._unique2, _aten.unique_dim)


class Remote(Tensor):
    """A tensor there; ``raw`` is what it holds."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Remote:
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} where no accelerator is")

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Remote:
        """The same memory, without history."""
        return Remote(self.raw)

    @data.setter
    def data(self, other: Remote) -> None:
        self.raw = other.raw

    def tolist(self) -> Any:
        """Wait, and return numbers."""
        return self.cpu().tolist()


class Accelerator(TorchDispatchMode):
    """The device while it is there.

    Attributes:
        waits: Names of the operations that made the CPU wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Compute ``function`` where its arguments are.

        Raises:
            RuntimeError: They are in two places.
        """
        flat, shape = tree_flatten((args, kwargs or {}))
        tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
        remote = [tensor for tensor in tensors if isinstance(tensor, Remote)]
        asked = (kwargs or {}).get("device")
        there = bool(remote) if asked is None else torch.device(asked).type == NAME
        if function is _aten.copy_.default:
            there = isinstance(args[0], Remote)
        if remote:
            self._check(function, tensors, remote, there)
        elif not there:
            return function(*args, **(kwargs or {}))
        flat = [self._here(leaf) for leaf in flat]
        args, kwargs = tree_unflatten(flat, shape)
        found = _CELLS.get(function, function)(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"})
        known = {id(tensor.raw): tensor for tensor in remote}  # an operation in place returns its argument
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else Remote(t), found) if there else found

    def _check(self, function: Any, tensors: list[Tensor], remote: list[Remote], there: bool) -> None:
        strange = [t for t in tensors if not isinstance(t, Remote) and t.dim() > 0]
        if strange and function not in _COPIES:
            raise RuntimeError(f"{function}: a tensor {list(strange[0].shape)} is on the CPU, others are not")
        # Whoever picks by a mask has to know how many there are.
        picks = function.overloadpacket is _aten.index and any(t.dtype == torch.bool for t in remote[1:])
        if function.overloadpacket in _WAITS or picks or (function in _COPIES and not there):
            self.waits.append(str(function))

    @staticmethod
    def _here(leaf: Any) -> Any:
        if isinstance(leaf, Remote):
            return leaf.raw
        return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == NAME else leaf


def _lstm_cell(x, h, c, x_bias=None, h_bias=None):
    gates = sum(part for part in (x, h, x_bias, h_bias) if part is not None)
    i, f, g, o = gates.chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * c + i * g
    return o * after.tanh(), after, torch.cat((i, f, g, o), dim=1)


def _lstm_cell_backward(grad_h, grad_c, c, after, gates, has_bias):
    i, f, g, o = gates.chunk(4, dim=1)
    grad_h = torch.zeros_like(after) if grad_h is None else grad_h
    inner = grad_h * o * (1 - after.tanh() ** 2) + (0 if grad_c is None else grad_c)
    slopes = (
        inner * g * i * (1 - i),
        inner * c * f * (1 - f),
        inner * i * (1 - g**2),
        grad_h * after.tanh() * o * (1 - o),
    )
    grad = torch.cat(slopes, dim=1)
    return grad, inner * f, grad.sum(dim=0)


def _gru_cell(x, h, before, x_bias=None, h_bias=None):
    x, h = x if x_bias is None else x + x_bias, h if h_bias is None else h + h_bias
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, dim=1), h.chunk(3, dim=1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    return n + z * (before - n), torch.cat((r, z, n, hn, before), dim=1)


def _gru_cell_backward(grad, kept, has_bias):
    r, z, n, hn, before = kept.chunk(5, dim=1)
    dn, dz = grad * (1 - z) * (1 - n**2), grad * (before - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    x, h = torch.cat((dr, dz, dn), dim=1), torch.cat((dr, dz, dn * r), dim=1)
    return x, h, grad * z, x.sum(dim=0), h.sum(dim=0)


_CELLS = {
    _aten._thnn_fused_lstm_cell.default: _lstm_cell,
    _aten._thnn_fused_lstm_cell_backward_impl.default: _lstm_cell_backward,
    _aten._thnn_fused_gru_cell.default: _gru_cell,
    _aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}
"""What PyTorch has for devices other than the CPU alone."""
