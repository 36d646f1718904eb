"""What one gradient step sees."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from understudy.data import Target
from understudy.policies.tape import Tape


class Batch(NamedTuple):
    """States with what the teacher says about them: [N, ...], or [T, B, ...] in sequences for recurrent students."""

    obs: Any
    """A tensor, or one per key."""
    target: Target | None = None
    """The teacher's parameters [N, P] or [T, B, P] (and values) in unit actions. None: no teacher."""
    state: tuple[Tensor, Tensor] | None = None
    """h and c, [layers, B, width] each, before the first step of the sequences."""
    episode_start: Tensor | None = None
    """[T, B] bool, where the student's memory is reset before the step."""
    valid: Tensor | None = None
    """[N] or [T, B] float32 weights of the states: 0 for burn-in steps and (finite) padding. None: all alike."""
    mask: Tensor | None = None
    """[N, A] or [T, B, A] float32 weights of the action components that a task has; padding is finite. None: all."""
    action: Tensor | None = None
    """What was done: [N, A] float32 unit actions before clipping, or [N] or [N, parts] int64 indices.

    In sequences [T, B, ...], as the columns below.
    """
    log_prob: Tensor | None = None
    """[N], of ``action`` under the policy that the ratio of a clipped policy gradient is taken to."""
    advantage: Tensor | None = None
    """[N], not normalised."""
    target_value: Tensor | None = None
    """[N], what the value function should say: a return estimated from rewards."""
    old_value: Tensor | None = None
    """[N], what the value function said when the states were visited; for clipped value losses."""
    own: Tensor | None = None
    """[N] float32, 1 where the student acted: terms of reinforcement learning count no other states. None: all."""
    targets: tuple[Target | None, ...] = ()
    """Of each of several teachers, shaped as ``target``, in reinforcement learning; None: not asked."""
    tape: Tape | None = None
    """What acting computed of these states with the weights of now. None: nothing is known."""

    @property
    def acted(self) -> Tensor | None:
        """Weights of the states that terms of reinforcement learning count: ``valid`` and ``own``."""
        if self.own is None or self.valid is None:
            return self.valid if self.own is None else self.own
        return self.valid * self.own
