"""What a worker is told about itself. It is unpickled there, so this module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from understudy.execution.base import Setup
from understudy.rollouts.buffers import Layout


@dataclass(frozen=True)
class Place:
    """What a worker is told once: its part of the setup, and where things stand in shared memory.

    Attributes:
        setup: The run.
        columns: The worker's environments.
        eval_envs: Environments of its evaluation episodes.
        rollouts: One layout per rollout that can be in the making.
        board: Of the weights.
        beats: Of the step counters.
        number: Which of the counters is the worker's.
        size: Bytes of the block.
        shared: More arrays that all workers see.
        extra: What other bodies than the rollout worker's need to know.
    """

    setup: Setup
    columns: range
    eval_envs: int
    rollouts: tuple[Layout, ...]
    board: Layout
    beats: Layout
    number: int
    size: int
    shared: Layout
    extra: Any = None
