"""Networks of ``ArrayPolicy`` beyond linear layers: small convolutions and LSTMs as plain NumPy.

Acting for one environment through A3C's four convolutions and LSTM takes 0.13 ms where PyTorch takes 0.5: convolutions
of a few thousand multiplications cost a library more to prepare than to compute, and one row through an LSTM is a
product of a matrix and a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.lib.stride_tricks import as_strided

from understudy.data import Array
from understudy.policies.spaces import has_channels_last, picture_shape
from understudy.policies.tape import Tape

CONVOLVED = ("a3c_cnn",)
"""Types of encoders that are small enough for it."""
_KERNEL, _STRIDE, _LAYERS = 3, 2, 4
_FEW, _WIDE = 8, 2**18
"""Rows and weights up to and from which a product is one of a matrix and vectors."""
State = tuple[Array, Array]


class _Convolution:
    """A 3x3 convolution of stride 2 and padding 1 with ELU, for one batch size: windows are copied, then multiplied.

    Each window ends with a 1 that the bias is multiplied by; zeros of full size spare NumPy its slow way with numbers.
    """

    def __init__(self, batch: int, height: int, width: int, weight: Array) -> None:
        inputs, outputs = (len(weight) - 1) // _KERNEL**2, weight.shape[1]
        self.shape = (batch, -(-height // _STRIDE), -(-width // _STRIDE), outputs)
        self._padded = np.zeros((batch, height + 2, width + 2, inputs), np.float32)
        n, h, w, c = self._padded.strides
        window = (batch, *self.shape[1:3], _KERNEL, _KERNEL, inputs)
        self._windows = as_strided(self._padded, window, (n, _STRIDE * h, _STRIDE * w, h, w, c))
        self._rows = np.ones((batch * self.shape[1] * self.shape[2], len(weight)), np.float32)
        self._copied = self._rows[:, :-1].reshape(window)
        self._out, self._low, self._zeros = (np.zeros((len(self._rows), outputs), np.float32) for _ in range(3))

    def __call__(self, x: Array, weight: Array, into: Array | None = None) -> Array:
        """[B, H, W, C] -> [B, H / 2, W / 2, out], halves rounded up; overwritten by the next call, or ``into``.

        ``weight`` [9 C + 1, out] ends with the bias.
        """
        self._padded[:, 1:-1, 1:-1] = x
        np.copyto(self._copied, self._windows)
        place = self._out if into is None else into.reshape(self._out.shape)
        out, low = np.dot(self._rows, weight, out=place), self._low
        np.expm1(np.minimum(out, self._zeros, out=low), out=low)
        return np.maximum(out, low, out=out).reshape(self.shape)  # e^x - 1 > x below 0


class Convolutions:
    """The encoder ``a3c_cnn``."""

    def __init__(self, space: gym.Space[Any], scale: float) -> None:
        assert isinstance(space, gym.spaces.Box)
        self._last, self._scale = has_channels_last(space), np.float32(scale)
        _, self._height, self._width = picture_shape(space)
        self._layers: list[Array] = []
        self._buffers: dict[int, list[_Convolution]] = {}

    def update(self, arrays: Mapping[str, Array], prefix: str) -> None:
        """Take the weights ``PREFIX.cnn.0.weight`` [out, in, 3, 3] and so on; they are copied."""
        names = [f"{prefix}.cnn.{2 * i}" for i in range(_LAYERS)]
        weights = [arrays[f"{name}.weight"].transpose(2, 3, 1, 0) for name in names]
        self._layers = [
            np.concatenate((weight.reshape(-1, weight.shape[3]), arrays[f"{name}.bias"][None]), dtype=np.float32)
            for name, weight in zip(names, weights, strict=True)
        ]

    def _for(self, batch: int) -> list[_Convolution]:
        layers, height, width = [], self._height, self._width
        for weight in self._layers:
            layers.append(_Convolution(batch, height, width, weight))
            _, height, width, _ = layers[-1].shape
        return layers

    def __call__(self, pictures: Array, tape: Tape | None = None, key: str = "") -> Array:
        """[B, *space.shape] -> [B, F] float32, as the encoder in PyTorch flattens them.

        With ``tape`` the layers' outputs are kept there, under ``key``.
        """
        x = pictures if self._last else pictures.transpose(0, 2, 3, 1)
        x = x * self._scale if self._scale != 1 else x
        layers = self._buffers.get(len(x))
        if layers is None:
            layers = self._buffers[len(x)] = self._for(len(x))
        places = [None] * len(layers) if tape is None else tape.of_pictures(key, [layer.shape for layer in layers])
        for layer, weight, into in zip(layers, self._layers, places, strict=True):
            x = layer(x, weight, into)
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


class Memory:
    """An LSTM of some layers, one step at a time (Hochreiter 1997, with PyTorch's order of gates)."""

    def __init__(self, layers: int, width: int) -> None:
        self._width = width
        # sigmoid(x) = 1/2 + tanh(x / 2) / 2: one tanh for all four gates i, f, g, o.
        self._half = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), width)
        self._weights: list[Array] = []
        self._turned: list[Array] = []
        """The weights [in, out], which products of several rows want; turned when there are such."""
        self._biases: list[Array] = []
        self._layers = layers

    def update(self, arrays: Mapping[str, Array]) -> None:
        """Take the weights named as ``nn.LSTM`` names them; they are copied."""
        layers = range(self._layers)
        inner = [[arrays[f"lstm.weight_{kind}_l{i}"] for kind in ("ih", "hh")] for i in layers]
        self._weights = [np.concatenate(pair, axis=1, dtype=np.float32) for pair in inner]
        self._turned = []
        self._biases = [arrays[f"lstm.bias_ih_l{i}"] + arrays[f"lstm.bias_hh_l{i}"] for i in layers]

    def _product(self, layer: int, x: Array) -> Array:
        """[B, in] -> [B, out]."""
        if len(x) == 1:
            found: Array = self._weights[layer].dot(x[0])
            return found[None]
        if not self._turned:
            self._turned = [weight.T.copy() for weight in self._weights]
        turned = self._turned[layer]
        # One row after the other: OpenBLAS takes up to three times as long for a few together.
        return (x[:, None] @ turned)[:, 0] if len(x) <= _FEW and turned.size >= _WIDE else x.dot(turned)

    def step(
        self, x: Array, state: State | None, episode_start: Array, tape: Tape | None = None
    ) -> tuple[Array, State]:
        """[B, F], h and c [layers, B, width] (None at first), [B] bool where they are reset -> [B, width], h and c.

        With ``tape`` the step of the last layer is kept there.
        """
        shape, width = (self._layers, len(x), self._width), self._width
        before = (np.zeros(shape, np.float32), np.zeros(shape, np.float32)) if state is None else state
        if state is not None and episode_start.any():
            keep = ~episode_start[:, None]
            before = (state[0] * keep, state[1] * keep)
        after = (np.empty(shape, np.float32), np.empty(shape, np.float32))
        for i, bias in enumerate(self._biases):
            gates = self._product(i, np.concatenate((x, before[0][i]), axis=1))
            gates += bias
            gates *= self._half
            np.tanh(gates, out=gates)
            new = gates[:, 2 * width : 3 * width].copy()
            gates *= np.float32(0.5)
            gates += np.float32(0.5)
            if tape is not None:
                tape.note_gates(gates, new)
            new *= gates[:, :width]
            memory = np.multiply(before[1][i], gates[:, width : 2 * width], out=after[1][i])
            memory += new
            squashed = np.tanh(memory)
            x = np.multiply(gates[:, 3 * width :], squashed, out=after[0][i])
            if tape is not None:
                tape.note_memory(memory, squashed, x)
        return x, after


