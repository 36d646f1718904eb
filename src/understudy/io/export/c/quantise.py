"""int8 weights with integers of up to 16 bits going in (as TensorFlow Lite's "16x8"); sums are exact in 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.data import Array

MARGIN = 4.0
"""Largest numbers seen in the student's states are taken for this many times larger: of 16 bits two are cheap, and a
clipped number is not (with 1.5 an action of a HalfCheetah student was wrong by 0.77 in its 421st step)."""
_LARGEST_SUM = 2**31 - 1


@dataclass
class Integers:
    """Weights of a layer in int8.

    Attributes:
        weight: [in, out] int8.
        scale: [out] float32, what one unit of the sum is worth.
        inverse: [in] or [1] float32: x * inverse is the integer that goes in.
        limit: Integers go from -limit to limit; as many bits as the sum has room for.
    """

    weight: Array
    scale: Array
    inverse: Array
    limit: int


def quantise(weight: Array, span: Array, limit: int = 0, unit: bool = False) -> Integers:
    """Bring a layer to int8.

    x is divided by its range and multiplied by ``limit``; ranges of single inputs go into the weights, so that an input
    in thousands and one in thousandths lose alike. Each output has a scale of its own.

    Args:
        weight: [in, out].
        span: Largest magnitude of x, [in] or [1].
        limit: The integer that it becomes; by default as large as the sum allows, 32767 at most.
        unit: x is an integer already and enters as it is.
    """
    if not limit:
        limit = int(min(32767, _LARGEST_SUM // (127 * len(weight))))
    folded = weight if unit else weight * span[:, None]
    step = np.maximum(np.abs(folded).max(axis=0), 1e-30) / 127
    rounded = np.rint(folded / step).astype(np.int8)
    scale = step if unit else step / limit
    return Integers(rounded, scale.astype(np.float32), (limit / span).astype(np.float32), limit)
