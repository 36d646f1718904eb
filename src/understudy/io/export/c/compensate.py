"""int8 weights that make up for each other's rounding, fitted in the student's own states; the file grows by nothing.

Three steps, layer after layer, each given what the int8 layers before it really say:

1. The layer is fitted to what the float student's layer says, so that errors from below are made good:
   min over W' of |z - X W'|^2 + ridge |W' - W|^2, with the ridge that serves states best which took no part.
2. Its weights are rounded one input after another, and what a rounding does to the outputs is put on the inputs that
   are still to come (Frantar 2022, "GPTQ", arXiv 2210.17323, eq. 2 and 3; inputs in the order of falling energy).
3. The bias takes the mean error that remains.

The last layer is float32 and passes step 1 and 3. Convolutions, and layers of more inputs than ``LIMIT``, are rounded
to the nearest (``quantise``); what follows makes good for them.
"""

from __future__ import annotations

import numpy as np

from understudy.data import Array
from understudy.io.export.c.layers import Matrix
from understudy.io.export.c.plan import Plan, build_plan
from understudy.io.export.c.quantise import Integers
from understudy.io.export.c.simulate import apply, features, pre_activation, remember, to_integers
from understudy.io.export.fitting import LEAST, LIMIT, energy_of, refit, round_in_turn
from understudy.io.export.states import States


def compensate(plan: Plan, states: States) -> None:
    """Replace the weights of an int8 plan by ones that act more like the float student in these states.

    With fewer than 64 states nothing is done.
    """
    if len(states) < LEAST:
        return
    exact = build_plan(plan.policy)
    x, wanted = features(plan, states), features(exact, states)
    if plan.lstm:
        x, wanted = _memory(plan, exact, states, x, wanted)
    for layer, original in zip(plan.body, exact.body, strict=True):
        z = pre_activation(original, wanted)
        _round(layer, original.weight.astype(np.float64), x, z)
        x, wanted = apply(layer, x), apply(original, wanted)
    head, z = plan.head, pre_activation(exact.head, wanted)
    if len(head.weight) <= LIMIT:
        weight = exact.head.weight + refit(x, z - x @ exact.head.weight)
        head.weight = weight.astype(np.float32)
    head.bias = (z - x @ head.weight.astype(np.float64)).mean(axis=0).astype(np.float32)


def _memory(plan: Plan, exact: Plan, states: States, x: Array, wanted: Array) -> tuple[Array, Array]:
    """Round the memory's weights by what goes into it in the float student: its own past depends on them."""
    layers, originals = plan.lstm + plan.past, exact.lstm + exact.past
    inputs: list[list[Array]] = [[] for _ in originals]
    wanted = remember(exact, wanted, states.start, inputs)
    for layer, original, rows in zip(layers, originals, inputs, strict=True):
        seen = np.concatenate(rows)
        _round(layer, original.weight.astype(np.float64), seen, pre_activation(original, seen), fit=False)
    return remember(plan, x, states.start), wanted


def _round(layer: Matrix, weight: Array, x: Array, z: Array, fit: bool = True) -> None:
    """Give a layer new integers and a new bias.

    Args:
        layer: Its ranges stay, its integers and bias are replaced.
        weight: [in, out] of the float student.
        x: [N, in] what goes in.
        z: [N, out] what should come out, before the activation.
        fit: Whether to do step 1.
    """
    assert layer.integers is not None
    if len(weight) > LIMIT:
        weights = layer.integers.weight.astype(np.float64) * layer.integers.scale
        layer.bias = (z - to_integers(layer, x) @ weights).mean(axis=0).astype(np.float32)
        return
    integers, limit = to_integers(layer, x), layer.integers.limit
    unit = integers / limit
    folded = weight * (limit / layer.integers.inverse.astype(np.float64)).reshape(-1, 1)
    if fit:
        folded = folded + refit(unit, z - unit @ folded)
    rounded, step = round_in_turn(folded, energy_of(unit))
    scale = (step / limit).astype(np.float32)
    layer.integers = Integers(rounded.astype(np.int8), scale, layer.integers.inverse, limit)
    layer.bias = (z - integers @ rounded * scale.astype(np.float64)).mean(axis=0).astype(np.float32)
