"""Convolutions over pictures that have a background in common: what looks the same is computed once.

Most games move a few small things before a picture that stands still. In a batch of Pong 90 of 100 places that the
first layer of the Nature CNN looks at show what they show in all pictures, and 70 of 100 of the second layer's. What
shows the same has the same outputs, and the sum of their gradients for a gradient. So each layer computes one common
picture, and of the others the places that differ from it. Nothing is left out: outputs and gradients are those of the
convolutions, whatever the pictures, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST = 32
"""Pictures in a batch that are worth the search."""
FIRST_SHARE, SHARE = 0.4, 0.6
"""Shares of different places, of the first layer and of others, above which convolving everything is faster."""
_ROWS = 256
"""Matrices have a multiple of so many rows: oneDNN compiles its bfloat16 products anew for every other shape."""


class _Rows(torch.autograd.Function):
    """Rows of a matrix, whose gradients are summed in float32: those of the background have thousands of parts."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, index: Tensor) -> Tensor:
        """[R, C], [K] -> [K, C]."""
        ctx.save_for_backward(index)
        ctx.count = len(matrix)
        return matrix.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """[K, C] -> [R, C]."""
        (gradient,), (index,) = gradients, ctx.saved_tensors
        total = torch.zeros(ctx.count, gradient.shape[1]).index_add_(0, index, gradient.float())
        return total.to(gradient.dtype), None


def convolve(network: nn.Sequential, pictures: Tensor, floats: Callable[[Tensor], Tensor]) -> tuple[Tensor, int] | None:
    """Take pictures through the first layers of a network for as long as most places look the same.

    Args:
        network: Square convolutions without padding, each with a ReLU after it; then anything.
        pictures: [N, H, W, C] bytes, contiguous; N is ``LEAST`` or more.
        floats: From bytes of any shape to the numbers that the first layer is given.

    Returns:
        What comes out [N, C', H', W'], channels last in memory, and how many modules of the network it is through;
        None where even the first layer's places differ too much.
    """
    common = common_picture(pictures)
    first, *others = (layer for layer in network if isinstance(layer, nn.Conv2d))
    if _share(_any_in_windows(_different(pictures[:: LEAST // 4], common), first)) > FIRST_SHARE:
        return None
    differs = _any_in_windows(_different(pictures, common), first)
    places, numbers = _numbered(differs)
    parts = ((common[None], torch.arange(numbers[0].numel())), (pictures, places))
    patches = torch.cat([_patches(source, first, where, numbers.shape[1:]) for source, where in parts])
    rows, layers = _outputs(first, floats(patches)), 1
    for layer in others:
        differs = _any_in_windows(differs, layer)
        if _share(differs) > SHARE:
            break
        windows = _windows(_windows(numbers, 1, layer), 2, layer).flatten(3).flatten(0, 2)  # rows that a place sees
        places, numbers = _numbered(differs)
        whole = numbers[0].numel()
        index = windows.index_select(0, torch.cat([torch.arange(whole), whole + places]))
        patches = _Rows.apply(rows, index.flatten()).view(len(index), -1)  # type: ignore[no-untyped-call]
        rows, layers = _outputs(layer, patches), layers + 1
    out: Tensor = _Rows.apply(rows, numbers[1:].flatten())  # type: ignore[no-untyped-call]
    return out.view(*numbers[1:].shape, -1).permute(0, 3, 1, 2), 2 * layers


def common_picture(pictures: Tensor) -> Tensor:
    """[N, ...] -> [...], of every pixel the median of three medians of three pictures each; N is 9 or more."""
    nine = [pictures[i * len(pictures) // 9] for i in range(9)]
    return _median(*(_median(*nine[i : i + 3]) for i in (0, 3, 6)))


def _median(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _different(pictures: Tensor, common: Tensor) -> Tensor:
    """[N, H, W, C] and [H, W, C] -> [N, H, W], whether a pixel differs."""
    if pictures.shape[-1] == 4:  # of Atari's stacks: one comparison of four bytes, eight times as fast
        return (pictures.view(torch.int32) != common.view(torch.int32)).squeeze(-1)
    return (pictures != common).any(-1)


def _windows(x: Tensor, dim: int, layer: nn.Conv2d) -> Tensor:
    """What the outputs of a layer see along a dimension, a dimension more at the end; a view."""
    return x.unfold(dim, layer.kernel_size[0], layer.stride[0])


def _any_in_windows(differs: Tensor, layer: nn.Conv2d) -> Tensor:
    """[N, H, W] -> [N, H', W'], whether anything differs in what an output of the layer sees."""
    for dim in (1, 2):
        differs = reduce(torch.logical_or, _windows(differs, dim, layer).unbind(-1))
    return differs


def _share(differs: Tensor) -> float:
    return float(differs.count_nonzero()) / differs.numel()


def _numbered(differs: Tensor) -> tuple[Tensor, Tensor]:
    """[N, H, W] -> the places that differ as flat indices [D], and which row holds what a place shows, [1 + N, H, W].

    Rows are the common picture's, of which all places are numbered first, and then the places that differ; to fill up
    their number to one that comes again, the first place some times more, whose rows nobody looks at.
    """
    whole = differs[0].numel()
    places = differs.flatten().nonzero().squeeze(1)
    numbers = torch.arange(whole).repeat(1 + len(differs))
    numbers[whole + places] = torch.arange(whole, whole + len(places))
    places = torch.cat([places, places.new_zeros(-(whole + len(places)) % _ROWS)])
    return places, numbers.view(-1, *differs.shape[1:])


def _patches(pictures: Tensor, layer: nn.Conv2d, places: Tensor, outputs: torch.Size) -> Tensor:
    """What a layer sees [D, k * k * C] at flat places [D] of its outputs [N, H', W'], from [N, H, W, C]."""
    _, height, width, channels = pictures.shape
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    picture, row, column = torch.unravel_index(places, (len(pictures), *outputs))
    pixels = (picture * height + row * stride) * width + column * stride
    starts = pixels[:, None] + width * torch.arange(kernel)
    # The pixels of one row of a window follow each other in memory: row p of this view begins at pixel p.
    runs = pictures.as_strided((pictures.numel() // channels - kernel + 1, kernel * channels), (channels, 1))
    return runs.index_select(0, starts.flatten()).view(len(places), kernel * kernel * channels)


def _outputs(layer: nn.Conv2d, patches: Tensor) -> Tensor:
    """[D, k * k * C] -> [D, C'], after the ReLU."""
    weights = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return functional.relu(functional.linear(patches, weights, layer.bias), inplace=True)


__all__ = ["LEAST", "common_picture", "convolve"]
