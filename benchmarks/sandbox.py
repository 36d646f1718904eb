"""The sandbox of *Distilling Policy Distillation* (Czarnecki 2019): tabular worlds in which nothing is sampled.

    python benchmarks/sandbox.py            # some seconds; --worlds N for more of them, --out FILE for the numbers

Two tables. The first asks of every preset whether the learner's own update, on every trajectory of a small world as
often as it is likely, is the exact one of the paper's equation 1, and whether that is the gradient of anything: its
Jacobian is then symmetric. The second follows exact updates in random grid worlds: whose states should one learn in?
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from understudy.data import Array, Rollout
from understudy.envs.gridworld import (
    TabularWorld,
    all_trajectories,
    grid_world,
    in_parts,
    random_world,
    soft_policy,
)
from understudy.kickstart_job import KickstartJob, resolve
from understudy.kickstarting import Lessons
from understudy.learning.actor_critic import ActorCritic
from understudy.policies.policy import About, Policy
from understudy.rollouts.buffers import new_rollout
from understudy.training_parts import policy_spec


@dataclass(frozen=True)
class Method:
    """One row of the paper's table 1.

    Attributes:
        preset: What ``understudy kickstart`` calls it.
        q: Who acts: ``student`` or ``teacher``.
        loss: l(s): ``H(T, S)``, ``KL(T, S)``, ``H(S, T)``, ``KL(S, T)`` or none.
        reward: What the student is paid: ``env``, ``log T(a)``, ``-l(s')``, ``env + V(s') - V(s)`` or none.
        settings: On top of the preset's.
    """

    preset: str
    q: str = "student"
    loss: str = ""
    reward: str = ""
    settings: Mapping[str, Any] | None = None


METHODS = {
    "distill-teacher": Method("distill-teacher", "teacher", "H(T, S)"),
    "distill-student": Method("distill-student", "student", "H(T, S)"),
    "entropy regularised": Method(
        "eer", "student", "", "log T(a)", {"weight": "0", "reward": "log_prob", "distance": {"name": "auto"}}
    ),
    "n-distill": Method("n-distill", "student", "KL(T, S)", "-l(s')"),
    "n-distill, cross_entropy": Method(
        "n-distill", "student", "H(T, S)", "-l(s')", {"distance": {"name": "cross_entropy"}}
    ),
    "eer": Method("eer", "student", "H(S, T)", "-l(s')"),
    "eer, reverse_kl": Method("eer", "student", "KL(S, T)", "-l(s')", {"distance": {"name": "reverse_kl"}}),
    "kickstarting": Method("kickstarting", "student", "H(T, S)", "env"),
    "value-shaping": Method("value-shaping", "student", "", "env + V(s') - V(s)"),
}
PLAIN = {
    "policy": {"hidden": [], "normalize": False},
    "objective": {
        "gamma": 1.0, "lam": 1.0, "entropy_weight": "0", "normalize_advantage": False, "normalize_reward": False,
    },
    "update": {"epochs": 1, "minibatch": 0, "max_grad_norm": 0.0, "lr": "1"},
}  # fmt: skip
"""Tables instead of networks, sums instead of discounts, one step of plain gradient descent."""


# What is exact: sums over states and actions, by dynamic programming; nothing of the library's objectives.


def losses(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return l(s) [S] and its gradient in the student's logits [S, A]; probabilities [S, A] of both."""
    if name in ("H(T, S)", "KL(T, S)"):
        entropy = (teacher * teacher.log()).sum(1) if name == "KL(T, S)" else 0
        return entropy - (teacher * student.log()).sum(1), student - teacher
    cost = -teacher.log() + (student.log() if name == "KL(S, T)" else 0)
    loss = (student * cost).sum(1)
    return (loss, student * (cost - loss[:, None])) if name else (0 * loss, 0 * student)


def exact_update(
    world: TabularWorld, logits: Tensor, teacher: Array, values: Array, method: Method, horizon: int | None = None
) -> Tensor:
    """Return E_q[sum_t -grad log S(a_t|s_t) sum_{k >= t} r_k + grad l(s_t)], [S, A] (eq. 1); descend along it.

    Args:
        world: Where.
        logits: [S, A] float64 of the student.
        teacher: [S, A] probabilities.
        values: [S] V_T.
        method: Of the update.
        horizon: None: one episode, to its end. A number: that many steps, where a new episode follows one that ends, as
            in rollouts.
    """
    move, pay, target = (torch.as_tensor(a) for a in (world.move, world.reward, teacher))
    start, worth = torch.as_tensor(world.start), torch.as_tensor(values)
    student = logits.softmax(1)
    acts = target if method.q == "teacher" else student
    loss, slope = losses(method.loss, student, target)
    rewards = {
        "": 0 * pay,
        "env": pay,
        "log T(a)": target.log(),
        "-l(s')": -move @ loss,
        "env + V(s') - V(s)": pay + move @ worth - worth[:, None],
    }
    reward = rewards[method.reward]
    go = torch.einsum("sa,sat->st", acts, move)
    if horizon is None:
        one = torch.eye(world.states, dtype=torch.float64)
        visits = torch.linalg.solve((one - go).T, start)
        following = torch.linalg.solve(one - torch.einsum("sa,sat->st", student, move), (student * reward).sum(1))
        return visits[:, None] * (slope - student * (reward + move @ following - following[:, None]))
    visits_by_step = [start]
    for _ in range(horizon - 1):
        after = visits_by_step[-1] @ go
        visits_by_step.append(after + (1 - after.sum()) * start)
    update, following = torch.zeros_like(logits), torch.zeros_like(start)
    for step in reversed(range(horizon)):
        # What is lost beyond the horizon does not count.
        now = 0 * pay if method.reward == "-l(s')" and step == horizon - 1 else reward
        q = now + move @ following
        following = (student * q).sum(1)
        update = update + visits_by_step[step][:, None] * (slope - student * (q - following[:, None]))
    return update


