"""Tabular grid worlds (Czarnecki 2019, appendix): everything about them can be summed up instead of sampled.

States are the free cells of a grid. The four actions move up, right, down, left; with probability ``noise`` the move is
a random one instead. Moves into walls or over the border leave the agent where it is. Cells with a reward pay it when
they are entered, and end the episode; a chance of ``end`` ends it after any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from understudy.data import Array
from understudy.errors import UserError

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


@dataclass(frozen=True)
class TabularWorld:
    """A Markov decision process as arrays, S states and A actions.

    Attributes:
        start: [S] float64, probabilities of the first state.
        move: [S, A, S] float64, probabilities of the next state; what a row lacks to 1 ends the episode.
        reward: [S, A] float64, expected.
    """

    start: Array
    move: Array
    reward: Array

    @property
    def states(self) -> int:
        """S."""
        return len(self.start)

    @property
    def actions(self) -> int:
        """A."""
        return int(self.move.shape[1])

    def values(self, policy: Array, gamma: float = 1.0) -> tuple[Array, Array]:
        """Return V [S] and Q [S, A] of a policy [S, A]; with gamma 1 every episode must end."""
        moves = np.einsum("sa,sat->st", policy, self.move)
        value = np.linalg.solve(np.eye(self.states) - gamma * moves, (policy * self.reward).sum(1))
        return value, self.reward + gamma * self.move @ value

    def visits(self, policy: Array) -> Array:
        """Return the expected number of visits to each state in one episode, [S]."""
        moves = np.einsum("sa,sat->st", policy, self.move)
        return np.asarray(np.linalg.solve((np.eye(self.states) - moves).T, self.start))

    def optimal(self, gamma: float = 0.99) -> Array:
        """Return the optimal action values [S, A], by policy iteration."""
        best = np.zeros(self.states, np.int64)
        while True:
            q = self.values(np.eye(self.actions)[best], gamma)[1]
            # Ties keep the action, so that this ends.
            better = np.where(q.max(1) > q[np.arange(self.states), best] + 1e-9, q.argmax(1), best)
            if (better == best).all():
                return q
            best = better


def grid_world(rows: tuple[str, ...], rewards: dict[str, float], noise: float = 0.0, end: float = 0.0) -> TabularWorld:
    """Build a world from a drawing: ``#`` wall, ``S`` start, ``.`` free, any other character a reward.

    Args:
        rows: One string per row.
        rewards: What each character pays; entering it ends the episode.
        noise: Probability that a random move is made instead of the chosen one.
        end: Probability that the episode ends after a step.

    Raises:
        UserError: A character without meaning, or no start.
    """
    cells = {(y, x): c for y, row in enumerate(rows) for x, c in enumerate(row)}
    unknown = set(cells.values()) - set("#S.") - set(rewards)
    if unknown or "S" not in cells.values():
        raise UserError(f"grid world: no meaning for {sorted(unknown)}" if unknown else "grid world: no start S")
    free = [cell for cell, c in cells.items() if c in "S."]
    number = {cell: i for i, cell in enumerate(free)}
    move, reward = np.zeros((len(free), len(MOVES), len(free))), np.zeros((len(free), len(MOVES)))
    chance = np.full((len(MOVES), len(MOVES)), noise / len(MOVES)) + (1 - noise) * np.eye(len(MOVES))
    for (y, x), s in number.items():
        for direction, (dy, dx) in enumerate(MOVES):
            there = (y + dy, x + dx)
            there = there if cells.get(there, "#") != "#" else (y, x)
            if there in number:
                move[s, :, number[there]] += chance[:, direction] * (1 - end)
            else:
                reward[s] += chance[:, direction] * rewards[cells[there]]
    starts = np.array([cells[cell] == "S" for cell in free], float)
    return TabularWorld(starts / starts.sum(), move, reward)


def random_world(size: int, rng: np.random.Generator, noise: float = 0.1, end: float = 0.01) -> TabularWorld:
    """Draw a square world that starts in its middle: one cell in five a wall, a few with rewards of 1, 0.5 and -1."""
    cells = rng.choice(list(".#+oX"), (size, size), p=(0.72, 0.2, 0.03, 0.02, 0.03))
    cells[size // 2, size // 2] = "S"
    y, x = (size // 2 + (size // 2 - 1) * rng.choice((-1, 1)) for _ in range(2))
    cells[y, x] = "+"  # there is always something to go for
    return grid_world(tuple("".join(row) for row in cells), {"+": 1.0, "o": 0.5, "X": -1.0}, noise, end)


def soft_policy(values: Array, temperature: float) -> Array:
    """softmax(values / temperature), [S, A]."""
    scaled = np.exp((values - values.max(1, keepdims=True)) / temperature)
    return np.asarray(scaled / scaled.sum(1, keepdims=True))


def in_parts(rng: np.random.Generator, states: int, actions: int, parts: int) -> Array:
    """Draw policies [S, A] whose probabilities are multiples of 1 / parts, none of them 0."""
    extra = rng.multinomial(parts - actions, np.full(actions, 1 / actions), states)
    return np.asarray((1 + extra) / parts)


def shares(probabilities: Array, parts: int) -> Array:
    """Return each index as often as its share of ``parts`` says.

    Raises:
        ValueError: A share is no whole number of parts.
    """
    counts = np.rint(probabilities * parts).astype(int)
    if counts.sum() != parts or not np.allclose(counts, probabilities * parts):
        raise ValueError(f"{probabilities} do not divide into {parts} whole parts")
    return np.repeat(np.arange(len(probabilities)), counts)


def all_trajectories(world: TabularWorld, acts: Array, horizon: int, parts: tuple[int, int, int]) -> dict[str, Array]:
    """Return every trajectory of ``horizon`` steps as often as it is likely, columns [T, B]; episodes follow another.

    Args:
        world: Where.
        acts: [S, A] probabilities of who acts.
        horizon: T.
        parts: In how many equal parts the start's, the actions' and the moves' probabilities divide.
    """
    begin, choose, moves = parts
    first = shares(world.start, begin)
    actions = np.stack([shares(row, choose) for row in acts])
    lacks = 1 - world.move.sum(2, keepdims=True)
    ways = np.concatenate((world.move, lacks), axis=2).reshape(-1, world.states + 1)
    nexts = np.stack([shares(row, moves) for row in ways]).reshape(*world.move.shape[:2], moves)
    state = first
    rows: list[dict[str, Array]] = []
    for _ in range(horizon):
        # Every column so far becomes one for each action, move and start that may follow.
        branch = np.array(list(product(range(choose), range(moves), range(begin))))
        times = len(branch)
        rows = [{name: np.repeat(a, times) for name, a in row.items()} for row in rows]
        state, branch = np.repeat(state, times), np.tile(branch, (len(state), 1))
        action = actions[state, branch[:, 0]]
        after = nexts[state, action, branch[:, 1]]
        ended = after == world.states
        reward = world.reward[state, action]
        rows.append({"obs": state, "choice": action, "reward": reward, "ended": ended})
        state = np.where(ended, first[branch[:, 2]], after)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {"last": state}
