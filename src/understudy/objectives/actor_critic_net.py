"""A policy and a value MLP on the same features over one parameter vector, forward and backward, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from understudy.data import Array
from understudy.objectives.mlp_stack import Layer, MLPStack, network_views, shapes
from understudy.policies.spec import PolicySpec


class Rows(NamedTuple):
    """Buffers of the networks cut to n rows."""

    layers: list[list[Layer]]
    """Of each stack."""
    latents: tuple[Array, Array]
    """[n, width] last hidden layer of the policy's and of the value's network."""
    latent_gradients: tuple[Array, Array]
    outputs: Array
    """[M + 1, n]: the policy's M outputs, then the value."""
    ones: Array


class Layout:
    """Where everything lies in the vector: hidden layers, then heads, then the Gaussian's log standard deviations.

    Networks of the same widths form one ``MLPStack``, others one each.
    """

    def __init__(self, spec: PolicySpec, features: int) -> None:
        """Lay out the student's parameters for F ``features``."""
        assert spec.value_hidden is not None
        family = spec.distribution
        self.outputs = sum(family.sizes)
        joint = spec.hidden == spec.value_hidden
        self.groups = [(spec.hidden, 2)] if joint else [(spec.hidden, 1), (spec.value_hidden, 1)]
        self._hidden = [shapes(features, hidden, networks) for hidden, networks in self.groups]
        self._top: list[tuple[int, ...]] = [
            (self.outputs, spec.hidden[-1]),
            (1, spec.value_hidden[-1]),
            (self.outputs + 1,),
        ]
        self.gaussian = family.continuous
        if family.continuous:
            self._top.append((self.outputs,))
        self.size = sum(math.prod(shape) for part in (*self._hidden, self._top) for shape in part)

    def split(self, vector: Array) -> tuple[list[list[Array]], list[Array]]:
        """Return views of a vector: of each stack, and (policy head, value head, both biases, log stds if any)."""
        shapes = [shape for part in (*self._hidden, self._top) for shape in part]
        ends = accumulate(math.prod(shape) for shape in shapes)
        views = iter([vector[e - math.prod(s) : e].reshape(s) for e, s in zip(ends, shapes, strict=True)])
        stacks = [[next(views) for _ in part] for part in self._hidden]
        return stacks, list(views)

    def named(self, vector: Array) -> dict[str, Array]:
        """Return views of a vector named and shaped as ``Policy`` names and shapes its parameters."""
        stacks, top = self.split(vector)
        networks = [(stack, n, k) for stack, (_, n) in zip(stacks, self.groups, strict=True) for k in range(n)]
        views: dict[str, Array] = {}
        for body, network in zip(("body", "value_body"), networks, strict=True):
            for i, (weight, bias) in enumerate(network_views(*network)):
                views |= {f"{body}.{2 * i}.weight": weight, f"{body}.{2 * i}.bias": bias}
        views |= {"head.weight": top[0], "head.bias": top[2][:-1]}
        views |= {"value_head.weight": top[1], "value_head.bias": top[2][-1:]}
        return views | ({"log_std": top[3]} if self.gaussian else {})


class ActorCriticNet:
    """The networks; their buffers hold up to ``batch_size`` rows.

    Attributes:
        batch_size: See above.
        log_std: [A] views of the parameters and of the gradient, where the policy is Gaussian.
    """

    def __init__(self, layout: Layout, params: Array, grad: Array, activation: str, batch_size: int) -> None:
        """Take both vectors; ``backward`` writes into the second."""
        self.batch_size, self._outputs = batch_size, layout.outputs
        (stacks, top), (grad_stacks, grad_top) = layout.split(params), layout.split(grad)
        self._stacks = [
            MLPStack(views, grads, networks, activation, batch_size)
            for views, grads, (_, networks) in zip(stacks, grad_stacks, layout.groups, strict=True)
        ]
        self._weight, self._value_weight, self._bias = top[0], top[1], top[2][:, None]
        self._grad_weight, self._grad_value_weight, self._grad_bias = grad_top[:3]
        self.log_std = (top[3], grad_top[3]) if layout.gaussian else None
        self._rows: dict[int, Rows] = {}

    def forward(self, x: Array) -> Rows:
        """[n, F] float32 features -> buffers with the outputs, overwritten by the next call."""
        rows = self._rows.get(len(x)) or self._rows_for(len(x))
        for stack, layers in zip(self._stacks, rows.layers, strict=True):
            stack.forward(x, layers)
        np.matmul(self._weight, rows.latents[0].T, out=rows.outputs[:-1])
        np.matmul(self._value_weight, rows.latents[1].T, out=rows.outputs[-1:])
        np.add(rows.outputs, self._bias, out=rows.outputs)
        return rows

    def backward(self, x: Array, rows: Rows) -> None:
        """Fill the gradient vector but for log_std, from the gradients of the outputs in ``rows.outputs``."""
        policy, value = rows.outputs[:-1], rows.outputs[-1:]
        np.matmul(policy, rows.latents[0], out=self._grad_weight)
        np.matmul(value, rows.latents[1], out=self._grad_value_weight)
        np.matmul(rows.outputs, rows.ones, out=self._grad_bias)
        np.matmul(policy.T, self._weight, out=rows.latent_gradients[0])
        np.multiply(value.T, self._value_weight, out=rows.latent_gradients[1])
        for stack, layers in zip(self._stacks, rows.layers, strict=True):
            stack.backward(x, layers)

    def _rows_for(self, n: int) -> Rows:
        """Cut n rows out of the buffers, once for each batch size that comes."""
        if not 0 < n <= self.batch_size:
            raise ValueError(f"a batch of {n} rows, the kernel was built for 1 to {self.batch_size}")
        layers = [stack.layers(n) for stack in self._stacks]
        latents = _pair([part for each in layers for part in each[-1].stack])
        gradients = _pair([part for each in layers for part in each[-1].g_stack])
        outputs = np.zeros((self._outputs + 1, n), np.float32)
        self._rows[n] = Rows(layers, latents, gradients, outputs, np.ones(n, np.float32))
        return self._rows[n]


def _pair(views: Sequence[Array]) -> tuple[Array, Array]:
    policy, value = views
    return policy, value