def asymmetry(world: TabularWorld, logits: Array, teacher: Array, values: Array, method: Method) -> float:
    """Return |J - J^T| / |J| (Frobenius) of the update's Jacobian: 0 for the gradient of a function."""

    def update(flat: Tensor) -> Tensor:
        return exact_update(world, flat.view(logits.shape), teacher, values, method).flatten()

    jacobian = torch.autograd.functional.jacobian(update, torch.as_tensor(logits).flatten())
    return float((jacobian - jacobian.T).norm() / jacobian.norm())


# What the learner does: every trajectory, as often as it is likely, through ``ActorCritic.update``.


def tables(world: TabularWorld, policy: Array, values: Array, settings: Any) -> Policy:
    """Return a policy whose weights are these probabilities' logarithms, and values."""
    spaces = gym.spaces.Discrete(world.states), gym.spaces.Discrete(world.actions)
    made = Policy(replace(policy_spec(settings.policy, *spaces, True), head_bias=False), About("table", "teacher"))
    with torch.no_grad():
        made.head.weight.copy_(torch.as_tensor(np.log(policy)).T)
        made.value_head.weight.copy_(torch.as_tensor(values)[None])
        made.value_head.bias.zero_()
    return made


def learner_update(
    world: TabularWorld,
    student: Array,
    teacher: Array,
    values: Array,
    method: Method,
    horizon: int,
    parts: tuple[int, int, int],
) -> Array:
    """Return what ``ActorCritic.update`` descends along, [S, A], summed over steps as in ``exact_update``."""
    found = all_trajectories(world, teacher if method.q == "teacher" else student, horizon, parts)
    envs = found["obs"].shape[1]
    own = {
        "env": {"id": "table"},
        "rollout": {"num_envs": envs, "steps": horizon},
        "teaching": {"teachers": ["table"], **(method.settings or {})},
    }
    settings = resolve({**PLAIN, **own}, [method.preset])
    policy = tables(world, student, np.zeros(world.states), settings)
    job = KickstartJob(settings, (tables(world, teacher, values, settings),), Path(), False)
    rollout = as_rollout(found, policy, method.q == "teacher")
    learner = ActorCritic(policy, settings, optimizer=Descent(policy.parameters()), teaching=Lessons(job)(policy))
    before = policy.head.weight.detach().clone()
    learner.update(rollout, 0)
    return (before - policy.head.weight.detach()).T.numpy() * horizon


class Descent:
    """Plain steps along the gradient, so that what moved is the gradient."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take one step."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=lr)

    def state(self) -> dict[str, Array]:
        """Return nothing: there are no statistics."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Do nothing; see ``state``."""


def as_rollout(found: Mapping[str, Array], policy: Policy, teacher_acted: bool) -> Rollout:
    """Return the rollout that a collector would have written: values are 0, so that returns are sums of rewards."""
    steps, envs = found["obs"].shape
    rollout = new_rollout(policy.observation_space, policy.action_space, steps, envs, policy.spec)
    trace = rollout.trace
    assert trace is not None and isinstance(rollout.obs, np.ndarray) and isinstance(trace.last_obs, np.ndarray)
    rollout.obs[:], rollout.action[:], trace.choice[:] = found["obs"], found["choice"], found["choice"]
    rollout.reward[:], rollout.terminated[:], rollout.teacher_acted[:] = found["reward"], found["ended"], teacher_acted
    rollout.episode_start[0], rollout.episode_start[1:] = True, found["ended"][:-1]
    log_probs = policy.head.weight.detach().T.log_softmax(1).numpy()
    trace.log_prob[:] = log_probs[found["obs"], found["choice"]]
    trace.last_obs[:], trace.last_start[:] = found["last"], found["ended"][-1]
    return rollout


SMALL = {
    "deterministic": (grid_world(("S..", "X#+"), {"+": 1.0, "X": -1.0}), 5, (1, 5, 1)),
    "noisy": (grid_world(("S.X", "#.+"), {"+": 1.0, "X": -1.0}, noise=0.8), 3, (1, 5, 5)),
}
"""Worlds whose trajectories can all be written down: the world, the horizon, and the parts of probabilities."""


