"""Accounting for every tensor of a saved policy: each is taken, dropped by a known name, or the file is refused.

A layout that only looks familiar gives silently wrong actions: CrossQ's tensors are SAC's plus batch renormalisation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from understudy.errors import UserError


class Ledger:
    """The tensors of a file, taken out one by one."""

    def __init__(self, tensors: dict[str, Tensor], where: str) -> None:
        self.left, self.where = dict(tensors), where

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str) -> Tensor:
        """Return a tensor and cross it off.

        Raises:
            UserError: It is not in the file.
        """
        if name not in self.left:
            raise UserError(f"{self.where}: the tensor {name!r} is missing; is the file complete?")
        return self.left.pop(name)

    def take_prefix(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``prefix``, under the rest of their names."""
        names = [name for name in self.left if name.startswith(prefix)]
        return {name[len(prefix) :]: self.left.pop(name) for name in names}

    def take_linear(self, prefix: str) -> dict[str, Tensor]:
        """Return ``weight`` and, where there is one, ``bias`` of a linear layer."""
        layer = {"weight": self.take(f"{prefix}.weight")}
        if layer["weight"].ndim != 2:
            raise UserError(f"{self.where}: {prefix}.weight is not the matrix of a linear layer")
        if f"{prefix}.bias" in self:
            layer["bias"] = self.take(f"{prefix}.bias")
        return layer

    def take_mlp(self, prefix: str) -> list[dict[str, Tensor]]:
        """Return the linear layers at ``prefix.0``, ``prefix.2`` and so on, an activation between each two."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.weight$")
        found = sorted(int(match[1]) for name in self.left if (match := pattern.match(name)))
        if found != list(range(0, 2 * len(found), 2)):
            raise UserError(
                f"{self.where}: {prefix} holds layers at {found}; expected a plain MLP with a layer and an activation "
                "in turn: extra layers (normalisation, dropout) or missing tensors"
            )
        return [self.take_linear(f"{prefix}.{index}") for index in found]

    def finish(self, *unused: str) -> None:
        """Check that nothing is left but tensors under the prefixes ``unused``.

        Raises:
            UserError: A tensor is left that no known layout has.
        """
        left = [name for name in self.left if not name.startswith(unused)] if unused else list(self.left)
        if any(name.endswith((".ra_mean", ".ra_var", ".running_mean", ".running_var")) for name in left):
            raise UserError(f"{self.where}: batch (re)normalisation (as CrossQ has) is not supported: {left[0]!r}")
        if left:
            raise UserError(
                f"{self.where}: {len(left)} tensors are not of any known layout, first {left[0]!r}: a custom network? "
                "Export the policy to TorchScript or ONNX and load that"
            )


def widths(layers: list[dict[str, Tensor]]) -> tuple[int, ...]:
    """Return the output widths of layers."""
    return tuple(int(layer["weight"].shape[0]) for layer in layers)


def check_widths(found: tuple[int, ...], asked: Any, defaults: Sequence[tuple[int, ...]], where: str) -> None:
    """Compare the layers in the file with ``net_arch``, so that a missing layer cannot go unseen.

    Raises:
        UserError: They differ.
    """
    if asked is not None:
        if not isinstance(asked, list) or not all(isinstance(width, int) for width in asked):
            raise UserError(f"{where}: net_arch {asked!r} cannot be read")
        allowed: Sequence[tuple[int, ...]] = [tuple(asked)]
    else:
        allowed = defaults
    if found not in allowed:
        shown = " or ".join(str(list(widths)) for widths in allowed)
        raise UserError(f"{where}: hidden layers are {list(found)}, expected {shown}: tensors are missing or changed")
