"""One update of DDPG, TD3 or SAC in two halves of equal work, which two processes can do side by side.

A half has every second critic with its target and its optimiser, half of the rows where the actor acts and learns, and
half of the actor's parameters where its optimiser moves them; each critic sees all rows, so its gradient is its own
business. What a half needs of the other one goes through shared memory, and at every ``yield`` of ``Half.update`` it
goes on only once the other one has come as far:

    1  actions of its rows: of the targets for the next observations, and of a soft actor for these
    2  the target critics' values of all next actions
    3  the target y; gradient and step of its critics, whose targets follow; a soft actor's actions judged by them
    4  the gradient in the actions: soft, of the rows whose least critic is its own; deterministic, of its rows by the
       first critic
    5  the actor's gradient, of its rows; both halves' are added up, and each steps with its part of the vector

Who does the halves, two processes or one in turn, changes no bit of the result. The equations are in
``continuous_kernel`` and ``off_policy``. N transitions with F features and A action components, K critics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from understudy.data import Array
from understudy.objectives.continuous_kernel import Actor, Critic, Named
from understudy.objectives.flat_adam import VECTORS, shrinkage
from understudy.objectives.flat_parameters import named_views
from understudy.objectives.optimizers import adam_step
from understudy.objectives.wide_layers import keep_freed_memory

Shapes = Mapping[str, tuple[int, ...]]
_LINE = 16
"""Numbers in a cache line. No two processes write to the same one, and none has numbers in two."""


class Order(NamedTuple):
    """What an update is to do, beside its batch."""

    lr: float
    alpha: float
    """Of a soft actor."""
    std: float
    """Of a deterministic target's noise."""
    clip: float
    """Of that noise."""
    tau: float
    moves: bool
    """Whether the actor learns."""
    follows: bool
    """Whether the targets move."""


