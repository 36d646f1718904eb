"""A rollout's samples into gradient steps: the interface of two peers.

``KernelUpdater`` runs the hand-derived gradient of ``objectives.actor_critic_kernel``, ``AutogradUpdater`` runs
everything else through PyTorch: CNNs, LSTMs, every family. They give the same weights within float tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from understudy.data import Array, Rollout
from understudy.policies.tape import Tape


class Columns(NamedTuple):
    """What the objective needs to know of each sample, [T, B] float32 each."""

    log_prob: Array
    """Of the policy that the ratio is taken to."""
    advantage: Array
    target_value: Array
    old_value: Array


class Updater(Protocol):
    """Holds one rollout and takes gradient steps on parts of it; units are samples, or environments with memory."""

    def load(self, rollout: Rollout, tape: Tape | None = None) -> None:
        """Take a rollout with a trace; it is read until the next one comes.

        ``tape`` is what acting computed with the weights of now, for a first step on all of it in its order.
        """

    def teach(self, labels: Sequence[Mapping[str, Array] | None], own: Array | None = None) -> None:
        """Take what each teacher says about the loaded rollout: columns [T, B, ...] by the names of ``Target``.

        ``own`` [T, B] is where the student acted; None: everywhere.
        """

    def params(self) -> Array:
        """Return what the current weights say about the loaded rollout: parameters [T, B, P] in unit actions."""

    def evaluate(self) -> tuple[Array, Array, Array]:
        """Return log-probabilities [T, B], values [T, B] and last values [B] under the current weights."""

    def arrange(self, columns: Columns, order: Array | None) -> None:
        """Bring the samples into an order of units; None leaves it."""

    def step(self, begin: int, end: int, lr: float, env_steps: int) -> None:
        """Take one gradient step on units ``begin`` to ``end`` of the order."""

    def approx_kl(self) -> float:
        """Return KL(old || new) over the last step's batch."""

    def metrics(self) -> dict[str, float]:
        """Return means over the steps since the last call: loss, its parts, entropy, approx_kl, grad_norm."""

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the optimiser's state."""

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``; the policy's own arrays are restored elsewhere."""
