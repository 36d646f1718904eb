"""Steps through a policy's LSTM or GRU: whole sequences that are reset on the way, and the single step of acting.

A state is h and c, [layers, B, width] each; a GRU has no c and hands on the one it was given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.policies import lstm_sequence
from understudy.policies.protocol import TensorState
from understudy.policies.tape import Tape

Memory = nn.LSTM | nn.GRU


def blank_state(memory: Memory, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return zeros [layers, batch, width] for h and c."""
    shape = (memory.num_layers, batch, memory.hidden_size)
    return torch.zeros(shape, device=device), torch.zeros(shape, device=device)


def remember(
    memory: Memory, features: Tensor, state: TensorState, episode_start: Tensor | None, tape: Tape | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """[T, B, F] -> [T*B, width] and the next state; runs of steps without a reset go through the memory in one call.

    Args:
        memory: With layers of one width.
        features: [T, B, F].
        state: Before the first step; None for zeros.
        episode_start: [T, B] bool, where the state is reset before the step; None: nowhere. Runs are found on the CPU,
            which waits for nothing if this lies there.
        tape: What acting computed of these steps, with these weights.
    """
    steps, batch = features.shape[:2]
    h, c = blank_state(memory, batch, features.device) if state is None else state
    if episode_start is None:
        out, h, c = _through(memory, features, h, c, tape, slice(0, steps))
        return out.flatten(0, 1), (h, c)
    keep = 1.0 - episode_start.to(features.device, features.dtype, non_blocking=True)
    if steps == 1 and features.dtype == h.dtype and not torch.is_grad_enabled():
        return _one_step(memory, features[0], h * keep[0].view(1, -1, 1), c * keep[0].view(1, -1, 1))
    cuts = [0, *(torch.nonzero(episode_start[1:].any(dim=1)).flatten() + 1).tolist(), steps]
    outputs = []
    for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
        mask = keep[begin].view(1, -1, 1)
        out, h, c = _through(memory, features[begin:end], h * mask, c * mask, tape, slice(begin, end))
        outputs.append(out)
    return torch.cat(outputs).flatten(0, 1), (h, c)


def _through(
    memory: Memory, x: Tensor, h: Tensor, c: Tensor, tape: Tape | None, cut: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """[T, B, F], the steps ``cut`` of the tape -> [T, B, width] and the next h and c."""
    if isinstance(memory, nn.GRU):
        out, h = memory(x, h)
        return out, h, c
    if lstm_sequence.suits(memory, x):
        known = None if tape is None else [part[cut] for part in (tape.gates, tape.cells, tape.squashed, tape.hidden)]
        out, h_last, c_last = lstm_sequence.LstmSequence.apply(x, h[0], c[0], *memory.all_weights[0], known)  # type: ignore[no-untyped-call]
        return out, h_last[None], c_last[None]
    out, (h, c) = memory(x, (h, c))
    return out, h, c


def _one_step(memory: Memory, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """[B, F] -> [B, width], for acting: on a CPU ``nn.LSTM`` takes several times as long for one step."""
    gated, after = isinstance(memory, nn.GRU), []
    for weights, *state in zip(memory.all_weights, h, c, strict=True):
        if gated:
            x, cell = torch.gru_cell(x, state[0], *weights), state[1]
        else:
            x, cell = torch.lstm_cell(x, state, *weights)
        after.append((x, cell))
    h, c = (torch.stack(part) for part in zip(*after, strict=True))
    return x, (h, c)
