"""An LSTM in NumPy gives what PyTorch's layer gives, forwards and backwards."""

import pytest
import torch

from understudy.policies import lstm_sequence
from understudy.policies.recurrence import remember

INPUTS, WIDTH = 7, 5


def found(steps, batch, resets, state):
    """Return outputs and all gradients of a loss that weighs everything that comes out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = torch.nn.LSTM(INPUTS, WIDTH)
        x = torch.randn(steps, batch, INPUTS, requires_grad=True)
        h, c = (torch.randn(1, batch, WIDTH, requires_grad=True) for _ in range(2))
        weights = [torch.randn(shape) for shape in ((steps * batch, WIDTH), (1, batch, WIDTH), (1, batch, WIDTH))]
    start = torch.zeros(steps, batch, dtype=torch.bool)
    for t, b in resets:
        start[t, b] = True
    out, after = remember(memory, x, (h, c) if state else None, start)
    loss = sum((w * each).sum() for w, each in zip(weights, (out, *after), strict=True))
    wanted = [x, *memory.parameters(), *((h, c) if state else ())]
    return [out, *after, *torch.autograd.grad(loss, wanted, allow_unused=True)]


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize(("steps", "batch", "resets"), [(6, 1, []), (9, 2, [(4, 0), (5, 1)]), (1, 3, [(0, 1)])])
def test_outputs_and_gradients_are_those_of_pytorch(monkeypatch, steps, batch, resets, state):
    theirs = found(steps, batch, resets, state)
    calls = []
    apply = lstm_sequence.LstmSequence.apply
    monkeypatch.setattr(lstm_sequence, "WIDE", 0)
    monkeypatch.setattr(lstm_sequence.LstmSequence, "apply", lambda *a: calls.append(1) or apply(*a))
    for one, other in zip(theirs, found(steps, batch, resets, state), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)
    assert len(calls) == len({t for t, _ in resets} | {0})


@pytest.mark.parametrize(
    ("memory", "shape", "fits"),
    [
        (torch.nn.LSTM(288, 256), (20, 1, 288), True),
        (torch.nn.LSTM(288, 256), (20, 2, 288), True),
        (torch.nn.LSTM(288, 256), (128, 1, 288), False),
        (torch.nn.LSTM(16, 32), (20, 1, 16), False),
        (torch.nn.LSTM(288, 256, 2), (20, 1, 288), False),
        (torch.nn.GRU(288, 256), (20, 1, 288), False),
    ],
)
def test_it_is_taken_for_wide_layers_and_few_vectors(memory, shape, fits):
    x = torch.zeros(shape)
    assert lstm_sequence.suits(memory, x) == fits
    assert not lstm_sequence.suits(memory, x.double())
    with torch.no_grad():
        assert not lstm_sequence.suits(memory, x)
