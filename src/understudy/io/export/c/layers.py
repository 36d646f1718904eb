"""The pieces of what a C source computes, as data: matrices, convolutions and inputs."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from understudy.data import Array
from understudy.io.export.c.quantise import Integers


@dataclass
class Matrix:
    """y = activation(x @ weight + bias).

    Attributes:
        weight: [in, out] float32: the inner loop runs over outputs, which lie side by side.
        bias: [out] float32.
        activation: By name, see ``PolicySpec``.
        integers: The same in int8, None for float32.
    """

    weight: Array
    bias: Array
    activation: str = "identity"
    integers: Integers | None = None


@dataclass
class Convolution:
    """A convolution over [H, W, C]; its weight is [K, K, C, O] float32.

    Attributes:
        weight: See above.
        bias: [O].
        stride: Of the kernel.
        pad: Zeros around the picture.
        height: Of the input.
        width: Of the input.
        activation: ``relu`` or ``elu``.
        integers: The same in int8, None for float32.
        next_range: What the next layer takes for the largest output (int8).
        next_limit: The integer that it becomes.
    """

    weight: Array
    bias: Array
    stride: int
    pad: int
    height: int
    width: int
    activation: str
    integers: Integers | None = None
    next_range: float = 1.0
    next_limit: int = 1

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return int((self.height + 2 * self.pad - self.weight.shape[0]) // self.stride + 1)

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return int((self.width + 2 * self.pad - self.weight.shape[1]) // self.stride + 1)

    @property
    def out_size(self) -> int:
        """Numbers of the output."""
        return int(self.out_height * self.out_width * self.weight.shape[3])


@dataclass
class Input:
    """One observation key and its part of the features.

    Attributes:
        key: The key, ``""`` where observations are not a dict.
        size: Numbers that come in.
        ctype: ``float``, ``uint8_t`` or ``int32_t``.
        offset: Where its features begin.
        width: How many features it has.
        encoded: Whether it has features at all; an action mask has none.
        normalizer: (mean, rest of the mean or None, 1 / std), flat, and the bound; None without.
        scale: Numbers are multiplied by it.
        one_hot: Sizes of the parts of a one-hot code; empty for numbers.
        start: What is taken off the whole number of each part first.
        convolutions: Of a picture.
        strides: Of a picture's rows, columns and channels.
        linear: The layer after the convolutions; None without.
        argument: Its name in C.
    """

    key: str
    size: int
    ctype: str
    offset: int
    width: int
    encoded: bool = True
    normalizer: tuple[Array, Array | None, Array, float] | None = None
    scale: float = 1.0
    one_hot: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    convolutions: list[Convolution] = field(default_factory=list)
    strides: tuple[int, int, int] = (0, 0, 0)
    linear: Matrix | None = None
    argument: str = "obs"


def name_arguments(inputs: list[Input]) -> None:
    """Name every input by its key, as far as C can write that, and none like another."""
    names: set[str] = set()
    for one in inputs:
        words = re.sub(r"\W", "_", one.key, flags=re.ASCII).strip("_").lower()
        first = f"obs_{words}" if words else "obs"
        several = (f"{first}_{number}" for number in itertools.count(2))
        one.argument = next(name for name in itertools.chain([first], several) if name not in names)
        names.add(one.argument)