class GatedMemory:
    """A GRU of some layers, one step at a time (Cho 2014, with PyTorch's gates r, z, n and its two biases).

    r, z = sigmoid(W x + b + U h + d), n = tanh(W x + b + r (U h + d)), h' = (1 - z) n + z h.
    """

    def __init__(self, layers: int, width: int) -> None:
        self._layers, self._width = layers, width
        self._weights: list[list[Array]] = []

    def update(self, arrays: Mapping[str, Array]) -> None:
        """Take the weights named as ``nn.GRU`` names them, under ``lstm``; they are copied."""
        self._weights = []
        for i in range(self._layers):
            layer = [np.array(arrays[f"lstm.weight_{kind}_l{i}"].T, np.float32, order="C") for kind in ("ih", "hh")]
            layer += [np.array(arrays[f"lstm.bias_{kind}_l{i}"], np.float32) for kind in ("ih", "hh")]
            self._weights.append(layer)

    def step(
        self, x: Array, state: State | None, episode_start: Array, tape: Tape | None = None
    ) -> tuple[Array, State]:
        """As ``Memory.step``; c stays 0, and nothing is kept."""
        shape, width = (self._layers, len(x), self._width), self._width
        before = np.zeros(shape, np.float32) if state is None else state[0] * ~episode_start[:, None]
        after = np.empty(shape, np.float32)
        for i, (weight, past, bias, past_bias) in enumerate(self._weights):
            new, old = x.dot(weight) + bias, before[i].dot(past) + past_bias
            gates = np.float32(0.5) + np.float32(0.5) * np.tanh(
                np.float32(0.5) * (new[:, : 2 * width] + old[:, : 2 * width])
            )
            z = gates[:, width:]
            n = np.tanh(new[:, 2 * width :] + gates[:, :width] * old[:, 2 * width :])
            x = after[i] = n + z * (before[i] - n)
        return x, (after, np.zeros(shape, np.float32))


__all__ = ["CONVOLVED", "Convolutions", "GatedMemory", "Memory", "State"]
