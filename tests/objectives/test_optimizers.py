"""Our optimisers against those of ``torch.optim``, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.learning.shared_optimizer import SharedOptimizer, shared_shapes
from understudy.objectives.optimizers import Adam, RMSprop

SHAPES = ((7, 5), (5,), (3, 2, 4, 4))
KINDS = {
    "adam": (lambda p: Adam(p, 1e-5), lambda p: torch.optim.Adam(p, 0.0, eps=1e-5, fused=True)),
    "rmsprop": (lambda p: RMSprop(p, 0.99, 1e-5), lambda p: torch.optim.RMSprop(p, 0.0, 0.99, 1e-5, foreach=True)),
}


def parameters() -> list[Tensor]:
    """Return the same three parameters at every call, the last with its channels last in memory."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES]
    found[2] = found[2].to(memory_format=torch.channels_last)
    return [p.requires_grad_() for p in found]


def give(taken: list[Tensor], step: int, without: int | None) -> None:
    """Set gradients that depend on the step alone; one parameter may get none."""
    generator = torch.Generator().manual_seed(step)
    for i, p in enumerate(taken):
        grad = torch.randn(p.shape, generator=generator)
        p.grad = None if i == without else grad


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torch(kind: str) -> None:
    """Fifty steps, at some of which a parameter has no gradient, and a learning rate that falls."""
    make_ours, make_theirs = KINDS[kind]
    mine, theirs = parameters(), parameters()
    ours, reference = make_ours(mine), make_theirs(theirs)
    for step in range(50):
        lr = 1e-2 * (1 - step / 60)
        ours.zero_grad()
        assert all(p.grad is None for p in mine)
        for taken in (mine, theirs):
            give(taken, step, without=1 if step < 10 else None)
        ours.step(lr)
        reference.param_groups[0]["lr"] = lr
        reference.step()
    for p, q in zip(mine, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(kind: str) -> None:
    """What goes on from a state equals what was never interrupted; the state is a copy."""
    make, _ = KINDS[kind]
    whole = parameters()
    optimizer = make(whole)
    for step in range(5):
        give(whole, step, None)
        optimizer.step(1e-2)
    kept, arrays = [p.detach().clone() for p in whole], optimizer.state()
    for step in range(5, 9):
        give(whole, step, None)
        optimizer.step(1e-2)
    resumed = make([p.requires_grad_() for p in kept])
    resumed.restore(arrays)
    for step in range(5, 9):
        give(kept, step, None)
        resumed.step(1e-2)
    assert all(torch.equal(p, q) for p, q in zip(whole, kept, strict=True))


def test_nothing_to_move() -> None:
    """Without any gradient a step changes nothing."""
    taken = parameters()
    Adam(taken).step(1.0)
    assert all(torch.equal(p, q) for p, q in zip(taken, parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_optimizer_leaves_alone_what_has_no_gradient(kind: str) -> None:
    """A3C in its warm-up and after: steps, clipping and norms are those of an optimizer of its own."""
    workers = [[p.detach().contiguous().requires_grad_() for p in parameters()] for _ in range(2)]
    alone = [p.detach().clone().requires_grad_() for p in workers[0]]
    shapes = shared_shapes(nn.ParameterList(alone), len(workers))
    shared = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    shared["parameters"][:] = nn.utils.parameters_to_vector(alone).detach().numpy()
    optimizers = [SharedOptimizer(own, shared, i, kind, 1e-5, 0.99) for i, own in enumerate(workers)]
    reference = KINDS[kind][0](alone)
    for step in range(20):
        shared_one, norms = optimizers[step % 2], []
        shared_one.load()
        for taken, optimizer in ((workers[step % 2], shared_one), (alone, reference)):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            torch.stack([(p * torch.randn(p.shape, generator=generator)).sum() for p in taken]).sum().backward()
            if step < 8:
                taken[1].grad = None
            norms.append(float(nn.utils.clip_grad_norm_(taken, 5.0)))
            optimizer.step(1e-2)
        assert norms[0] == pytest.approx(norms[1])
        expected = nn.utils.parameters_to_vector(alone).detach()
        torch.testing.assert_close(torch.from_numpy(shared["parameters"]), expected)
