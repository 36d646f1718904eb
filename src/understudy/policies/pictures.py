"""Learning from pictures on the CPU: how they lie in memory, and how several threads share a batch.

The channels of a pixel lie side by side, brought there once for all passes over a rollout: what convolutions want.

Each thread takes a part of the batch through the network, forwards and backwards. Against the threads inside PyTorch's
operations there is no waiting at the end of every operation and no spinning while another process has the core.
Results differ by the order of sums alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from understudy.policies.spaces import has_channels_last, members
from understudy.policies.spec import PICTURES, PolicySpec

LEAST = 8
"""Rows that are worth a thread."""
_T = TypeVar("_T")
_R = TypeVar("_R")


def laid_out(spec: PolicySpec, obs: Any) -> Any:
    """Return observations [..., *space.shape] with the channels of every picture last in memory; shapes stay."""
    spaces = members(spec.observations)
    pictures = {e.key: spaces[e.key] for e in spec.encoders if e.type in PICTURES}
    wanted = {key for key, space in pictures.items() if isinstance(space, Box) and not has_channels_last(space)}

    def side_by_side(key: str, x: Tensor) -> Tensor:
        return x.movedim(-3, -1).contiguous().movedim(-1, -3) if key in wanted and x.device.type == "cpu" else x

    return {key: side_by_side(key, x) for key, x in obs.items()} if isinstance(obs, dict) else side_by_side("", obs)


def rows(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return ``x.index_select(dim, index)``, which for pictures that are ``laid_out`` are so again."""
    if x.is_contiguous():
        return x.index_select(dim, index)
    return x.movedim(-3, -1).index_select(dim, index).movedim(-1, -3)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "understudy-network")


def _everywhere(work: Callable[[_T], _R], parts: Iterable[_T], threads: int) -> list[_R]:
    """Do the work on every part, under the caller's precision, which is a thread's own."""
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def one(part: _T) -> _R:
        with torch.autocast("cpu", dtype, enabled=enabled):
            return work(part)

    # The caller takes the first part: the system keeps a thread that it wakes apart from one that works.
    first, *others = parts
    waiting = [_pool(threads - 1).submit(one, part) for part in others]
    return [one(first), *(future.result() for future in waiting)]


class _InThreads(torch.autograd.Function):
    """The network's output, and the gradient of its parameters; there is none for its input."""

    @staticmethod
    def forward(ctx: Any, network: nn.Module, x: Tensor, threads: int, *parameters: Tensor) -> Tensor:
        def work(part: Tensor) -> Tensor:
            with torch.enable_grad():
                out: Tensor = network(part)
                return out

        ctx.parts, ctx.parameters, ctx.threads = _everywhere(work, x.chunk(threads), threads), parameters, threads
        return torch.cat([part.detach() for part in ctx.parts])

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (gradient,) = outputs
        parts = list(zip(ctx.parts, gradient.chunk(ctx.threads), strict=True))

        def work(part: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            out, slope = part
            gradients: tuple[Tensor, ...] = torch.autograd.grad(out, ctx.parameters, slope)
            return gradients

        first, *others = _everywhere(work, parts, ctx.threads)
        ctx.parts = None
        for other in others:
            torch._foreach_add_(first, other)
        return None, None, None, *first


def in_threads(network: nn.Module, x: Tensor, threads: int) -> Tensor:
    """[N, ...] -> what the network makes of it, by ``threads`` threads where the batch is worth them.

    The input gets no gradient. On the CPU alone: elsewhere, as with one thread, the network is simply called.
    """
    threads = min(threads, len(x) // LEAST)
    if threads < 2 or x.device.type != "cpu":
        out: Tensor = network(x)
        return out
    if torch.is_grad_enabled():
        result: Tensor = _InThreads.apply(network, x, threads, *network.parameters())  # type: ignore[no-untyped-call]
        return result

    def work(part: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = network(part)
            return out

    return torch.cat(_everywhere(work, x.chunk(threads), threads))


__all__ = ["in_threads", "laid_out", "rows"]