@dataclass(frozen=True)
class Plan:
    """All that a process needs to know of the networks.

    Attributes:
        actor: Shapes of the actor's parameters, by name.
        critics: Of the critics', with K in front.
        activation: Of all hidden layers.
        soft: Whether the actor is a squashed Gaussian.
        batch: The most rows of an update.
        limit: Of the gradients' norms; 0 for none.
        eps: Of Adam.
    """

    actor: Shapes
    critics: Shapes
    activation: str
    soft: bool
    batch: int
    limit: float
    eps: float

    @property
    def count(self) -> int:
        """K."""
        return next(iter(self.critics.values()))[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.actor["head.bias"][0]

    @property
    def inputs(self) -> int:
        """F + A."""
        return self.critics["weights.0"][2]

    @property
    def work(self) -> int:
        """Multiplications of one pass of all rows through all critics."""
        return self.batch * sum(math.prod(shape) for shape in self.critics.values())

    def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and dtype of every array that the halves share."""
        sizes = {name: sum(math.prod(s) for s in shapes.values()) for name, shapes in self._networks()}
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        for name, size in sizes.items():
            shapes |= {f"{name}:{vector}": ((size,), np.float32) for vector in VECTORS}
            shapes |= {f"{name}:steps": ((1,), np.float32), f"target_{name}:params": ((size,), np.float32)}
        shapes["actor:other_grad"] = ((sizes["actor"],), np.float32)
        rows, of = self.batch, np.float32
        for name in ("x", "next_x"):
            shapes[name] = ((rows, self.inputs - self.actions), of)
        for name in ("action", "noise", "next_noise", "chosen", "next_action", "slope"):
            shapes[name] = ((rows, self.actions), of)
        for name in ("reward", "discount", "weight", "target", "log_prob", "next_log_prob"):
            shapes[name] = ((rows,), of)
        for name in ("q", "next_q", "error"):
            shapes[name] = ((self.count, rows), of)
        wide = np.float64
        shapes |= {"loss": ((self.count,), wide), "squares": ((self.count,), wide), "actor_squares": ((2,), wide)}
        shapes |= {"rows": ((1,), np.int64), "order": ((len(Order._fields),), wide)}
        return shapes

    def _networks(self) -> tuple[tuple[str, Shapes], ...]:
        return ("actor", self.actor), ("critics", self.critics)


class Moved:
    """Parameters that one half moves: parts of a vector, with their gradients, moments and targets."""

    def __init__(self, parts: Mapping[str, list[Tensor]], steps: Array, eps: float) -> None:
        """Take ``VECTORS`` and the list ``target``, which may be empty; ``steps`` [1] counts up elsewhere."""
        self._values, self._grads, self._m, self._v = (parts[name] for name in VECTORS)
        self._targets, self._eps = parts["target"], eps
        self._steps = [torch.from_numpy(steps)[0]] * len(self._values)
        self._flat = [grad.numpy().reshape(-1) for grad in self._grads]

    def square(self) -> float:
        """Return the sum of the gradients' squares."""
        return float(sum(np.dot(grad, grad) for grad in self._flat))

    def shrink(self, factor: float) -> None:
        """Multiply the gradients."""
        for grad in self._flat:
            grad *= factor

    def step(self, lr: float) -> None:
        """Take a step of Adam."""
        adam_step(self._values, self._grads, self._m, self._v, self._steps, lr, self._eps)

    def follow(self, tau: float) -> None:
        """Move the targets by a share of the way; a soft actor has none."""
        for target, value in zip(self._targets, self._values, strict=False):
            target.lerp_(value, tau)


class Half:
    """The first half (0) or the second one (1) of every update."""

    def __init__(self, plan: Plan, memory: Mapping[str, Array], number: int) -> None:
        """Take views of the memory, arrays as ``Plan.shapes`` says."""
        keep_freed_memory()
        self._plan, self._desk, self._number = plan, memory, number
        values, grads, m, v, targets = (
            named_views(memory[f"{where}:{what}"], plan.critics)
            for where, what in (*(("critics", vector) for vector in VECTORS), ("target_critics", "params"))
        )
        self._own = range(number, plan.count, 2)
        self._critics = {k: Critic(values, grads, k, plan.activation) for k in self._own}
        self._target_critics = {k: Critic(targets, None, k, plan.activation) for k in self._own}
        steps = memory["critics:steps"]
        self._moved = {
            k: Moved(
                {
                    name: [tensor[k] for tensor in tensors.values()]
                    for name, tensors in zip((*VECTORS, "target"), (values, grads, m, v, targets), strict=True)
                },
                steps,
                plan.eps,
            )
            for k in self._own
        }
        self._judge = Critic(values, None, 0, plan.activation)
        own = named_views(memory["actor:params"], plan.actor)
        gradient = named_views(memory["actor:other_grad" if number else "actor:grad"], plan.actor)
        self._actor = Actor(own, gradient, plan.activation)
        target: Named = own if plan.soft else named_views(memory["target_actor:params"], plan.actor)
        self._target_actor = self._actor if plan.soft else Actor(target, None, plan.activation)
        size = len(memory["actor:params"])
        middle = size // 2 // _LINE * _LINE
        cut = slice(0, middle) if number == 0 else slice(middle, size)
        parts = {vector: [torch.from_numpy(memory[f"actor:{vector}"][cut])] for vector in VECTORS}
        followers = [] if plan.soft else [torch.from_numpy(memory["target_actor:params"][cut])]
        self._actor_moved = Moved(parts | {"target": followers}, memory["actor:steps"], plan.eps)
        self._other_gradient = memory["actor:other_grad"][cut]
        self._sum = memory["actor:grad"][cut]
        self._joint = torch.empty(plan.batch, plan.inputs)
        self._features = plan.inputs - plan.actions

    def _join(self, x: Array, action: Array) -> Tensor:
        """[n, F] and [n, A] -> [n, F + A], valid until the next call."""
        joint = self._joint[: len(x)]
        array = joint.numpy()
        array[:, : self._features] = x
        array[:, self._features :] = action
        return joint

    def update(self) -> Iterator[None]:
        """Do this half of the update whose order and batch are in the memory."""
        desk, plan, actions = self._desk, self._plan, slice(self._features, None)
        order = Order(*desk["order"].tolist())
        n = int(desk["rows"][0])
        rows = slice(n // 2, n) if self._number else slice(0, n // 2)
        x, next_x = desk["x"][:n], desk["next_x"][:n]
        self._act(order, rows)
        yield
        joint = self._join(next_x, desk["next_action"][:n])
        for k, critic in self._target_critics.items():
            desk["next_q"][k, :n] = critic.forward(joint)
        yield
        after = desk["next_q"][:, :n].min(axis=0) - np.float32(order.alpha) * desk["next_log_prob"][:n]
        target = desk["reward"][:n] + desk["discount"][:n] * after  # ``off_policy.td_target``
        if self._number == 0:
            desk["target"][:n] = target
        joint = self._join(x, desk["action"][:n])
        for k, critic in self._critics.items():
            error = np.subtract(target, critic.forward(joint), out=desk["error"][k, :n])
            weighted = error * desk["weight"][:n]
            desk["loss"][k] = 0.5 * float(weighted @ error) / n
            critic.backward(weighted * np.float32(-1 / n))
            desk["squares"][k] = self._moved[k].square()
        if plan.limit:
            yield
        for k in self._own:
            self._step(self._moved[k], desk["squares"], order)
        if not order.moves:
            return
        if plan.soft:
            joint = self._join(x, desk["chosen"][:n])
            for k, critic in self._critics.items():
                desk["q"][k, :n] = critic.forward(joint)
            yield
            # Critics whose values are exactly equal do not share the gradient, as in autograd: the first has it.
            least = np.argmin(desk["q"][:, :n], axis=0)
            for k, critic in self._critics.items():
                picked = np.flatnonzero(least == k) if plan.count > 1 else None
                desk["slope"][slice(0, n) if picked is None else picked] = critic.action_gradient(
                    picked, -1 / n, actions
                )
            yield
        else:
            yield
            # The first critic's alone (Fujimoto 2018, algorithm 1).
            action, _ = self._actor.forward(torch.from_numpy(x[rows]), desk["noise"][rows])
            self._judge.forward(self._join(x[rows], action))
            desk["slope"][rows] = self._judge.action_gradient(None, -1 / n, actions)
        self._actor.backward(desk["slope"][rows], order.alpha, n)
        yield
        self._sum += self._other_gradient
        desk["actor_squares"][self._number] = self._actor_moved.square()
        if plan.limit:
            yield
        self._step(self._actor_moved, desk["actor_squares"], order)

    def _act(self, order: Order, rows: slice) -> None:
        """Choose the actions of some rows; a soft actor's at once for both observations, deterministic ones later."""
        desk = self._desk
        x, noise, n = desk["next_x"][rows], desk["next_noise"][rows], rows.stop - rows.start
        both = self._plan.soft and order.moves
        if both:
            x, noise = np.concatenate((x, desk["x"][rows])), np.concatenate((noise, desk["noise"][rows]))
        action, log_prob = self._target_actor.forward(torch.from_numpy(x), noise)
        if not self._plan.soft:
            action += np.minimum(np.maximum(order.std * noise, -order.clip), order.clip)
            action = np.minimum(np.maximum(action, -1, out=action), 1, out=action)
        desk["next_action"][rows], desk["next_log_prob"][rows] = action[:n], log_prob[:n]
        if both:
            desk["chosen"][rows], desk["log_prob"][rows] = action[n:], log_prob[n:]

    def _step(self, moved: Moved, squares: Array, order: Order) -> None:
        """Clip the gradient by the norm of the whole one, step, and let the targets follow."""
        if self._plan.limit and (factor := shrinkage(math.sqrt(squares.sum()), self._plan.limit)) < 1:
            moved.shrink(factor)
        moved.step(order.lr)
        if order.follows:
            moved.follow(order.tau)