def compare_updates(seed: int = 0) -> dict[str, dict[str, float]]:
    """Compare every method's update in the small worlds.

    Returns:
        For each method the greatest error of the learner's update, as a share of the greatest entry of the exact one,
        over the worlds, and the greatest asymmetry.
    """
    found: dict[str, dict[str, float]] = {}
    for name, method in METHODS.items():
        errors, asymmetries = [], []
        for world, horizon, parts in SMALL.values():
            rng = np.random.default_rng(seed)
            student, teacher = (in_parts(rng, world.states, world.actions, parts[1]) for _ in range(2))
            values = rng.normal(size=world.states)
            logits = np.log(student)
            exact = exact_update(world, torch.as_tensor(logits), teacher, values, method, horizon).numpy()
            ours = learner_update(world, student, teacher, values, method, horizon, parts)
            errors.append(float(np.abs(ours - exact).max() / np.abs(exact).max()))
            asymmetries.append(asymmetry(world, logits, teacher, values, method))
        found[name] = {"error": max(errors), "asymmetry": max(asymmetries)}
    return found


# What follows from it: exact updates in random worlds.


class Standing(NamedTuple):
    """Where a student stands against its teacher.

    Attributes:
        replicated: Share of the states that either visits (at least once in 100 episodes) in which their probabilities
            differ by less than 0.1 (total variation).
        kl_student: Mean KL(T||S) over the student's own visits.
        kl_teacher: The same over the teacher's.
        score: Return, where the teacher's is 1 and the uniform policy's 0.
    """

    replicated: float
    kl_student: float
    kl_teacher: float
    score: float


def judge(world: TabularWorld, student: Array, teacher: Array) -> Standing:
    """Measure a student exactly."""
    mine, theirs = world.visits(student), world.visits(teacher)
    seen = (mine > 0.01) | (theirs > 0.01)
    apart = 0.5 * np.abs(student - teacher).sum(1)
    kl = (teacher * np.log(teacher / student)).sum(1)
    uniform = np.full_like(teacher, 1 / world.actions)
    mine_, theirs_, chance = (float(world.start @ world.values(p)[0]) for p in (student, teacher, uniform))
    return Standing(
        float((apart[seen] < 0.1).mean()),
        float(mine @ kl / mine.sum()),
        float(theirs @ kl / theirs.sum()),
        (mine_ - chance) / (theirs_ - chance),
    )


def descend(
    world: TabularWorld, teacher: Array, values: Array, method: Method, looks: Sequence[int], lr: float = 1.0
) -> list[Standing]:
    """Follow exact updates from the uniform policy; returns where the student stands after each number of ``looks``."""
    logits, found = torch.zeros(world.states, world.actions, dtype=torch.float64), []
    for k in range(1, max(looks) + 1):
        logits -= lr * exact_update(world, logits, teacher, values, method)
        if k in looks:
            found.append(judge(world, logits.softmax(1).numpy(), teacher))
    return found


LOOKS = (25, 100, 300)


def follow_updates(worlds: int, size: int = 8) -> dict[str, list[list[Standing]]]:
    """Return for each method, world and look where the student stands; teachers are softmax(Q* / 0.03)."""
    found: dict[str, list[list[Standing]]] = {name: [] for name in METHODS}
    for seed in range(worlds):
        world = random_world(size, np.random.default_rng(seed), noise=0.1, end=0.02)
        teacher = soft_policy(world.optimal(), 0.03)
        values = world.values(teacher)[0]
        for name, method in METHODS.items():
            found[name].append(descend(world, teacher, values, method, LOOKS))
    return found


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=10, help="random worlds of the second table")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, begin = Console(highlight=False), time.perf_counter()
    updates = compare_updates()
    table = Table("method", "q", "l(s)", "reward", "error of the learner's update", "asymmetry", "a gradient")
    for name, row in updates.items():
        method = METHODS[name]
        cells = f"{row['error']:.0e}", f"{row['asymmetry']:.0e}", "yes" if row["asymmetry"] < 1e-6 else "no"
        table.add_row(name, method.q, method.loss or "–", method.reward or "–", *cells)
    console.print(table)
    followed = follow_updates(options.worlds)
    table = Table("method", "updates", "states replicated", "KL, own states", "KL, teacher's", "score")
    table.title = f"exact updates in {options.worlds} random worlds of 8 x 8, means"
    for name, rows in followed.items():
        for k, look in enumerate(LOOKS):
            mean = np.mean([row[k] for row in rows], axis=0)
            table.add_row(name, str(look), f"{mean[0]:.0%}", f"{mean[1]:.3f}", f"{mean[2]:.3f}", f"{mean[3]:.2f}")
    console.print(table)
    console.print(f"{time.perf_counter() - begin:.1f} s")
    if options.out:
        options.out.write_text(json.dumps({"updates": updates, "followed": followed, "looks": LOOKS}, indent=1))


if __name__ == "__main__":
    main()
